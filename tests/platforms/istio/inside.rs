//! The module inside the gateway, by an `EnvoyFilter`.

use super::mesh::Plan;
use crate::{deploy, documents};
use keybound_core::Denial;
use serde_json::json;

#[tokio::test]
async fn istios_gateway_has_the_module_check_and_asks_nobody() {
    let config = documents(&deploy("envoy-module/envoy-gateway/keybound.yaml")).remove(0);
    let plan = Plan::at_the_gateway().and(&deploy("envoy-module/istio/gateway.yaml")).with(|it| {
        it.objects.retain(|it| it["kind"] != "AuthorizationPolicy");
        it.keybound = config;
        it.inside = true;
    });
    let Some(it) = plan.start().await else { return };
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let token = it.bearer(&client, "payments");
    let headers = [("authorization", token.as_str()), ("x-auth-subject", "root")];
    for path in ["/", "/payments"] {
        let seen = it.passes(&client, path, &headers).await;
        assert_eq!(seen["x-auth-subject"], json!(["alice"]), "{seen}");
        it.refuses(Denial::CertificateMismatch, &thief, path, &headers).await;
    }
    it.refuses(Denial::CredentialsMissing, &client, "/", &[]).await;
}
