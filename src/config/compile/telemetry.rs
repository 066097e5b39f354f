//! The part of the configuration about telemetry: what is recorded about checks, and where it is
//! sent.

use super::files::{self, Files};
use super::url::{PlainHttp, fetched};
use crate::config::Telemetry;
use crate::config::file::telemetry as file;
use crate::config::problem::{Findings, Path, quoted};
use crate::config::usual;
use crate::telemetry::collector::Collector;
use crate::telemetry::sample::Share;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};
use reqwest::Url;

/// Returns `None` if a part is missing, which is then among the findings.
pub(super) fn compile(
    given: file::Telemetry,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Telemetry> {
    let wants_collector = given.otlp.is_some();
    let collector = given.otlp.and_then(|it| collector(it, &at.key("otlp"), files, findings));
    let ratio = given.log.unwrap_or_default().allow_sample;
    let log_allows = share(ratio.unwrap_or(0.0), &at.key("log").key("allow_sample"), findings);
    let complete = collector.is_some() == wants_collector;
    complete.then_some(Telemetry { collector, log_allows })
}

fn collector(
    given: file::Otlp,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Collector> {
    let endpoint = endpoint(given.endpoint, &at.key("endpoint"), findings);
    let mut read = |key, name: Option<String>| {
        // The headers may hold an API key.
        let read = |name: &str| {
            if key == "headers_file" { files.read_secret(name) } else { files.read(name) }
        };
        let read = name.map(|name| read(&name).map(|it| (files.path(&name), it)));
        read.transpose().map_err(|message| findings.problem(&at.key(key), message)).ok()
    };
    let ca = read("ca_file", given.ca_file);
    let headers = read("headers_file", given.headers_file);
    if let Some(Some((path, pem))) = &ca
        && let Err(reason) = files::authorities(pem)
    {
        findings.problem(&at.key("ca_file"), format!("{} {reason}", path.display()));
    }
    let headers = headers?.map_or(Ok(vec![]), |(path, text)| {
        parsed(&text).map_err(|reason| format!("{} {reason}", path.display()))
    });
    let headers = headers.map_err(|it| findings.problem(&at.key("headers_file"), it)).ok();
    let sample =
        share(given.sample_ratio.unwrap_or(usual::SAMPLE_RATIO), &at.key("sample_ratio"), findings);
    let service_name = given.service_name.unwrap_or_else(|| usual::SERVICE_NAME.to_owned());
    if service_name.is_empty() {
        findings.problem(&at.key("service_name"), "must not be empty");
    }
    let ca = ca?.map(|(_, pem)| pem);
    Some(Collector { endpoint: endpoint?, ca, headers: headers?, sample, service_name })
}

fn endpoint(given: Option<String>, at: &Path, findings: &mut Findings) -> Option<Url> {
    let what = "give the URL that takes spans, as in http://127.0.0.1:4318/v1/traces";
    let text = findings.required(given, at, what)?;
    let url = fetched(&text, PlainHttp::Never).and_then(|_| match Url::parse(&text) {
        Ok(url) if url.path() == "/" => {
            Err(format!("{} has no path: collectors take traces at /v1/traces", quoted(&text)))
        }
        Ok(url) => Ok(url),
        Err(_) => Err(format!("{} is not a URL", quoted(&text))),
    });
    url.map_err(|message| findings.problem(at, message)).ok()
}

fn share(ratio: f64, at: &Path, findings: &mut Findings) -> Share {
    Share::of(ratio).unwrap_or_else(|| {
        findings.problem(at, format!("must be 0 to 1, not {ratio}"));
        Share::NONE
    })
}

/// Parses headers, one per line. No message quotes a line, which may hold a secret.
fn parsed(text: &[u8]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let text = str::from_utf8(text).or(Err("is not UTF-8"))?;
    let mut headers = Vec::new();
    let lines = text.lines().map(str::trim).zip(1_usize..);
    for (line, number) in lines.filter(|(it, _)| !it.is_empty() && !it.starts_with('#')) {
        let header = line.split_once(':').and_then(|(name, value)| {
            let value = HeaderValue::from_str(value.trim()).ok()?;
            Some((name.trim().parse::<HeaderName>().ok()?, value))
        });
        let Some((name, mut value)) = header else {
            return Err(format!("has no header in line {number}: write NAME: VALUE"));
        };
        if [CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING].contains(&name) {
            return Err(format!("names {name} in line {number}, which cannot be set"));
        }
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
}
