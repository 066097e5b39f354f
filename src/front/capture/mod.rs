//! Knows how refused requests are kept for `explain`: a few of them, off the path of checks, and
//! without what would make them worth stealing.

use crate::answer::Answer;
use crate::clock::{Clock, UnixTime};
use crate::front::ext_authz::pb::envoy::service::auth::v3::CheckRequest;
use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use bytes::Bytes;
use prost::Message;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What is kept, and where.
#[derive(Clone, Debug)]
pub struct CaptureRules {
    /// The folder, which must be there.
    pub folder: PathBuf,
    /// The labels of the reasons for which requests are kept; empty: all.
    pub reasons: Vec<String>,
    /// So many are in the folder at most.
    pub most: usize,
    /// More header names, in lower case, whose values are kept.
    pub headers: Vec<String>,
}

/// Takes refused requests, and never makes a check wait.
pub struct Capture {
    reasons: Vec<String>,
    clock: Arc<dyn Clock>,
    queue: SyncSender<Taken>,
}

/// A request on its way to the folder.
struct Taken {
    message: Bytes,
    reason: String,
    at: UnixTime,
}

/// So many may wait to be written; what comes beyond that is not kept.
const QUEUE: usize = 64;

impl Capture {
    /// A capture, with a thread that writes until it is dropped.
    pub fn start(rules: CaptureRules, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let kept = kept_in(&rules.folder)?;
        let (queue, taken) = sync_channel(QUEUE);
        let reasons = rules.reasons.clone();
        std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || write_all(&rules, kept, &taken))?;
        Ok(Self { reasons, clock, queue })
    }

    /// Takes the request in `message` if `answer` refuses it, or would if its policy did more than
    /// report.
    pub fn take(&self, message: &Bytes, answer: &Answer<'_>) {
        let Some(reason) = refusal(answer).filter(|it| self.wants(it)) else { return };
        let (message, reason, at) = (message.clone(), reason.to_owned(), self.clock.now());
        // One that finds no room is one of many.
        drop(self.queue.try_send(Taken { message, reason, at }));
    }

    fn wants(&self, reason: &str) -> bool {
        self.reasons.is_empty() || self.reasons.iter().any(|it| it == reason)
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("reasons", &self.reasons).finish_non_exhaustive()
    }
}

fn refusal<'a>(answer: &'a Answer<'_>) -> Option<&'a str> {
    let (name, metadata) = match answer {
        Answer::Allow { metadata, .. } => ("would_deny", metadata),
        Answer::Deny { metadata, .. } => ("reason", metadata),
    };
    metadata.iter().find(|(it, _)| *it == name).map(|(_, value)| *value)
}

/// How many requests are in the folder, from this process and from others before.
fn kept_in(folder: &Path) -> io::Result<usize> {
    let mut kept = 0_usize;
    for entry in fs::read_dir(folder)? {
        let is_one = entry?.path().extension().is_some_and(|it| it == EXTENSION);
        kept = kept.saturating_add(usize::from(is_one));
    }
    Ok(kept)
}

const EXTENSION: &str = "pb";

fn write_all(rules: &CaptureRules, mut kept: usize, taken: &Receiver<Taken>) {
    let mut number = 0_u64;
    while let Ok(Taken { message, reason, at }) = taken.recv() {
        if rules.most <= kept {
            continue;
        }
        let Some(message) = blanked(&message, &rules.headers) else { continue };
        number = number.saturating_add(1);
        let name = format!("{}-{reason}-{}-{number}", at.to_rfc3339(), std::process::id());
        let file = rules.folder.join(format!("{name}.{EXTENSION}"));
        match write(&file, &message) {
            Ok(()) => {
                kept = kept.saturating_add(1);
                tracing::info!(file = %file.display(), "refused request kept");
            }
            Err(error) => tracing::warn!(%error, "refused request not kept"),
        }
        if kept == rules.most {
            tracing::warn!(kept, "no more refused requests are kept");
        }
    }
}

fn write(path: &Path, message: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(message)
}

/// A request without what would make it worth stealing: no signatures, no opaque token, no values
/// in the query, no body, and of the other headers no more than their names. Nothing when it
/// cannot be read, for then nobody knows what it holds.
fn blanked(message: &[u8], also: &[String]) -> Option<Vec<u8>> {
    let mut request = CheckRequest::decode(message).ok()?;
    let attributes = request.attributes.as_mut()?;
    (attributes.metadata_context, attributes.route_metadata_context) = (None, None);
    if let Some(http) = attributes.request.as_mut().and_then(|it| it.http.as_mut()) {
        blank(http, also);
    }
    Some(request.encode_to_vec())
}

fn blank(http: &mut HttpRequest, also: &[String]) {
    http.body.clear();
    http.raw_body.clear();
    http.query.clear();
    http.path = without_values(&http.path);
    for (name, value) in &mut http.headers {
        *value = header_value(name, value, also);
    }
    for line in http.header_map.iter_mut().flat_map(|it| &mut it.headers) {
        line.value = header_value(&line.key, &line.value, also);
        // A byte outside of UTF-8 makes no difference to any check of these headers.
        let raw = String::from_utf8_lossy(&line.raw_value);
        line.raw_value = header_value(&line.key, &raw, also).into_bytes();
    }
}

/// The values of headers that checks look at and that are no secrets.
const TELLING: [&str; 3] = ["x-forwarded-client-cert", "x-request-id", "traceparent"];

fn header_value(name: &str, value: &str, also: &[String]) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "authorization" => authorization(value),
        "dpop" => without_signature(value),
        it if TELLING.contains(&it) || also.contains(&name) => value.to_owned(),
        _ => String::new(),
    }
}

/// The scheme as it is; of each piece that may be a token, what is not secret.
fn authorization(value: &str) -> String {
    let (scheme, rest) = value.split_once(' ').unwrap_or(("", value));
    let is_scheme =
        scheme.len() <= SCHEME_CHARS && scheme.bytes().all(|it| it.is_ascii_alphabetic());
    let scheme = if is_scheme { scheme.to_owned() } else { filled(scheme) };
    let known = ["bearer", "dpop"].iter().any(|it| scheme.eq_ignore_ascii_case(it));
    let piece = |it| if known { without_signature(it) } else { filled(it) };
    let rest: Vec<_> = rest.split(' ').map(piece).collect();
    let between = if value.contains(' ') { " " } else { "" };
    format!("{scheme}{between}{}", rest.join(" "))
}

/// No scheme has a longer name, and many a secret does.
const SCHEME_CHARS: usize = 16;

/// A JWT with a signature of zeros; whatever is none, with nothing left but its form.
fn without_signature(jwt: &str) -> String {
    match jwt.rsplit_once('.') {
        Some((signed, signature)) if signed.matches('.').count() == 1 && !jwt.contains(',') => {
            format!("{signed}.{}", filled(signature))
        }
        Some(_) | None => filled(jwt),
    }
}

/// As many `A`s as there are characters that a token may have, and all others as they are.
fn filled(text: &str) -> String {
    let fill = |it: char| if it.is_alphanumeric() || "-_~+/".contains(it) { 'A' } else { it };
    text.chars().map(fill).collect()
}

/// A path whose query has names and no values.
fn without_values(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let blank = |part: &str| match part.split_once('=') {
        Some((name, _)) => format!("{name}="),
        None => part.to_owned(),
    };
    let parts: Vec<_> = query.split('&').map(blank).collect();
    format!("{path}?{}", parts.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::front::ext_authz::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    use crate::front::ext_authz::pb::envoy::service::auth::v3::AttributeContext;
    use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context::Request;
    use crate::front::ext_authz::wire;
    use crate::request::Field;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nothing_is_left_of_a_credential_but_what_cannot_be_used() {
        for (value, left) in [
            ("Bearer aa.bb.c-_9", "Bearer aa.bb.AAAA"),
            ("DPoP aa.bb.cc", "DPoP aa.bb.AA"),
            ("bearer  aa.bb.cc", "bearer  aa.bb.AA"),
            ("Bearer opaque-7", "Bearer AAAAAAAA"),
            ("Bearer a.b", "Bearer A.A"),
            ("Bearer a.b.c.d", "Bearer A.A.A.A"),
            ("Bearer a.b.cc,Bearer a.b.cc", "Bearer A.A.AA,AAAAAA a.b.AA"),
            ("Basic dXNlcjpwYXNz", "Basic AAAAAAAAAAAA"),
            ("aa.bb.cc", "AA.AA.AA"),
            ("c2VjcmV0c2VjcmV0c2VjcmV0 x", "AAAAAAAAAAAAAAAAAAAAAAAA A"),
            ("", ""),
        ] {
            assert_eq!(header_value("Authorization", value, &[]), left, "{value}");
        }
        assert_eq!(header_value("dpop", "aa.bb.cc", &[]), "aa.bb.AA");
        assert_eq!(header_value("dpop", "secret", &[]), "AAAAAA");
        assert_eq!(header_value("cookie", "session=1", &[]), "");
        assert_eq!(header_value("X-Cert", "c", &["x-cert".to_owned()]), "c");
        assert_eq!(without_values("/a?x=1&access_token=t&y#z"), "/a?x=&access_token=&y#z");
    }

    fn message() -> Bytes {
        let line = |key: &str, value: &str| HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let headers = vec![line("authorization", "Bearer aa.bb.secret"), line("cookie", "secret")];
        let http = HttpRequest {
            method: "GET".to_owned(),
            path: "/a?b=secret".to_owned(),
            body: "secret".to_owned(),
            headers: [("dpop".to_owned(), "aa.bb.secret".to_owned())].into(),
            header_map: Some(HeaderMap { headers }),
            ..HttpRequest::default()
        };
        let request = Some(Request { http: Some(http), ..Request::default() });
        let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
        CheckRequest { attributes }.encode_to_vec().into()
    }

    #[test]
    fn what_is_kept_can_be_checked_and_holds_no_secret() {
        let kept = blanked(&message(), &[]).unwrap();
        assert!(!String::from_utf8_lossy(&kept).contains("secret"));
        let request = wire::read(&kept, None).unwrap();
        assert_eq!(request.authorization, Field::One(b"Bearer aa.bb.AAAAAA"));
        assert_eq!(request.proof, Field::One(b"aa.bb.AAAAAA"));
        assert_eq!(request.target.path, "/a?b=");
        assert_eq!(blanked(b"\xff", &[]), None);
    }

    fn answer(reason: &'static str) -> Answer<'static> {
        let metadata = vec![("decision", "deny"), ("reason", reason)];
        Answer::Deny { status: 401, to_client: vec![], body: String::new(), metadata }
    }

    /// What is in the folder once all has been written.
    fn kept(rules: &CaptureRules, answers: &[Answer<'_>]) -> Vec<PathBuf> {
        let folder = rules.folder.clone();
        let (queue, taken) = sync_channel(QUEUE);
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
        let capture = Capture { reasons: rules.reasons.clone(), clock, queue };
        for answer in answers {
            capture.take(&message(), answer);
        }
        drop(capture);
        write_all(rules, kept_in(&folder).unwrap(), &taken);
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        names.sort();
        names
    }

    fn rules(folder: &Path, reasons: &[&str], most: usize) -> CaptureRules {
        let reasons = reasons.iter().map(ToString::to_string).collect();
        CaptureRules { folder: folder.to_owned(), reasons, most, headers: vec![] }
    }

    #[test]
    fn refused_requests_are_kept_up_to_a_number_and_for_the_reasons_that_are_wanted() {
        let allowed =
            |metadata| Answer::Allow { set: vec![], remove: vec![], to_client: vec![], metadata };
        let answers = [
            answer("token_expired"),
            answer("certificate_mismatch"),
            allowed(vec![("decision", "allow"), ("reason", "allowed")]),
            allowed(vec![("decision", "allow"), ("would_deny", "token_expired")]),
        ];
        for (reasons, most, expected) in [
            (&[][..], 10, 3),
            (&[], 2, 2),
            (&[], 0, 0),
            (&["token_expired"], 10, 2),
            (&["token_malformed"], 10, 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let found = kept(&rules(folder.path(), reasons, most), &answers);
            assert_eq!(found.len(), expected, "{reasons:?} {most}");
            // What a process before this one kept counts as well.
            let again = kept(&rules(folder.path(), &[], expected), &[answer("internal")]);
            assert_eq!(again.len(), expected);
        }
    }

    #[test]
    fn a_file_says_when_and_why_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let found = kept(&rules(folder.path(), &[], 10), &[answer("token_expired")]);
        let name = found[0].file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("2027-01-15T08:00:00Z-token_expired-"), "{name}");
        assert!(found[0].extension().is_some_and(|it| it == EXTENSION), "{name}");
        assert_eq!(fs::metadata(&found[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_folder_must_be_there() {
        let rules = rules(Path::new("/nonexistent"), &[], 1);
        assert!(Capture::start(rules, Arc::new(ManualClock::default())).is_err());
    }
}
