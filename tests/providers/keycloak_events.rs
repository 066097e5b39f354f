//! Keycloak as a transmitter of security events (its feature `ssf`): who signs out there is refused here.

use super::http::{client, json, success};
use super::installation::{Call, Installation};
use super::keycloak::{Asking, Keycloak, access_token};
use super::realm::{SECRET, UNBOUND_CLIENT};
use super::{DOOR, Row, bearer, check};
use keybound_core::Denial;
use reqwest::{Method, Version};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Who we are to Keycloak.
const US: &str = "https://gateway.example.com";

/// The `Authorization` that it shows when it pushes.
const PUSHES: &str = "a-secret-of-the-transmitter";

const INTERVAL: Duration = Duration::from_secs(1);

const EVENTS: [&str; 2] = [
    "https://schemas.openid.net/secevent/caep/event-type/session-revoked",
    "https://schemas.openid.net/secevent/caep/event-type/credential-change",
];

/// A realm that sends events.
struct Realm<'a> {
    keycloak: &'a Keycloak,
    name: &'static str,
}

impl<'a> Realm<'a> {
    async fn new(keycloak: &'a Keycloak, name: &'static str) -> Self {
        keycloak.make_realm(name).await;
        let sends = json!({"attributes": {"ssf.transmitterEnabled": "true"}});
        keycloak.administer_by(Method::PUT, &format!("/admin/realms/{name}"), &sends).await;
        Self { keycloak, name }
    }

    /// Makes a client that may receive events at this URL, and returns its token.
    async fn receiver(&self, pushed_to: &str) -> String {
        let body = json!({
            "clientId": "receiver", "secret": SECRET, "publicClient": false,
            "standardFlowEnabled": false, "serviceAccountsEnabled": true,
            "optionalClientScopes": ["ssf.read", "ssf.manage"],
            "attributes": {
                "ssf.enabled": "true", "ssf.defaultSubjects": "ALL", "ssf.streamAudience": US,
                "ssf.validPushUrls": pushed_to,
            },
        });
        self.keycloak.administer(&format!("/admin/realms/{}/clients", self.name), &body).await;
        let asking = Asking::by("receiver").of(self.name).scoped("ssf.read ssf.manage");
        self.keycloak.token(asking).await
    }

    /// Makes the stream of a receiver.
    async fn stream(&self, token: &str, delivery: &Value) -> Value {
        let url = format!("{}/ssf/transmitter/streams", self.keycloak.issuer_of(self.name));
        let request = client(&self.keycloak.authority, None).post(url).bearer_auth(token);
        let body = json!({"delivery": delivery, "events_requested": EVENTS});
        success(json(request, &body)).await
    }

    /// Signs in, is let in, signs out, and says how long it is still let in.
    async fn logout_to_refusal(&self, it: &mut Installation) -> Duration {
        let asking = Asking::by(UNBOUND_CLIENT).of(self.name);
        let session = self.keycloak.tokens(asking.for_user()).await;
        let other = self.keycloak.tokens(asking.for_user()).await;
        let (token, other) = (access_token(&session), access_token(&other));
        let row = |what, token: &str, expected| {
            let headers = bearer(token);
            Row { what, identity: None, path: "/any", headers, expected }
        };
        check(it, row("signed in", &token, Ok(()))).await;
        self.keycloak.log_out(asking, session["refresh_token"].as_str().unwrap()).await;
        let begun = Instant::now();
        while is_let_in(it, &token).await {
            assert!(begun.elapsed() < Duration::from_secs(30), "never refused");
            sleep(Duration::from_millis(20)).await;
        }
        let took = begun.elapsed();
        check(it, row("signed out", &token, Err(Denial::TokenRevoked))).await;
        check(it, row("another session of the user", &other, Ok(()))).await;
        let again = access_token(&self.keycloak.tokens(asking.for_user()).await);
        check(it, row("signed in again", &again, Ok(()))).await;
        took
    }
}

async fn is_let_in(it: &mut Installation, token: &str) -> bool {
    let (http, headers) = (Version::HTTP_2, bearer(token));
    let call = Call { door: DOOR.name, http, identity: None, path: "/any", headers };
    it.call(&call).await.unwrap().status == 200
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures for who runs it")]
async fn who_signs_out_is_refused_within_the_interval_by_poll() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let realm = Realm::new(keycloak, "polled").await;
    let token = realm.receiver("https://nowhere.example.com/*").await;
    let stream = realm.stream(&token, &json!({"method": "urn:ietf:rfc:8936"})).await;
    let more = json!({"revocation": {"events": {
        "delivery": "poll", "endpoint": stream["delivery"]["endpoint_url"], "audience": US,
        "bearer_token_file": "receiver", "poll_interval": "1s", "stream_id": stream["stream_id"],
        "verification_endpoint": format!("{}/ssf/transmitter/verify", keycloak.issuer_of("polled")),
    }}});
    let files = [("receiver", token)];
    let mut it = keycloak.begin("polled", &files, &more).await;
    for _ in 0..3 {
        let took = realm.logout_to_refusal(&mut it).await;
        println!("by poll, each {INTERVAL:?}: refused {took:?} after the sign-out");
        // The interval, a poll, and what a slow machine adds to both.
        assert!(took < INTERVAL + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures for who runs it")]
async fn who_signs_out_is_refused_within_two_seconds_by_push() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let realm = Realm::new(keycloak, "pushed").await;
    let more = json!({"revocation": {"events": {
        "delivery": "push", "bearer_token_file": "pushes", "audience": US,
    }}});
    let files = [("pushes", PUSHES.to_owned())];
    let mut it = keycloak.begin("pushed", &files, &more).await;
    let events = it.services[0].as_ref().unwrap().address("events").unwrap().to_owned();
    let token = realm.receiver(&format!("http://{events}/*")).await;
    let delivery = json!({
        "method": "urn:ietf:rfc:8935", "endpoint_url": format!("http://{events}/events"),
        "authorization_header": format!("Bearer {PUSHES}"),
    });
    realm.stream(&token, &delivery).await;
    for _ in 0..3 {
        let took = realm.logout_to_refusal(&mut it).await;
        println!("by push: refused {took:?} after the sign-out");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
