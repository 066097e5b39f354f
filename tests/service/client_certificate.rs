//! Every way in which a real Envoy (1.40.0) tells of the client's certificate, and every captured
//! attempt to make it tell of another one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use keybound_core::client_certificate::ClientCertificate::{self, Absent, Conflict, Malformed};
use keybound_core::client_certificate::{HeaderFormat, Source};
use keybound_core::jose::Thumbprint;
use keybound_core::words::Words;
use keybound_core::{Evidence, Field, PeerCertificate};
use prost::Message;
use std::fs;
use std::path::{Path, PathBuf};

/// Whose certificate the attacks are after.
const VICTIM: &str = "p256";
const EDGE: &str = "spiffe://lab.test/ns/istio-system/sa/ingress";
const DIRECT: &[&str] = &[];
const BEHIND_EDGE: &[&str] = &[EDGE];

#[test]
fn envoys_own_word_is_the_certificate_of_its_peer() {
    for (fixture, expected) in [
        ("cert-p256", of("p256")),
        ("cert-p256-h2", of("p256")),
        ("cert-p256-nosan", of("p256-nosan")),
        ("cert-p256-root", of("p256-root")),
        ("cert-p384", of("p384")),
        ("cert-rsa", of("rsa")),
        ("cert-ed25519-sigalgs", of("ed25519")),
        ("cert-weird", of("weird")),
        ("cert-weird-map", of("weird")),
        ("untrusted-selfsigned", of("selfsigned")),
        ("untrusted-expired", of("expired")),
        ("untrusted-inject", of("inject")),
        ("untrusted-inject-crlf", of("inject-crlf")),
        ("inj-all-element", of("inject-element")),
        ("xfcc-mtls-always_forward_only-forged", of("p256")),
        // In a sidecar it is the gateway's.
        ("twohop-sanitize_set-append_forward", of("edge")),
        // No certificate, and no option to tell it.
        ("untrusted-nocert", Absent),
        ("xfcc-plain-always_forward_only-forged", Absent),
        ("xfcc-mtls-default-clean", Absent),
        ("istio-like-mutual-p256.1", Absent),
    ] {
        check(fixture, &Source::Peer, expected);
    }
}

#[test]
fn one_element_is_the_client_on_a_direct_hop() {
    for (fixture, expected) in [
        ("cert-p256", of("p256")),
        ("cert-p256-h2", of("p256")),
        ("cert-p256-nosan", of("p256-nosan")),
        ("cert-p256-root", of("p256-root")),
        ("cert-p384", of("p384")),
        ("cert-rsa", of("rsa")),
        ("cert-ed25519-sigalgs", of("ed25519")),
        ("optional-p256", of("p256")),
        ("text-issuer-p256", of("p256")),
        ("untrusted-selfsigned", of("selfsigned")),
        ("untrusted-selfsigned-expired", of("selfsigned-expired")),
        ("untrusted-expired", of("expired")),
        ("xfcc-only-hash", of("p256")),
        ("xfcc-only-hash-nosan", of("p256-nosan")),
        ("xfcc-only-cert", of("p256")),
        ("xfcc-only-chain", of("p256")),
        ("xfcc-only-subject", of("p256")),
        ("xfcc-only-uri", of("p256")),
        ("xfcc-only-dns", of("p256")),
        ("xfcc-mtls-append_forward-clean", of("p256")),
        ("xfcc-mtls-sanitize_set-clean", of("p256")),
        ("xfcc-mtls-sanitize_set-forged", of("p256")),
        ("xfcc-mtls-sanitize_set-forged-twice", of("p256")),
        ("xfcc-untrusted-sanitize_set-forged", of("selfsigned")),
        ("istio-like-mutual-p256.1", of("p256")),
        ("istio-like-mutual-p256-nosan.1", of("p256-nosan")),
        ("istio-like-mutual-rsa.1", of("rsa")),
        ("istio-gateway-sidecar.1", of("p256")),
        // A comma or a quote in a SAN, forwarded: the price of the strict grammar.
        ("cert-weird", Malformed),
        ("cert-weird-map", Malformed),
        ("text-issuer-weird", Malformed),
        ("istio-gateway-sidecar-weird.1", Malformed),
    ] {
        check(fixture, &xfcc(DIRECT), expected);
    }
}

#[test]
fn the_json_form_tells_any_certificate() {
    for (fixture, expected) in [
        ("json-p256", of("p256")),
        ("json-min-p256", of("p256")),
        ("json-append-clean", of("p256")),
        ("json-weird", of("weird")),
        ("json-min-weird", of("weird")),
        ("json-inject", of("inject")),
        ("json-min-inject", of("inject")),
        ("json-inject-element", of("inject-element")),
        ("json-min-inject-element", of("inject-element")),
        ("json-append-forged-json", Malformed),
        ("json-append-forged-text", Malformed),
        ("edge-json-p256", Conflict),
    ] {
        check(fixture, &xfcc(DIRECT), expected);
    }
    for (fixture, expected) in [
        ("edge-json-p256", of("p256")),
        ("edge-json-weird", of("weird")),
        ("edge-json-inject", of("inject")),
        ("edge-json-inject-element", of("inject-element")),
        ("json-p256", Conflict),
    ] {
        check(fixture, &xfcc(BEHIND_EDGE), expected);
    }
}

#[test]
fn no_header_is_no_certificate_whoever_the_peer_is() {
    for fixture in [
        "xfcc-mtls-sanitize-clean",
        "xfcc-mtls-sanitize-forged",
        "xfcc-mtls-forward_only-clean",
        "xfcc-plain-append_forward-forged",
        "xfcc-plain-sanitize_set-forged",
        "xfcc-tls-append_forward-forged",
        "xfcc-optional-sanitize_set-forged",
        "untrusted-nocert",
        "istio-like-simple-tls.1",
    ] {
        check(fixture, &xfcc(DIRECT), Absent);
        check(fixture, &xfcc(BEHIND_EDGE), Absent);
    }
}

#[test]
fn a_header_of_the_clients_own_is_never_a_certificate() {
    for fixture in [
        "xfcc-mtls-append_forward-forged",
        "xfcc-mtls-append_forward-forged-twice",
        "xfcc-mtls-forward_only-forged",
        "xfcc-mtls-always_forward_only-forged",
        "xfcc-untrusted-append_forward-forged",
        "xfcc-untrusted-forward_only-forged",
        "xfcc-plain-always_forward_only-forged",
        "xfcc-plain-always_forward_only-forged-twice",
        "xfcc-tls-always_forward_only-forged",
        "xfcc-optional-always_forward_only-forged",
        "istio-like-append-forged.1",
        "istio-like-append-forged.2",
        "istio-like-mesh-peer-forged",
        "twohop-append_forward-append_forward-forged",
        "twohop-append_forward-forward_only-forged",
    ] {
        check(fixture, &xfcc(DIRECT), Malformed);
        check(fixture, &xfcc(BEHIND_EDGE), Malformed);
    }
}

#[test]
fn behind_a_gateway_the_client_is_in_front_of_it() {
    for (fixture, expected) in [
        ("twohop-sanitize_set-append_forward", of("p256")),
        ("twohop-sanitize_set-append_forward-forged", of("p256")),
        ("twohop-append_forward-append_forward", of("p256")),
        ("istio-gateway-sidecar.2", of("p256")),
        ("istio-like-mutual-p256.2", of("p256")),
        ("istio-like-mutual-p256-nosan.2", of("p256-nosan")),
        ("istio-like-mutual-rsa.2", of("rsa")),
        ("istio-gateway-sidecar-weird.2", Malformed),
        // The gateway alone: the client has shown it no certificate, or the sidecar has replaced
        // the gateway's word by its own.
        ("istio-like-simple-tls.2", Conflict),
        ("twohop-sanitize_set-sanitize_set", Conflict),
        ("twohop-append_forward-sanitize_set-forged", Conflict),
        // The client alone: nothing shows that it was the gateway who said so.
        ("twohop-sanitize_set-forward_only", Conflict),
        ("twohop-append_forward-forward_only", Conflict),
        // No gateway at all.
        ("cert-p256", Conflict),
        ("istio-like-mutual-p256.1", Conflict),
    ] {
        check(fixture, &xfcc(BEHIND_EDGE), expected);
    }
}

#[test]
fn a_gateway_is_known_by_its_hash_as_well() {
    let edge = hex("edge");
    let other = hex("p256");
    for fixture in ["twohop-sanitize_set-append_forward", "istio-like-mutual-p256.2"] {
        check(fixture, &xfcc(&[&edge]), of("p256"));
        check(fixture, &xfcc(&[&other]), Conflict);
        check(fixture, &xfcc(&["spiffe://lab.test/ns/app/sa/backend"]), Conflict);
        check(fixture, &xfcc(&[EDGE, EDGE]), Conflict);
        check(fixture, &xfcc(DIRECT), Conflict);
    }
}

#[test]
fn a_certificate_whose_names_spell_elements_speaks_for_itself_or_not_at_all() {
    for (fixture, expected) in [
        // The proxy forwards no names: nothing is injected.
        ("inj-cert-element", of("inject-element")),
        ("inj-cert-hash", of("inject-hash")),
        ("inj-cert-openquote", of("inject-openquote")),
        ("inj-cert-pair", of("inject-pair")),
        ("inj-cert-quote", of("inject-quote")),
        ("inj-all-element", Conflict),
        ("inj-all-hash", Malformed),
        ("inj-all-openquote", Malformed),
        ("inj-all-pair", Malformed),
        ("inj-all-quote", Malformed),
        ("inj-uri-element", Conflict),
        ("inj-uri-hash", Malformed),
        ("inj-uri-openquote", Malformed),
        ("inj-uri-pair", Conflict),
        ("inj-uri-quote", Malformed),
        ("text-issuer-inject", Conflict),
        ("text-issuer-inject-element", Conflict),
        ("untrusted-inject", Conflict),
        ("untrusted-inject-crlf", Malformed),
    ] {
        check(fixture, &xfcc(DIRECT), expected);
    }
    for (fixture, expected) in [
        ("edge-inj-side-element", Conflict),
        ("edge-inj-side-hash", Malformed),
        ("edge-inj-side-openquote", Malformed),
        ("edge-inj-side-pair", Malformed),
        ("edge-inj-side-quote", Malformed),
        ("edge-inj-side-nosubj-element", Conflict),
        ("edge-inj-side-nosubj-hash", Malformed),
        ("edge-inj-side-nosubj-openquote", Malformed),
        ("edge-inj-side-nosubj-pair", Malformed),
        ("edge-inj-side-nosubj-quote", Malformed),
    ] {
        check(fixture, &xfcc(BEHIND_EDGE), expected);
    }
}

#[test]
fn no_captured_injection_is_read_as_the_victim_under_any_source() {
    let edge = hex("edge");
    let victim = hex(VICTIM);
    let mut sources = vec![
        Source::Peer,
        xfcc(DIRECT),
        xfcc(BEHIND_EDGE),
        xfcc(&[&edge]),
        xfcc(&[EDGE, EDGE]),
        xfcc(&[&victim]),
        xfcc(&["spiffe://lab.test/ns/clients/sa/p256"]),
    ];
    sources.extend(
        HeaderFormat::all()
            .map(|format| Source::Header { name: "x-forwarded-client-cert".to_owned(), format }),
    );
    let injections: Vec<_> = captures().into_iter().filter(|it| it.contains("inj")).collect();
    assert!(injections.len() >= 30, "{injections:?}");
    for fixture in injections {
        for source in &sources {
            let (found, _) = read(&fixture, source);
            assert_ne!(found, of(VICTIM), "{fixture} {source:?}");
        }
    }
}

#[test]
fn a_capture_tells_the_true_client_or_nothing_under_a_source_that_fits() {
    // Whatever Envoy was told to forward: under the source that fits its place, the header is
    // never read as another certificate than that which the client has shown.
    for fixture in captures() {
        let (direct, request) = read(&fixture, &xfcc(DIRECT));
        let peer = read(&fixture, &Source::Peer).0;
        if let (ClientCertificate::Presented(xfcc), ClientCertificate::Presented(peer)) =
            (direct, peer)
        {
            assert_eq!(xfcc, peer, "{fixture} {request:?}");
        }
    }
}

#[test]
fn two_lines_are_malformed() {
    let evidence = Evidence { xfcc: Field::Many, header: Field::Many, ..Evidence::default() };
    assert_eq!(xfcc(DIRECT).read(&evidence), Malformed);
    let header = Source::Header { name: "client-cert".to_owned(), format: HeaderFormat::Rfc9440 };
    assert_eq!(header.read(&evidence), Malformed);
}

#[track_caller]
fn check(fixture: &str, source: &Source, expected: ClientCertificate) {
    assert_eq!(read(fixture, source).0, expected, "{fixture} {source:?}");
}

fn read(fixture: &str, source: &Source) -> (ClientCertificate, CheckRequest) {
    let bytes = fs::read(captured(&format!("{fixture}.pb"))).unwrap();
    let request = CheckRequest::decode(&bytes[..]).unwrap();
    let peer = request.attributes.as_ref().and_then(|it| it.source.clone()).unwrap_or_default();
    let xfcc = header(&request, "x-forwarded-client-cert");
    let xfcc = xfcc.iter().fold(Field::Absent, |field, line| field.and(line));
    let found = source.read(&Evidence {
        peer_certificate: PeerCertificate::url_encoded_pem(peer.certificate.as_bytes()),
        peer_principal: peer.principal.as_bytes(),
        xfcc,
        header: xfcc,
    });
    (found, request)
}

fn header(request: &CheckRequest, name: &str) -> Vec<Vec<u8>> {
    let attributes = request.attributes.as_ref().unwrap();
    let http = attributes.request.as_ref().and_then(|it| it.http.clone()).unwrap_or_default();
    let mapped = http.headers.iter().filter(|(key, _)| *key == name);
    let mapped = mapped.map(|(_, value)| value.clone().into_bytes());
    let raw = http.header_map.unwrap_or_default().headers.into_iter();
    let raw = raw.filter(|it| it.key == name).map(|it| it.raw_value);
    mapped.chain(raw).collect()
}

fn xfcc(behind: &[&str]) -> Source {
    Source::Xfcc { behind: behind.iter().map(|&it| it.to_owned()).collect() }
}

/// The certificate that Envoy was shown, hashed from the file and not from the capture.
fn of(name: &str) -> ClientCertificate {
    ClientCertificate::Presented(thumbprint(name))
}

fn hex(name: &str) -> String {
    thumbprint(name).to_hex()
}

fn thumbprint(name: &str) -> Thumbprint {
    let pem = fs::read_to_string(captured(&format!("certs/{name}.crt"))).unwrap();
    let lines = pem.lines().skip_while(|it| !it.starts_with("-----BEGIN")).skip(1);
    let body: String = lines.take_while(|it| !it.starts_with('-')).collect();
    Thumbprint::of(&STANDARD.decode(body).unwrap())
}

fn captured(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/envoy").join(name)
}

fn captures() -> Vec<String> {
    let names = fs::read_dir(captured("")).unwrap().map(|it| it.unwrap().path());
    let mut names: Vec<_> = names
        .filter(|it| it.extension().is_some_and(|it| it == "pb"))
        .filter_map(|it| it.file_stem().and_then(|it| it.to_str()).map(str::to_owned))
        .collect();
    names.sort();
    names
}
