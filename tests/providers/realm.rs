//! The realm that Keycloak keeps for the tests.

use super::installation::AUDIENCE;
use serde_json::{Value, json};

/// The secret of every client and the password of the user.
pub(crate) const SECRET: &str = "secret";
pub(crate) const USER: &str = "alice";
/// The client as which the service introspects.
pub(crate) const GATEWAY: &str = "gateway";
/// A client that introspects and is in no token's audience.
pub(crate) const STRANGER: &str = "stranger";

const BOUND: (&str, &str) = ("tls.client.certificate.bound.access.tokens", "true");
const DPOP: (&str, &str) = ("dpop.bound.access.tokens", "true");
const AT_JWT: (&str, &str) = ("access.token.header.type.rfc9068", "true");
const ES256: (&str, &str) = ("access.token.signed.response.alg", "ES256");
const LIGHTWEIGHT: (&str, &str) = ("client.use.lightweight.access.token.enabled", "true");

/// Names of clients, whose tokens are for the API if nothing else is said.
pub(crate) const UNBOUND_CLIENT: &str = "unbound";
pub(crate) const BOUND_CLIENT: &str = "bound";
pub(crate) const BOUND_AT_JWT_CLIENT: &str = "bound-at-jwt";
pub(crate) const BOUND_ES256_CLIENT: &str = "bound-es256";
pub(crate) const DPOP_CLIENT: &str = "dpop";
pub(crate) const LIGHTWEIGHT_CLIENT: &str = "lightweight";
/// Its tokens are for the API, and for nobody who introspects.
pub(crate) const SOLE_CLIENT: &str = "sole";
/// Its tokens are for another API.
pub(crate) const ELSEWHERE_CLIENT: &str = "elsewhere";
/// Its tokens name no API: Keycloak's default.
pub(crate) const NOWHERE_CLIENT: &str = "nowhere";
/// A client that is called as the API is, so that its ID tokens have the audience of the API.
pub(crate) const NAMESAKE_CLIENT: &str = AUDIENCE;

/// The realm `name`, in the form of Keycloak's administration.
pub(crate) fn realm(name: &str) -> Value {
    let here = &[audience("api", "included.custom.audience", AUDIENCE), of_the_gateway()];
    let clients = [
        client(UNBOUND_CLIENT, &[], here),
        client(BOUND_CLIENT, &[BOUND], here),
        client(BOUND_AT_JWT_CLIENT, &[BOUND, AT_JWT], here),
        client(BOUND_ES256_CLIENT, &[BOUND, ES256], here),
        client(DPOP_CLIENT, &[DPOP], here),
        client(LIGHTWEIGHT_CLIENT, &[BOUND, LIGHTWEIGHT], here),
        client(SOLE_CLIENT, &[BOUND], &here[..1]),
        client(
            ELSEWHERE_CLIENT,
            &[BOUND],
            &[audience("other", "included.custom.audience", "https://other.example.com")],
        ),
        client(NOWHERE_CLIENT, &[BOUND], &[]),
        client(NAMESAKE_CLIENT, &[], &[]),
        client(GATEWAY, &[], here),
        client(STRANGER, &[], &[]),
    ];
    let password = json!({"type": "password", "value": SECRET, "temporary": false});
    json!({
        "realm": name,
        "enabled": true,
        "clients": clients,
        "users": [{
            "username": USER, "enabled": true, "firstName": "Alice", "lastName": "Example",
            "email": "alice@example.com", "emailVerified": true, "credentials": [password],
        }],
    })
}

/// A client that gets tokens for itself and, with her password, for the user.
fn client(id: &str, attributes: &[(&str, &str)], mappers: &[Value]) -> Value {
    let attributes: Value =
        attributes.iter().map(|&(name, value)| (name.to_owned(), Value::from(value))).collect();
    json!({
        "clientId": id, "secret": SECRET, "publicClient": false,
        "standardFlowEnabled": false, "directAccessGrantsEnabled": true,
        "serviceAccountsEnabled": true,
        "attributes": attributes, "protocolMappers": mappers,
    })
}

/// Keycloak tells a client of tokens only that have this client in their audience.
fn of_the_gateway() -> Value {
    audience("gateway", "included.client.audience", GATEWAY)
}

fn audience(name: &str, kind: &str, value: &str) -> Value {
    json!({
        "name": name, "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
        "config": {
            kind: value, "access.token.claim": "true", "introspection.token.claim": "true",
            "lightweight.claim": "false",
        },
    })
}
