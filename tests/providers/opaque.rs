//! Tokens of Hydra: opaque ones, which it is asked about, and JWTs.

use super::hydra::{Hydra, HydraClient};
use super::installation::AUDIENCE;
use super::{Row, bearer, check};
use keybound_core::Denial;

#[tokio::test]
async fn of_both_kinds_a_token_is_good_for_its_api_and_scope_and_never_passes_for_a_bound_one() {
    let Some(hydra) = Hydra::start().await else { return };
    let mut it = hydra.installation().await;
    let certificate = it.client("client");
    for kind in ["opaque", "jwt"] {
        let id = format!("{kind}-client");
        let token = hydra.token(&HydraClient { id: &id, tokens: kind, audience: AUDIENCE }).await;
        assert_eq!(token.matches('.').count(), if kind == "jwt" { 2 } else { 1 });
        let elsewhere = HydraClient {
            id: &format!("{kind}-elsewhere"),
            tokens: kind,
            audience: "https://other.example.com",
        };
        let elsewhere = hydra.token(&elsewhere).await;
        for (path, token, expected) in [
            ("/any", &token, Ok(())),
            ("/write", &token, Err(Denial::ScopeInsufficient)),
            ("/", &token, Err(Denial::BindingMissing)),
            ("/any", &elsewhere, Err(Denial::TokenAudienceMismatch)),
        ] {
            let headers = bearer(token);
            let row = Row { what: kind, identity: Some(&certificate), path, headers, expected };
            let outcome = check(&mut it, row).await;
            if expected.is_ok() {
                assert_eq!(outcome.seen("x-auth-subject"), [&id]);
                assert_eq!(outcome.seen("x-auth-client-id"), [&id]);
            }
        }
    }
}

#[tokio::test]
async fn an_opaque_token_that_was_made_up_or_taken_back_is_refused() {
    let Some(hydra) = Hydra::start().await else { return };
    let mut it = hydra.installation().await;
    let client = HydraClient { id: "client", tokens: "opaque", audience: AUDIENCE };
    let token = hydra.token(&client).await;
    let row = |what, token: &str, expected| {
        let headers = bearer(token);
        Row { what, identity: None, path: "/any", headers, expected }
    };
    check(&mut it, row("active", &token, Ok(()))).await;
    let (code, _) = token.split_once('.').unwrap();
    let made_up = format!("{code}.made-up");
    check(&mut it, row("made up", &made_up, Err(Denial::TokenInactive))).await;
    hydra.revoke(&client, &token).await;
    check(&mut it, row("revoked", &token, Err(Denial::TokenInactive))).await;
}
