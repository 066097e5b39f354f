//! The files for clouds, with the real Envoy and the real service. The load balancer is played: each header is
//! written as the documentation of its cloud describes it.

use crate::envoy::{Deployed, keybound};
use crate::{configurations, deploy, replaced};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keybound::commands::demo::pki::Identity;
use keybound_core::Denial::{CertificateMalformed, CertificateMismatch, CertificateMissing};
use keybound_core::jose::Thumbprint;
use serde_json::json;
use std::fmt::Write;
use std::fs;

/// What a cloud writes for a client.
struct Cloud {
    /// Where its `keybound.yaml` is.
    folder: &'static str,
    /// What its row in the table of the page for all clouds leads to.
    link: &'static str,
    header: &'static str,
    kind: Kind,
    /// The header for the client with this certificate, in each form that it may have.
    forms: fn(&[u8]) -> Vec<String>,
}

/// What the header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pem,
    PemChain,
    Rfc9440,
    Der,
}

const CLOUDS: [Cloud; 9] = [
    Cloud {
        folder: "aws-alb",
        link: "(aws-alb)",
        header: "x-amzn-mtls-clientcert-leaf",
        kind: Kind::Pem,
        // By its description, and by its example.
        forms: |der| vec![urlencoded(&pem(der), "+=/"), urlencoded(&pem(der), "")],
    },
    Cloud {
        folder: "aws-alb/passthrough",
        link: "(aws-alb/README.md#passthrough)",
        header: "x-amzn-mtls-clientcert",
        kind: Kind::PemChain,
        forms: |der| {
            let (leaf, chain) = (pem(der), pem(der) + &pem(&issuer()) + &pem(&issuer()));
            let both = |safe| [&leaf, &chain].map(|it| urlencoded(it, safe));
            [both("+=/"), both("")].concat()
        },
    },
    Cloud {
        folder: "aws-cloudfront",
        link: "(aws-cloudfront)",
        header: "cloudfront-viewer-cert-pem",
        kind: Kind::Pem,
        // Which characters stay is not said.
        forms: |der| ["", "+=/", "+", "/", "="].map(|safe| urlencoded(&pem(der), safe)).to_vec(),
    },
    Cloud {
        folder: "aws-cloudfront/passthrough",
        link: "(aws-cloudfront/README.md#passthrough)",
        header: "client-cert",
        kind: Kind::Rfc9440,
        forms: |der| vec![rfc9440(der)],
    },
    Cloud {
        folder: "google-cloud",
        link: "(google-cloud)",
        header: "client-cert",
        kind: Kind::Rfc9440,
        forms: |der| vec![rfc9440(der)],
    },
    Cloud {
        folder: "cloudflare",
        link: "(cloudflare)",
        header: "client-cert",
        kind: Kind::Rfc9440,
        forms: |der| vec![rfc9440(der)],
    },
    Cloud {
        folder: "azure/application-gateway",
        link: "(azure#application-gateway)",
        header: "x-client-cert",
        kind: Kind::Pem,
        forms: |der| vec![urlencoded(&pem(der), "")],
    },
    Cloud {
        folder: "azure/app-service",
        link: "(azure#app-service)",
        header: "x-arr-clientcert",
        kind: Kind::Der,
        forms: |der| vec![STANDARD.encode(der)],
    },
    Cloud {
        folder: "azure/api-management",
        link: "(azure#api-management)",
        header: "x-client-cert",
        kind: Kind::Der,
        forms: |der| vec![STANDARD.encode(der)],
    },
];

/// PEM in lines of 64 characters, as OpenSSL writes it.
fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|it| str::from_utf8(it).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Triplets for all but what never needs them and what is `safe`.
fn urlencoded(text: &str, safe: &str) -> String {
    let mut encoded = String::new();
    for it in text.chars() {
        if it.is_ascii_alphanumeric() || "-._~".contains(it) || safe.contains(it) {
            encoded.push(it);
        } else {
            write!(encoded, "%{:02X}", u32::from(it)).unwrap();
        }
    }
    encoded
}

fn rfc9440(der: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(der))
}

/// The certificate of somebody else.
fn issuer() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    Identity::self_signed("issuer", key).unwrap().certificate_der().to_vec()
}

/// A client in whose certificate there is whatever some encoding changes.
fn telling(it: &Deployed) -> Identity {
    loop {
        let client = it.client("client");
        let body = STANDARD.encode(client.certificate_der());
        if ['+', '/', '='].iter().all(|symbol| body.contains(*symbol)) {
            return client;
        }
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy("clouds").join(name)).unwrap()
}

impl Cloud {
    async fn start(&self) -> Deployed {
        let ranges = "{address_prefix: 10.0.0.0, prefix_len: 24}";
        let here = "{address_prefix: 127.0.0.0, prefix_len: 8}";
        self.start_with(&replaced(&read("envoy.yaml"), ranges, here)).await
    }

    async fn start_with(&self, bootstrap: &str) -> Deployed {
        let config = read(&format!("{}/keybound.yaml", self.folder));
        Deployed::run(|files| keybound(&config, files), bootstrap, Some("ext_authz")).await
    }
}

#[tokio::test]
async fn a_token_is_good_with_the_header_of_its_cloud_in_each_form_that_it_has() {
    for cloud in &CLOUDS {
        let it = cloud.start().await;
        let (client, thief) = (telling(&it), it.client("thief"));
        let token = it.token(&client, "payments");
        let bearer = ("authorization", token.as_str());
        for form in (cloud.forms)(client.certificate_der()) {
            let headers = [bearer, (cloud.header, form.as_str())];
            let (status, body) = it.get(None, "/", &headers).await.unwrap();
            let subject = &body["headers"]["x-auth-subject"];
            assert_eq!((status, subject), (200, &json!(["alice"])), "{} {form}", cloud.folder);
        }
        for form in (cloud.forms)(thief.certificate_der()) {
            let headers = [bearer, (cloud.header, form.as_str())];
            it.refuses(CertificateMismatch, &thief, "/", &headers).await;
        }
        it.refuses(CertificateMissing, &client, "/", &[bearer]).await;
        // What a cloud writes of a certificate that it finds too large, or has not verified.
        it.refuses(CertificateMissing, &client, "/", &[bearer, (cloud.header, "")]).await;
    }
}

/// What `der` looks like elsewhere, and what could become of `form` on the way.
fn near_misses(kind: Kind, form: &str, der: &[u8]) -> Vec<(&'static str, String)> {
    let chain = urlencoded(&(pem(der) + &pem(&issuer())), "");
    let kinds = [
        (Kind::Pem, "URL-encoded PEM", urlencoded(&pem(der), "+=/")),
        (Kind::PemChain, "a chain", chain),
        (Kind::Rfc9440, "RFC 9440", rfc9440(der)),
        (Kind::Der, "base64", STANDARD.encode(der)),
    ];
    let is_other = |it: Kind| it != kind && (kind, it) != (Kind::PemChain, Kind::Pem);
    let others = kinds.into_iter().filter(|it| is_other(it.0)).map(|(_, what, it)| (what, it));
    let decoded =
        if form.contains('+') { form.replace('+', " ") } else { form.replace("%2B", " ") };
    let mut all = vec![
        ("base64 of the PEM", STANDARD.encode(pem(der))),
        ("base64url", URL_SAFE_NO_PAD.encode(der)),
        ("PEM in one line", pem(der).replace('\n', " ").trim().to_owned()),
        ("a digest", Thumbprint::of(der).to_hex()),
        ("another digest", format!(":{}:", Thumbprint::of(der).to_base64url())),
        ("form-decoded", decoded),
        ("encoded twice", urlencoded(form, "").replace("%2B", "%252B")),
        ("quoted", format!("\"{form}\"")),
        ("appended to itself", format!("{form},{form}")),
        ("with a blank", format!("{form}, {form}")),
        ("cut off", form.split_at(form.len() / 2).0.to_owned()),
        ("cut off at the end", form.split_at(form.len().saturating_sub(1)).0.to_owned()),
        ("cut off at the beginning", form.split_at(1).1.to_owned()),
        ("no certificate", "(none)".to_owned()),
        ("a variable", "{client_cert_leaf}".to_owned()),
    ];
    all.extend(others);
    all
}

#[tokio::test]
async fn whatever_is_not_the_header_of_its_cloud_is_no_certificate() {
    for cloud in &CLOUDS {
        let it = cloud.start().await;
        let client = telling(&it);
        let token = it.token(&client, "payments");
        let bearer = ("authorization", token.as_str());
        let der = client.certificate_der();
        let form = (cloud.forms)(der).swap_remove(0);
        for (what, value) in near_misses(cloud.kind, &form, der) {
            let headers = [bearer, (cloud.header, value.as_str())];
            let (status, body) = it.get(None, "/", &headers).await.unwrap();
            let found = (status, body["error_description"].as_str().unwrap_or_default());
            let expected = (CertificateMalformed.status(), CertificateMalformed.sentence());
            assert_eq!(found, expected, "{} {what}: {value}", cloud.folder);
        }
        // The client's own line beside the cloud's, whichever comes first, and even if they agree.
        let others = (cloud.forms)(&issuer()).swap_remove(0);
        for lines in [[&form, &others], [&others, &form], [&form, &form]] {
            let [first, second] = lines.map(|it| (cloud.header, it.as_str()));
            let headers = [bearer, first, second];
            it.refuses(CertificateMalformed, &client, "/", &headers).await;
        }
    }
}

#[tokio::test]
async fn of_a_chain_that_nobody_has_verified_the_leaf_alone_counts() {
    let cloud = CLOUDS.iter().find(|it| it.kind == Kind::PemChain).unwrap();
    let it = cloud.start().await;
    let (client, thief) = (it.client("client"), it.client("thief"));
    let token = it.token(&client, "payments");
    let bearer = ("authorization", token.as_str());
    let [own, other] = [&client, &thief].map(|it| pem(it.certificate_der()));
    for (chain, denial) in [
        (own.clone() + &other, None),
        (other.clone() + &own, Some(CertificateMismatch)),
        (format!("{other}{other}{own}"), Some(CertificateMismatch)),
        (format!("{own}-----BEGIN"), Some(CertificateMalformed)),
        (format!("\n{own}"), Some(CertificateMalformed)),
        (own.split_at(own.len() / 2).0.to_owned() + &other, Some(CertificateMalformed)),
    ] {
        let value = urlencoded(&chain, "+=/");
        let headers = [bearer, (cloud.header, value.as_str())];
        match denial {
            None => assert_eq!(it.get(None, "/", &headers).await.unwrap().0, 200),
            Some(denial) => it.refuses(denial, &client, "/", &headers).await,
        }
    }
}

#[tokio::test]
async fn whoever_is_not_the_load_balancer_is_not_heard() {
    let cloud = &CLOUDS[0];
    // As it stands: this machine is not in its range.
    let it = cloud.start_with(&read("envoy.yaml")).await;
    let client = it.client("client");
    let token = it.token(&client, "payments");
    let form = (cloud.forms)(client.certificate_der()).swap_remove(0);
    let headers = [("authorization", token.as_str()), (cloud.header, form.as_str())];
    assert!(it.get(None, "/", &headers).await.is_err());
    assert!(it.get(Some(&client), "/", &headers).await.is_err());

    let mut it = cloud.start().await;
    it.passes_nothing_without_an_answer().await;
}

/// How TLS ends, in a configuration of Envoy.
fn transport_socket(bootstrap: &str) -> &str {
    let (_, behind) = bootstrap.split_once("transport_socket:\n").unwrap();
    behind.split_once("      filters:\n").unwrap().0
}

#[tokio::test]
async fn a_load_balancer_with_a_certificate_of_its_own_is_known_by_it() {
    let cloud = CLOUDS.iter().find(|it| it.folder == "cloudflare").unwrap();
    let sidecar = fs::read_to_string(deploy("envoy/sidecar/envoy.yaml")).unwrap();
    let bootstrap =
        replaced(&read("envoy.yaml"), "10.0.0.0, prefix_len: 24", "0.0.0.0, prefix_len: 0");
    let own = transport_socket(&bootstrap);
    let it = cloud.start_with(&bootstrap.replace(own, transport_socket(&sidecar))).await;
    let (edge, client) = (it.client("edge"), it.client("client"));
    let token = it.token(&client, "payments");
    let form = rfc9440(client.certificate_der());
    let headers = [("authorization", token.as_str()), (cloud.header, form.as_str())];
    assert_eq!(it.get(Some(&edge), "/", &headers).await.unwrap().0, 200);
    // The client itself, past it, and nobody.
    assert!(it.get(Some(&client), "/", &headers).await.is_err());
    assert!(it.get(None, "/", &headers).await.is_err());
}

#[test]
fn each_cloud_is_on_the_page_with_the_header_that_its_configuration_reads() {
    let page = read("README.md");
    let mut found = vec![];
    configurations(&deploy("clouds"), &mut found);
    assert_eq!(found.len(), CLOUDS.len());
    for Cloud { folder, link, header, .. } in &CLOUDS {
        let config = read(&format!("{folder}/keybound.yaml"));
        let line = config.lines().find(|it| it.starts_with("  header: ")).unwrap();
        assert!(line.starts_with(&format!("  header: {{name: {header}, ")), "{folder}");
        let format = line.split_once("format: ").unwrap().1.trim_end_matches('}');
        let row = page.lines().find(|it| it.starts_with("| [") && it.contains(link));
        let row = row.unwrap_or_else(|| panic!("no row leads to {link}"));
        assert!(row.contains(&format!("`{format}`")), "{row}");
        assert!(
            row.contains("yours") || row.to_lowercase().contains(&format!("`{header}`")),
            "{row}"
        );
    }
}
