//! What deploy/istio/README.md warns of, each as it happens.

use super::mesh::{Mesh, Plan, istio};
use keybound_core::Denial;
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};

/// A plan whose policies at the gateway are these besides the one that asks keybound.
fn besides(policies: &[Value]) -> Plan {
    Plan::at_the_gateway().with(|it| it.objects.extend_from_slice(policies))
}

/// A policy of Istio's for the gateway.
fn policy(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["selector"] = json!({"matchLabels": {"istio": "ingressgateway"}});
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "istio-system"}, "spec": spec,
    })
}

/// All values of this key, however deep.
fn values<'a>(within: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match within {
        Value::Object(fields) => {
            found.extend(fields.get(key));
            fields.values().for_each(|it| values(it, key, found));
        }
        Value::Array(them) => them.iter().for_each(|it| values(it, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The filters that ask keybound, as the gateway has them.
async fn asking(it: &Mesh) -> Vec<Value> {
    let configuration = it.proxies[0].configuration().await;
    let (mut found, name) =
        (vec![], "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz");
    values(&configuration, "typed_config", &mut found);
    let found: Vec<_> = found.into_iter().filter(|it| it["@type"] == name).cloned().collect();
    assert!(!found.is_empty(), "{configuration}");
    found
}

#[tokio::test]
async fn what_an_istio_rule_misses_is_not_checked_at_all() {
    let plan = Plan::at_the_gateway().with(|it| {
        it.object("AuthorizationPolicy")["spec"]["rules"] =
            json!([{"to": [{"operation": {"paths": ["/payments", "/payments/*"]}}]}]);
    });
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    for path in ["/payments", "/payments/7", "//payments", "/x/../payments", "/%70ayments"] {
        it.refuses(Denial::CredentialsMissing, &client, path, &[]).await;
    }
    for path in ["/Payments", "/payments;v=1", "/payments.json"] {
        let seen = it.passes(&client, path, &[("x-auth-subject", "root")]).await;
        assert_eq!(seen["x-auth-subject"], json!(["root"]), "{path}: nobody has removed it");
    }
}

#[tokio::test]
async fn without_a_timeout_and_a_status_an_istio_provider_has_ten_minutes_and_403() {
    let plan = Plan::at_the_gateway().with(|it| {
        let provider = it.provider().as_object_mut().unwrap();
        provider.retain(|name, _| name == "service" || name == "port");
    });
    let Some(mut it) = plan.start().await else { return };
    for filter in asking(&it).await {
        assert_eq!(filter["grpc_service"]["timeout"], "600s", "{filter}");
        assert_eq!(filter.get("failure_mode_allow"), None, "{filter}");
    }
    it.service = None;
    assert_eq!(it.get(&it.client("client"), "/docs", &[]).await.0, 403);
}

#[tokio::test]
async fn an_istio_provider_that_may_fail_open_lets_everything_pass_in_an_outage() {
    let plan = Plan::at_the_gateway().with(|it| it.provider()["failOpen"] = true.into());
    let Some(mut it) = plan.start().await else { return };
    it.service = None;
    it.passes(&it.client("client"), "/payments", &[]).await;
}

#[tokio::test]
async fn an_istio_provider_that_does_not_exist_denies_everything() {
    let plan = Plan::at_the_gateway().with(|it| {
        it.object("AuthorizationPolicy")["spec"]["provider"]["name"] = "keybuond".into();
    });
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    let (status, body) = it.get(&client, "/docs", &[("authorization", token.as_str())]).await;
    assert_eq!((status, body), (403, json!("RBAC: access denied")));
    let configuration = it.proxies[0].configuration().await.to_string();
    assert!(configuration.contains("deny-due-to-bad-CUSTOM-action"), "{configuration}");
}

#[tokio::test]
async fn a_dry_run_of_the_istio_policy_that_asks_keybound_is_refused_or_an_outage() {
    let plan = Plan::at_the_gateway().with(|it| {
        it.object("AuthorizationPolicy")["metadata"]["annotations"] =
            json!({"istio.io/dry-run": "true"});
        it.refused = Some("istio.io/dry-run currently only supports action ALLOW/DENY");
    });
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    let (status, body) = it.get(&client, "/docs", &[("authorization", token.as_str())]).await;
    assert_eq!((status, body), (403, json!("RBAC: access denied")));
}

#[tokio::test]
async fn istio_asks_keybound_before_its_own_policies_and_they_decide_as_well() {
    let deny =
        json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/docs/secret"]}}]}]});
    let Some(it) = besides(&[policy("deny", &deny)]).start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    let bearer = [("authorization", token.as_str())];
    it.passes(&client, "/docs", &bearer).await;
    it.refuses(Denial::CredentialsMissing, &client, "/docs/secret", &[]).await;
    let denied = (403, json!("RBAC: access denied"));
    assert_eq!(it.get(&client, "/docs/secret", &bearer).await, denied);

    // A policy without a rule allows nothing.
    let Some(it) = besides(&[policy("nothing", &json!({}))]).start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    let bearer = [("authorization", token.as_str())];
    it.refuses(Denial::CredentialsMissing, &client, "/docs", &[]).await;
    assert_eq!(it.get(&client, "/docs", &bearer).await, denied);
    let allow = json!({"action": "ALLOW", "rules": [{"to": [{"operation": {"hosts": ["*"]}}]}]});
    let both = [policy("nothing", &json!({})), policy("allow", &allow)];
    let Some(it) = besides(&both).start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    it.passes(&client, "/docs", &[("authorization", token.as_str())]).await;
}

#[tokio::test]
async fn an_element_of_the_clients_own_that_istios_gateway_appends_to_is_refused() {
    let plan = Plan::at_the_gateway().with(|it| {
        it.mesh["defaultConfig"] =
            json!({"gatewayTopology": {"forwardClientCertDetails": "APPEND_FORWARD"}});
    });
    let Some(it) = plan.start().await else { return };
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let token = it.bearer(&client, "payments");
    let forged = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [("authorization", token.as_str()), ("x-forwarded-client-cert", &forged)];
    it.refuses(Denial::CertificateConflict, &thief, "/docs", &headers).await;
    it.passes(&client, "/docs", &headers[..1]).await;
}

#[tokio::test]
async fn where_istios_gateway_asks_no_certificate_there_is_none() {
    let plan = Plan::at_the_gateway().with(|it| {
        it.object("Gateway")["spec"]["servers"][0]["tls"]["mode"] = "SIMPLE".into();
    });
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    let forged = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [("authorization", token.as_str()), ("x-forwarded-client-cert", &forged)];
    it.refuses(Denial::CertificateMissing, &client, "/docs", &headers).await;
}

#[tokio::test]
async fn istio_tells_no_peer_certificate() {
    let plan = Plan::at_the_gateway().with(|it| {
        it.keybound["client_certificate"] = json!({"source": "peer"});
    });
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    it.refuses(Denial::CertificateMissing, &client, "/docs", &[("authorization", &token)]).await;
    for filter in asking(&it).await {
        assert_eq!(filter.get("include_peer_certificate"), None, "{filter}");
    }
}

#[tokio::test]
async fn names_with_underscores_pass_istios_gateway_without_the_filter() {
    for filtered in [true, false] {
        let plan = Plan::at_the_gateway().with(|it| {
            it.objects.retain(|it| filtered || it["kind"] != "EnvoyFilter");
        });
        let Some(it) = plan.start().await else { return };
        let client = it.client("client");
        let token = it.bearer(&client, "payments");
        let headers = [("authorization", token.as_str()), ("x_auth_subject", "root")];
        if filtered {
            let refused = it.answer(Some(&client), "/docs", &headers).await;
            assert!(refused.is_err() || refused.unwrap().status() == 400);
            it.passes(&client, "/docs", &headers[..1]).await;
        } else {
            let seen = it.passes(&client, "/docs", &headers).await;
            assert_eq!(seen.get("x_auth_subject"), None, "keybound removes it: {seen}");
        }
    }
}

#[tokio::test]
async fn a_client_with_an_ed25519_certificate_does_not_get_through_istios_gateway() {
    let Some(it) = Plan::at_the_gateway().start().await else { return };
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let client = it.authority.client("client", key).unwrap();
    let token = it.bearer(&client, "payments");
    let answer = it.answer(Some(&client), "/docs", &[("authorization", token.as_str())]).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn without_the_lists_of_an_istio_provider_over_http_less_is_seen() {
    // Envoy sends `authorization` in any case.
    for (left_out, denial) in
        [("authorization", None), ("x-forwarded-client-cert", Some(Denial::CertificateMissing))]
    {
        let plan = Plan::over_http().with(|it| {
            let listed = it.provider()["includeRequestHeadersInCheck"].as_array_mut().unwrap();
            listed.retain(|it| it != left_out);
        });
        let Some(it) = plan.start().await else { return };
        let client = it.client("client");
        let token = it.bearer(&client, "payments");
        let headers = [("authorization", token.as_str())];
        match denial {
            Some(denial) => it.refuses(denial, &client, "/docs", &headers).await,
            None => drop(it.passes(&client, "/docs", &headers).await),
        }
    }
    for (list, left_out) in [
        ("headersToUpstreamOnAllow", "x-auth-subject"),
        ("headersToDownstreamOnDeny", "cache-control"),
    ] {
        let plan = Plan::over_http().with(|it| {
            it.provider()[list].as_array_mut().unwrap().retain(|it| it != left_out);
        });
        let Some(it) = plan.start().await else { return };
        let client = it.client("client");
        let token = it.bearer(&client, "payments");
        let headers = [("authorization", token.as_str()), ("x-auth-subject", "root")];
        let seen = it.passes(&client, "/docs", &headers).await;
        let told = if left_out == "x-auth-subject" { "root" } else { "alice" };
        assert_eq!(seen["x-auth-subject"], json!([told]), "{list}");
        let refused = it.answer(Some(&client), "/docs", &[]).await.unwrap();
        let heard =
            ["cache-control", "www-authenticate"].map(|it| refused.headers().contains_key(it));
        // Envoy lets the challenge through in any case.
        assert_eq!(heard, [left_out != "cache-control", true], "{refused:?}");
    }
}

#[tokio::test]
async fn istios_gateway_chooses_the_route_anew_and_limits_streams() {
    let plan = Plan::at_the_gateway().and(&istio("streams.yaml"));
    let Some(it) = plan.start().await else { return };
    for filter in asking(&it).await {
        assert_eq!(filter["clear_route_cache"], true, "{filter}");
    }
    let configuration = it.proxies[0].configuration().await;
    let mut found = vec![];
    values(&configuration, "max_stream_duration", &mut found);
    assert!(found.iter().any(|it| it["grpc_timeout_header_max"] == "0s"), "{configuration}");
}
