//! What an issuer's answer about a token names, followed by all that may revoke the token.

use super::status_lists::{Checked, MINUTE, NOW};
use crate::support::introspection_endpoint::{IntrospectionEndpoint, Reply};
use keybound_core::Detail;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const US: &str = "https://gateway.example.com";
const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// An issuer whose answers name more than its tokens.
struct Site {
    checked: Checked,
    endpoint: IntrospectionEndpoint,
    folder: TempDir,
    token: String,
}

impl Site {
    /// One that is asked so, about an opaque token or a JWT.
    async fn new(introspection: &str, is_opaque: bool) -> Self {
        let endpoint = IntrospectionEndpoint::start(Reply::status(500)).await;
        let folder = tempfile::tempdir().unwrap();
        let (list, secret) = (folder.path().join("revoked.jsonl"), folder.path().join("pushes"));
        place(&list, &json!({"sub": "nobody"}));
        fs::write(&secret, "the-secret-of-theirs").unwrap();
        let checked = Checked::with(&format!(
            "introspection: {{endpoint: '{}', authentication: none, client_id: gateway{introspection}}}
    revocation:
      denylist_file: {}
      status_list: if_present
      events: {{delivery: push, bearer_token_file: {}, audience: {US}}}",
            endpoint.url(),
            list.display(),
            secret.display(),
        ))
        .await;
        endpoint.reply(Reply::json(&json!({
            "active": true, "aud": "api", "sub": "alice", "client_id": "app",
            "iat": NOW, "exp": NOW + 7200,
            "jti": "of-the-answer", "sid": "of-the-answer", "status": checked.place(1),
        })));
        let token =
            if is_opaque { "Bearer opaque".to_owned() } else { checked.token_with(&json!({})) };
        Self { checked, endpoint, folder, token }
    }

    /// Why the token is refused; none if it is good.
    async fn refused(&self) -> Option<Detail> {
        let (ended, detail) = self.checked.ends(&self.token).await;
        assert_eq!(ended.err(), detail.map(Detail::denial));
        detail
    }

    /// Lists who is revoked from here on, and waits until that is in force.
    async fn list(&self, entry: &Value) {
        let mut changes =
            self.checked.installation.issuers[0].revocation.as_ref().unwrap().changes();
        place(&self.folder.path().join("revoked.jsonl"), entry);
        changes.changed().await.unwrap();
    }

    /// Has the list of statuses say so from here on, and waits until that is in force.
    async fn publish(&self, octet: u8) {
        let mut changes =
            self.checked.installation.issuers[0].revocation.as_ref().unwrap().changes();
        self.checked.world.serve(&self.checked.world.claims(1, &[octet]));
        self.checked.world.pass(5 * MINUTE).await;
        changes.changed().await.unwrap();
    }

    /// Tells that this session has ended.
    async fn end(&self, session: &str) {
        let issuer = self.checked.world.issuer.issuer();
        let claims = json!({
            "iss": issuer, "aud": US, "iat": NOW, "jti": session,
            "sub_id": {"format": "complex", "session": {"format": "opaque", "id": session},
                "user": {"format": "iss_sub", "iss": issuer, "sub": "alice"}},
            "events": {SESSION_REVOKED: {"event_timestamp": NOW}},
        });
        let event = self.checked.world.signer.sign("secevent+jwt", &claims);
        let revocation = self.checked.installation.issuers[0].revocation.as_ref().unwrap();
        revocation.events().unwrap().take(event.as_bytes()).await.unwrap();
    }
}

/// Puts a list with this entry in place.
fn place(list: &Path, entry: &Value) {
    let beside = list.with_extension("new");
    fs::write(&beside, format!("{entry}\n")).unwrap();
    fs::rename(&beside, list).unwrap();
}

#[tokio::test]
async fn what_an_answer_names_revokes_a_token_that_does_not_name_it() {
    for (introspection, is_opaque) in
        [("", true), (", introspect: always", false), (", claims_from: answer", false)]
    {
        let site = Site::new(introspection, is_opaque).await;
        site.checked.world.serve(&site.checked.world.claims(1, &[0b00]));
        assert_eq!(site.refused().await, None, "{introspection}");
        assert!(0 < site.endpoint.calls());

        // Its status, and that of its neighbours.
        site.publish(0b01).await;
        assert_eq!(site.refused().await, None, "{introspection}");
        site.publish(0b10).await;
        assert_eq!(site.refused().await, Some(Detail::StatusInvalid), "{introspection}");
        site.publish(0b00).await;
        assert_eq!(site.refused().await, None, "{introspection}");

        // An answer that is remembered follows at once, and nobody is asked again.
        let calls = site.endpoint.calls();
        for identifier in ["jti", "sid"] {
            site.list(&json!({identifier: "of-another"})).await;
            assert_eq!(site.refused().await, None, "{introspection} {identifier}");
            site.list(&json!({identifier: "of-the-answer"})).await;
            let refused = site.refused().await;
            assert_eq!(refused, Some(Detail::Denylisted), "{introspection} {identifier}");
        }
        site.list(&json!({"sub": "nobody"})).await;
        assert_eq!(site.refused().await, None, "{introspection}");
        assert_eq!(site.endpoint.calls(), calls, "{introspection}");

        site.end("of-another").await;
        if introspection.contains("always") {
            // The token itself names no session: it may be of any of its user.
            assert_eq!(site.refused().await, Some(Detail::EventReceived));
            continue;
        }
        assert_eq!(site.refused().await, None, "{introspection}");
        site.end("of-the-answer").await;
        assert_eq!(site.refused().await, Some(Detail::EventReceived), "{introspection}");
    }
}

#[tokio::test]
async fn the_session_that_an_answer_names_is_revoked_also_where_the_token_names_another() {
    let site = Site::new(", introspect: always", false).await;
    site.checked.world.serve(&site.checked.world.claims(1, &[0]));
    let token = site.checked.token_with(&json!({"sid": "of-the-token"}));
    let site = Site { token, ..site };
    assert_eq!(site.refused().await, None);
    site.end("of-another").await;
    assert_eq!(site.refused().await, None);
    site.end("of-the-answer").await;
    assert_eq!(site.refused().await, Some(Detail::EventReceived));
}
