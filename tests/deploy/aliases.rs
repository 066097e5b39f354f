//! What reaches the application behind Envoy, whatever a client writes: no header that it would take for
//! one of ours, and no connection on which nobody is asked any more.

use crate::envoy::{Deployed, INSIDE, keybound};
use crate::istio::{as_istiod_has_it, behind_istio};
use crate::switching::{HANDSHAKE, Switching};
use crate::wsgi::{FORGED, Wsgi, is_fooled, spellings};
use crate::{deploy, replaced};
use reqwest::Version;
use std::fs;
use std::path::Path;
use tokio::task::JoinSet;

const OURS: [&str; 5] = [
    "x-auth-subject",
    "x-auth-client-id",
    "x-auth-scope",
    "x-auth-issuer",
    "x-forwarded-client-cert",
];

/// Envoy's own refusal, which Istio does not ask for.
const REJECT: &str =
    "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}";

fn read(path: &str) -> String {
    fs::read_to_string(deploy("envoy").join(path)).unwrap()
}

/// Sends every alias with a token that has all claims and with one that has few. Where Envoy lets
/// names pass as they are, each request is let through.
async fn is_never_fooled(it: &Deployed, lets_pass: bool) {
    let edge = it.client("edge");
    let own = format!("Hash={}", edge.thumbprint().to_hex());
    let whole = it.token(&edge, "payments");
    let bare = it.token_with(&edge, "payments", |it| {
        it.as_object_mut().unwrap().retain(|name, _| name != "sub" && name != "client_id");
    });
    for token in [whole, bare] {
        let plain = [("authorization", token.as_str()), ("x-forwarded-client-cert", &own)];
        let (status, body) = it.get(Some(&edge), "/", &plain).await.unwrap();
        assert_eq!((status, &body["environ"]["HTTP_X_AUTH_SCOPE"]), (200, &"payments".into()));
        for name in OURS.iter().flat_map(|it| spellings(it)) {
            let name = name.to_ascii_lowercase();
            for http in [Version::HTTP_11, Version::HTTP_2] {
                let forged = [(name.as_str(), FORGED); 2];
                let headers = [&plain[..], &forged].concat();
                match it.get_by(http, Some(&edge), "/", &headers).await {
                    Ok((status, body)) => {
                        let passes = status == 200;
                        assert!(passes || (status == 400 && !lets_pass), "{name} {status} {body}");
                        assert!(!passes || !is_fooled(&body), "{name} {body}");
                    }
                    // So Envoy refuses a name over HTTP/2.
                    Err(reset) => assert!(!lets_pass, "{name} {reset}"),
                }
            }
        }
    }
}

/// With the files of a folder of `deploy/envoy`, and an edit of Envoy's.
async fn is_not_fooled_behind(folder: &str, lets_pass: bool, edit: impl Fn(&str) -> String) {
    let wsgi = Wsgi::start();
    let config = read(&format!("{folder}/keybound.yaml"));
    let config = |files: &Path| keybound(&config, files);
    let bootstrap = edit(&read(&format!("{folder}/envoy.yaml")));
    let front = (folder != INSIDE).then_some("ext_authz");
    let it = Deployed::run_before(wsgi.address, JoinSet::new(), config, &bootstrap, front).await;
    is_never_fooled(&it, lets_pass).await;
}

#[tokio::test]
async fn behind_envoy_an_application_never_takes_what_a_client_wrote_for_ours() {
    for folder in [".", "sidecar"] {
        is_not_fooled_behind(folder, false, str::to_owned).await;
    }
    // Their routes name policies, of which the second needs no scope.
    for folder in ["edge-uds", INSIDE] {
        is_not_fooled_behind(folder, false, str::to_owned).await;
    }
}

#[tokio::test]
async fn nor_does_one_behind_an_envoy_that_lets_such_names_pass() {
    for raw in ["encode_raw_headers: true", "encode_raw_headers: false"] {
        let edit = |it: &str| replaced(&replaced(it, REJECT, ""), "encode_raw_headers: true", raw);
        is_not_fooled_behind(".", true, edit).await;
    }
    // The rules of the first say what Envoy may be told to change; the second asks nobody.
    for folder in ["edge-uds", INSIDE] {
        is_not_fooled_behind(folder, true, |it| replaced(it, REJECT, "")).await;
    }
}

#[tokio::test]
async fn nor_does_one_behind_istio_which_shows_the_service_a_few_headers_only() {
    let wsgi = Wsgi::start();
    let bootstrap = replaced(&as_istiod_has_it(&read("envoy.yaml")), REJECT, "");
    let it = Deployed::run_before(
        wsgi.address,
        JoinSet::new(),
        behind_istio,
        &bootstrap,
        Some("forward_auth"),
    )
    .await;
    is_never_fooled(&it, true).await;
}

#[tokio::test]
async fn of_other_protocols_an_application_is_offered_those_that_envoy_is_told_of() {
    let upstream = Switching::start().await;
    let options = "use_remote_address: true";
    let websocket = format!("{options}\n          upgrade_configs: [{{upgrade_type: websocket}}]");
    for (edit, switches) in [(options, false), (websocket.as_str(), true)] {
        let config = read("keybound.yaml");
        let config = |files: &Path| keybound(&config, files);
        let bootstrap = replaced(&read("envoy.yaml"), options, edit);
        let address = upstream.address;
        let it =
            Deployed::run_before(address, JoinSet::new(), config, &bootstrap, Some("ext_authz"))
                .await;
        let client = it.client("client");
        let token = it.token(&client, "payments");
        let ask = async |lines: &[&str]| {
            let mut headers = vec![("authorization", token.as_str())];
            headers.extend(HANDSHAKE);
            headers.push(("connection", "Upgrade, HTTP2-Settings"));
            headers.push(("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"));
            headers.extend(lines.iter().map(|it| ("upgrade", *it)));
            it.get_by(Version::HTTP_11, Some(&client), "/", &headers).await.unwrap().0
        };
        for offer in [&["h2c"][..], &["foo"], &["websocket, h2c"], &["websocket", "h2c"]] {
            assert_ne!(ask(offer).await, 101, "{offer:?}");
            let (offered, heads) = upstream.offered();
            assert_eq!(offered, [""; 0], "{offer:?} {heads:?}");
        }
        let expected = if switches { (101, vec!["websocket".to_owned()]) } else { (403, vec![]) };
        assert_eq!((ask(&["websocket"]).await, upstream.offered().0), expected);
    }
}
