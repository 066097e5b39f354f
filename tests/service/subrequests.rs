//! What is read of the questions that real proxies asked.

use crate::support::shared::shared;
use http::request::Parts;
use keybound::front::forward_auth::{Flavour, read};
use keybound_core::client_certificate::{ClientCertificate, HeaderFormat, Source};
use keybound_core::{Denial, Field, Refusal, Request};
use std::fs;
use std::path::Path;

/// SHA-256 of the certificate `p256` of the captures.
const P256: &str = "1a6b87150f67c27770ee43c447c7815afc234a26ee77abd53addbbc891cd91e2";
/// SHA-256 of `weird`, whose names hold whatever has a meaning somewhere.
const WEIRD: &str = "ebde812e003a9858b3ea44c1db71558dfefc763846f1655ecb2f473279a6cc0e";

fn question(name: &str) -> Parts {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/forward_auth");
    let text = fs::read_to_string(folder.join(format!("{name}.http.txt"))).unwrap();
    let mut lines = text.lines();
    let mut start = lines.next().unwrap().split(' ');
    let mut question = http::Request::builder().method(start.next().unwrap());
    question = question.uri(start.next().unwrap());
    for line in lines.take_while(|it| !it.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        question = question.header(name, value.trim());
    }
    question.body(()).unwrap().into_parts().0
}

fn envoy(path_prefix: &str) -> Flavour {
    Flavour::Envoy { path_prefix: path_prefix.to_owned() }
}

/// Method, scheme, host and path, and the SHA-256 of the certificate.
fn told(found: &Request<'_>, source: &Source) -> (String, Option<String>) {
    let target = found.target;
    let shown = source.read(&found.evidence);
    let certificate = shown.thumbprint().map(|it| it.to_hex());
    assert_eq!(shown == ClientCertificate::Absent, certificate.is_none(), "{shown:?}");
    let parts = [target.method, target.scheme, target.authority, target.path];
    (parts.join(" "), certificate)
}

#[test]
fn the_request_and_the_certificate_are_found_where_the_proxy_put_them() {
    let format = HeaderFormat::PemUrlencoded;
    let header = Source::Header { name: "x-ssl-client-cert".to_owned(), format };
    let xfcc = Source::Xfcc { behind: vec![] };
    let nginx = Flavour::Nginx;
    for (name, flavour, source, target, certificate) in [
        ("nginx-ok-nocert", &nginx, &header, "POST https api.lab.test /a?x=1", None),
        (
            "nginx-ok-p256",
            &nginx,
            &header,
            "POST https api.lab.test /a//b/../c%2fd?x=1#f",
            Some(P256),
        ),
        ("nginx-ok-weird", &nginx, &header, "POST https api.lab.test /a?x=1", Some(WEIRD)),
        ("http-min-ok", &envoy(""), &xfcc, "POST  api.lab.test /a/b?x=1", None),
        ("http-full-401", &envoy("/check"), &xfcc, "GET http api.lab.test /a/b?x=1", None),
        ("http-full-ok", &envoy("/check"), &xfcc, "POST http api.lab.test /a/b?x=1", None),
        ("http-mtls-ok", &envoy("/check"), &xfcc, "POST https api.lab.test /a/b?x=1", Some(P256)),
        ("http-body-ok", &envoy("/check"), &xfcc, "POST http api.lab.test /a", None),
        ("http-websocket", &envoy(""), &xfcc, "GET  api.lab.test /ws", None),
    ] {
        let question = question(name);
        let found = read::request(&question, flavour, Some("x-ssl-client-cert")).unwrap();
        let expected = (target.to_owned(), certificate.map(str::to_owned));
        assert_eq!(told(&found, source), expected, "{name}");
        assert_eq!(found.policy, None, "{name}");
        assert!(matches!(found.authorization, Field::One(it) if it.starts_with(b"Bearer ")));
    }
}

#[test]
fn what_one_proxy_asks_is_no_question_of_another() {
    for (name, flavour) in [
        ("nginx-ok-p256", envoy("")),
        ("nginx-ok-p256", Flavour::Traefik),
        ("http-full-ok", Flavour::Nginx),
        ("http-full-ok", Flavour::Traefik),
        ("http-min-ok", envoy("/check")),
        // `path_override`: every request would be checked as one for the same path.
        ("http-override-ok", envoy("/check")),
    ] {
        let question = question(name);
        let found = read::request(&question, &flavour, None).map(|it| it.target.path.to_owned());
        let found = found.map_err(|it| Refusal::from(it).denial);
        assert_eq!(found, Err(Denial::RequestMalformed), "{name} {flavour:?}");
    }
}

#[test]
fn every_capture_is_as_it_was_taken() {
    let Some(taken) = shared("fixtures/envoy") else { return };
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/forward_auth");
    for entry in fs::read_dir(ours).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "txt") {
            let original = fs::read(taken.join(path.file_name().unwrap())).unwrap();
            assert!(fs::read(&path).unwrap() == original, "{}", path.display());
        }
    }
}
