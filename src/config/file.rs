//! The shape of the configuration file. The doc comments are the descriptions in its JSON Schema.
//!
//! Every field is an `Option`, even where a value is required: `compile` reports what is missing
//! together with everything else that is wrong.

mod deciding;
mod demands;
mod events;
mod keys;
mod revocation;
pub(super) mod telemetry;
pub(super) mod upstream;

pub(super) use demands::{Resource, UserAuthentication};
pub(super) use events::{EventDelivery, EventStore, Events};
pub(super) use keys::Keys;
pub(super) use revocation::Revocation;

use super::provider::Provider;
use super::usual;
use super::values::{Address, AlgorithmName, ClaimValues, Span, Word};
use crate::installation;
use crate::state::introspection::IntrospectionUpkeep;
use crate::state::replay::memory::MemoryLimits;
use crate::state::replay::redis::RedisRules;
use crate::state::token_cache::TokenCacheLimits;
use keybound_core::client_certificate::HeaderFormat;
use keybound_core::jose::Algorithm;
use keybound_core::policy::{
    self, AUDIENCE, ClaimsFrom, Mode, NonceDemand, ProofRules, ProofTime, SenderConstraint,
    Streams, USUAL_ALGORITHMS,
};
use keybound_core::words::words;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The configuration of keybound.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "keybound")]
pub(super) struct File {
    /// The listeners.
    pub(super) listen: Option<Listen>,
    /// The proxy that uses `listen.forward_auth`.
    pub(super) forward_auth: Option<ForwardAuth>,
    /// The authorization servers whose access tokens are accepted. Each may be listed once.
    #[schemars(required, length(min = 1))]
    pub(super) issuers: Option<Vec<Issuer>>,
    /// Where the client certificate comes from.
    pub(super) client_certificate: Option<ClientCertificate>,
    /// DPoP proofs (RFC 9449).
    pub(super) dpop: Option<Dpop>,
    /// What requests must show. The proxy may name a policy (`context_extensions`, key `policy`),
    /// and so may a route (`allow_route_annotation`); otherwise the first one that matches
    /// applies. A request without a policy is denied.
    #[schemars(required, length(min = 1))]
    pub(super) policies: Option<Vec<Policy>>,
    /// The limits of a check.
    pub(super) limits: Option<Limits>,
    /// The headers that the upstream receives with an allowed request.
    pub(super) upstream: Option<upstream::Upstream>,
    /// Telemetry of checks, besides the metrics and a log line for each denial.
    pub(super) telemetry: Option<telemetry::Telemetry>,
}

/// The listeners.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    /// The gRPC listener for Envoy.
    #[schemars(extend("default" = usual::ext_authz().to_string()))]
    pub(super) ext_authz: Option<Address>,
    /// The HTTP listener for forward-auth; absent: none.
    pub(super) forward_auth: Option<Address>,
    /// The listener for health, metrics and status.
    #[schemars(extend("default" = usual::admin().to_string()))]
    pub(super) admin: Option<Address>,
    /// The listener for security events by push (RFC 8935, `POST /events`); absent: none.
    pub(super) events: Option<EventsListener>,
    /// TLS on `ext_authz` and `forward_auth`; absent: no encryption.
    pub(super) tls: Option<Tls>,
}

/// The listener for security events by push.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsListener {
    /// Where it listens.
    pub(super) address: Option<Address>,
    /// Its own TLS; absent: no encryption.
    pub(super) tls: Option<Tls>,
}

/// The proxy that uses `listen.forward_auth`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardAuth {
    /// The proxy. This determines which headers describe the request; a client may set all others.
    #[schemars(extend("default" = Flavour::default().name()))]
    pub(super) flavour: Option<Word<Flavour>>,
    /// For flavour `envoy`: the `path_prefix` of its `http_service`; absent: none.
    #[schemars(regex(pattern = "^/"))]
    pub(super) path_prefix: Option<String>,
    /// A file with a secret that the proxy sends with every request, of at least 16 characters;
    /// absent: anybody who can connect is trusted as the proxy.
    pub(super) secret_file: Option<String>,
    /// The header with the secret.
    #[schemars(extend("default" = usual::SECRET_HEADER))]
    pub(super) secret_header: Option<String>,
}

words! {
    /// A proxy that uses forward-auth.
    #[default(Envoy)]
    pub(super) enum Flavour as "Flavour" {
        /// `http_service` of Envoy, `envoyExtAuthzHttp` of Istio: the request itself, without body.
        Envoy = "envoy",
        /// `auth_request` of nginx: `X-Original-Method`, `X-Original-URI`, `X-Forwarded-Host`,
        /// `X-Forwarded-Proto`.
        Nginx = "nginx",
        /// `forwardAuth` of Traefik: `X-Forwarded-Method`, `-Uri`, `-Host`, `-Proto`.
        Traefik = "traefik",
        /// `forward_auth` of Caddy: the same as Traefik.
        Caddy = "caddy",
    }
}

/// TLS of the listeners for proxies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// PEM file with the certificate and its chain.
    #[schemars(required)]
    pub(super) certificate_file: Option<String>,
    /// PEM file with the private key.
    #[schemars(required)]
    pub(super) key_file: Option<String>,
    /// PEM file with the authorities for client certificates; absent: clients need no certificate.
    pub(super) client_ca_file: Option<String>,
    /// The names that may connect: URIs (such as SPIFFE IDs) or host names, one of which must be in
    /// the client's certificate, exactly; absent: any certificate of these authorities.
    #[schemars(length(min = 1))]
    pub(super) client_names: Option<Vec<String>>,
}

/// An authorization server whose access tokens are accepted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are the file's")]
pub(super) struct Issuer {
    /// The exact `iss` of its tokens.
    #[schemars(required, length(min = 1))]
    pub(super) issuer: Option<String>,
    /// The provider, for defaults that fit its tokens; absent: those of RFC 9068.
    pub(super) provider: Option<Word<Provider>>,
    /// Who may be in the place of `{tenantid}` in `issuer`: `iss`, the claim `tid` and the `issuer` of
    /// the key must agree.
    #[schemars(length(min = 1))]
    pub(super) tenants: Option<Vec<String>>,
    /// The token's audience must contain one of them.
    #[schemars(required, length(min = 1))]
    pub(super) audiences: Option<Vec<String>>,
    /// The claim that names the audience, for tokens without `aud`: a dotted path. It must be there,
    /// and an `aud` that is there must contain one of `audiences` as well.
    #[schemars(extend("default" = AUDIENCE))]
    pub(super) audience_claim: Option<String>,
    /// Whether a token or an answer may name no audience: absent, null or empty.
    #[schemars(extend("default" = false))]
    pub(super) allow_missing_audience: Option<bool>,
    /// The algorithms that tokens may be signed with.
    #[schemars(length(min = 1), extend("default" = USUAL_ALGORITHMS.map(Algorithm::name)))]
    pub(super) algorithms: Option<Vec<AlgorithmName>>,
    /// The accepted `typ` of tokens (RFC 9068 §2.1). Name `JWT`, or `absent` for tokens without a
    /// `typ`, only for an issuer that cannot tell access tokens from others.
    #[schemars(length(min = 1), extend("default" = usual::TOKEN_TYPES))]
    pub(super) token_types: Option<Vec<String>>,
    /// Where the client and the scope stand in its tokens and answers.
    pub(super) claim_names: Option<ClaimNames>,
    /// The tolerated difference between the issuer's clock and ours: at most 5m.
    #[schemars(extend("default" = Span(usual::CLOCK_LEEWAY)))]
    pub(super) clock_leeway: Option<Span>,
    /// Whether its metadata, keys and introspection may be fetched over plain http from other
    /// machines: whoever can change that traffic can sign tokens.
    #[schemars(extend("default" = false))]
    pub(super) allow_http: Option<bool>,
    /// Where its keys come from.
    pub(super) keys: Option<Keys>,
    /// PEM file with the authorities to trust when fetching from this issuer; absent: those of the
    /// system.
    pub(super) ca_file: Option<String>,
    /// Introspection (RFC 7662); absent: opaque tokens are denied.
    pub(super) introspection: Option<Introspection>,
    /// What revokes its tokens before they expire; absent: nothing but introspection.
    pub(super) revocation: Option<Revocation>,
}

/// Where the client and the scope stand: dotted paths to claims, of which the first that is there
/// counts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimNames {
    /// The client.
    #[schemars(length(min = 1), extend("default" = policy::ClaimNames::default().client_id))]
    pub(super) client_id: Option<Vec<String>>,
    /// The scope: a string of words, or a list whose members are one word each.
    #[schemars(length(min = 1), extend("default" = policy::ClaimNames::default().scope))]
    pub(super) scope: Option<Vec<String>>,
}

/// Introspection of tokens (RFC 7662).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Introspection {
    /// The https URL of the endpoint; absent: the one in the issuer's metadata.
    pub(super) endpoint: Option<String>,
    /// How this service authenticates there; absent: as the files below are for.
    pub(super) authentication: Option<Word<Authentication>>,
    /// The client id of this service at the issuer; optional with `authentication: none` alone.
    pub(super) client_id: Option<String>,
    /// A file with the client secret.
    pub(super) client_secret_file: Option<String>,
    /// PEM file with the client certificate. It is shown with every method but `none`.
    pub(super) certificate_file: Option<String>,
    /// PEM file with the key of the certificate.
    pub(super) key_file: Option<String>,
    /// PEM file (PKCS #8) with the key that signs client assertions: RSA, P-256, P-384 or Ed25519.
    pub(super) private_key_file: Option<String>,
    /// The `kid` under which the issuer knows this key; absent: none is sent.
    pub(super) private_key_id: Option<String>,
    /// Whether to ask for a JWT (RFC 9701) and forward it in place of an opaque token.
    #[schemars(extend("default" = false))]
    pub(super) forward_jwt: Option<bool>,
    /// Which tokens are introspected.
    #[schemars(extend("default" = Introspect::default().name()))]
    pub(super) introspect: Option<Word<Introspect>>,
    /// Where the claims of a JWT are from: `answer` is for tokens that say little by themselves, and
    /// implies `introspect: always`.
    #[schemars(extend("default" = ClaimsFrom::default().name()))]
    pub(super) claims_from: Option<Word<ClaimsFrom>>,
    /// Whether a response about an opaque token may lack an audience.
    #[schemars(extend("default" = false))]
    pub(super) allow_missing_audience: Option<bool>,
    /// How long a check waits for a response: less than `limits.check_deadline`; absent: four
    /// fifths of that, and at most 800ms.
    #[schemars(extend("default" = Span(IntrospectionUpkeep::default().timeout)))]
    pub(super) timeout: Option<Span>,
    /// How long an active result is cached: a revoked token is accepted for at most this long.
    #[schemars(extend("default" = Span(IntrospectionUpkeep::default().cache_ttl)))]
    pub(super) cache_ttl: Option<Span>,
    /// How long a negative result is cached.
    #[schemars(extend("default" = Span(IntrospectionUpkeep::default().negative_ttl)))]
    pub(super) negative_ttl: Option<Span>,
    /// How many active tokens are cached, and as many others.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = IntrospectionUpkeep::default().cache_entries))]
    pub(super) cache_entries: Option<u64>,
    /// The maximum number of concurrent calls.
    #[schemars(range(min = 1, max = 10_000), extend("default" = IntrospectionUpkeep::default().concurrency))]
    pub(super) concurrency: Option<u64>,
}

words! {
    /// How this service authenticates at the introspection endpoint.
    pub(super) enum Authentication as "ClientAuthentication" {
        /// With the client secret in a header.
        ClientSecretBasic = "client_secret_basic",
        /// With the client secret in the body.
        ClientSecretPost = "client_secret_post",
        /// With a JWT that the private key signs (RFC 7523), for the issuer as its audience.
        PrivateKeyJwt = "private_key_jwt",
        /// With the client certificate (RFC 8705).
        TlsClientAuth = "tls_client_auth",
        /// Not at all: whoever reaches the endpoint may ask.
        None = "none",
    }
}

words! {
    /// Which tokens are introspected.
    #[default(Opaque)]
    pub(super) enum Introspect as "Introspect" {
        /// Those that are not JWTs.
        Opaque = "opaque",
        /// JWTs as well, so that revoked ones are denied.
        Always = "always",
    }
}

/// Where the client certificate comes from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertificate {
    /// The trusted source.
    #[schemars(extend("default" = CertificateSource::default().name()))]
    pub(super) source: Option<Word<CertificateSource>>,
    /// For source `xfcc`.
    pub(super) xfcc: Option<Xfcc>,
    /// For source `header`.
    pub(super) header: Option<CertificateHeader>,
}

words! {
    /// The trusted source of the client certificate.
    #[default(Peer)]
    pub(super) enum CertificateSource as "CertificateSource" {
        /// Envoy's own connection (`include_peer_certificate: true`).
        Peer = "peer",
        /// The `x-forwarded-client-cert` header.
        Xfcc = "xfcc",
        /// A header that the proxy sets, and strips when the client sends it.
        Header = "header",
    }
}

/// How `x-forwarded-client-cert` is read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Xfcc {
    /// The identities of the proxies between the client's TLS and this Envoy, nearest to the
    /// client first.
    #[schemars(extend("default" = []))]
    pub(super) behind: Option<Vec<String>>,
}

/// The header that carries the client certificate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateHeader {
    /// Its name.
    #[schemars(extend("default" = usual::CERTIFICATE_HEADER))]
    pub(super) name: Option<String>,
    /// How it carries the certificate.
    #[schemars(extend("default" = HeaderFormat::default().name()))]
    pub(super) format: Option<Word<HeaderFormat>>,
}

/// DPoP proofs (RFC 9449).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Dpop {
    /// The algorithms that proofs may be signed with.
    #[schemars(length(min = 1), extend("default" = USUAL_ALGORITHMS.map(Algorithm::name)))]
    pub(super) algorithms: Option<Vec<AlgorithmName>>,
    /// How far the `iat` of a proof may be from now, where that counts.
    #[schemars(extend("default" = Span(ProofRules::default().window)))]
    pub(super) proof_window: Option<Span>,
    /// Which time of a proof counts. `nonce` needs `nonce: required`.
    #[schemars(extend("default" = ProofRules::default().time.name()))]
    pub(super) time: Option<Word<ProofTime>>,
    /// Whether proofs need a nonce of this server.
    #[schemars(extend("default" = ProofRules::default().nonce.name()))]
    pub(super) nonce: Option<Word<NonceDemand>>,
    /// A file with the secret for nonces, shared by replicas; absent: generated at start.
    pub(super) nonce_secret_file: Option<String>,
    /// Where used proofs are recorded.
    pub(super) replay: Option<Replay>,
}

/// Where used proofs are recorded.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Replay {
    /// Which store.
    #[schemars(extend("default" = ReplayStore::default().name()))]
    pub(super) store: Option<Word<ReplayStore>>,
    /// How many proofs the memory holds. When it is full, proofs are denied.
    #[schemars(range(min = 1, max = 100_000_000), extend("default" = MemoryLimits::default().capacity))]
    pub(super) capacity: Option<u64>,
    /// How many proofs of one key the store holds; absent: a twentieth of `capacity`, but at least
    /// 1000, and 50000 in Redis.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(super) per_key: Option<u64>,
    /// A file with the URL of the Redis server: `redis://`, `rediss://` (TLS) or `redis+unix://`,
    /// with user and password if needed. For a cluster, one URL per line.
    pub(super) url_file: Option<String>,
    /// A file with the URLs of the sentinels that watch this Redis, one per line, with their own user and
    /// password if needed. The host of the URL in `url_file` is then the name of the master.
    pub(super) sentinel_url_file: Option<String>,
    /// Whether the URLs belong to a cluster.
    #[schemars(extend("default" = false))]
    pub(super) cluster: Option<bool>,
    /// PEM file with the authorities to trust for `rediss://`; absent: those of the system.
    pub(super) ca_file: Option<String>,
    /// PEM file with the client certificate that is shown to Redis, and its chain; absent: none.
    pub(super) certificate_file: Option<String>,
    /// PEM file with the key of the certificate.
    pub(super) key_file: Option<String>,
    /// How long a check waits for Redis.
    #[schemars(extend("default" = Span(RedisRules::DEADLINE)))]
    pub(super) timeout: Option<Span>,
}

words! {
    /// Which store records used proofs.
    #[default(Memory)]
    pub(super) enum ReplayStore as "ReplayStore" {
        /// The memory of this process.
        Memory = "memory",
        /// Redis, which replicas share.
        Redis = "redis",
    }
}

/// The requirements for one class of requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("if" = {"properties": {"public": {"const": true}}, "required": ["public"]}))]
#[schemars(extend("else" = {"required": ["sender_constraint"]}))]
pub(super) struct Policy {
    /// Its name, in logs and metrics too.
    #[schemars(required, length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub(super) name: Option<String>,
    /// Which requests it applies to; absent: all.
    #[serde(rename = "match")]
    pub(super) matches: Option<Match>,
    /// Lets requests through without a token: health checks, metadata, preflights. Identity headers and
    /// credentials are removed all the same, and nothing may be demanded of a token.
    #[schemars(extend("default" = false))]
    pub(super) public: Option<bool>,
    /// How the token must be bound to the client's key. Bindings that the token itself names are
    /// always enforced. Required unless `public` is true.
    pub(super) sender_constraint: Option<Word<SenderConstraint>>,
    /// The issuers whose tokens are accepted; absent: all.
    #[schemars(length(min = 1))]
    pub(super) issuers: Option<Vec<String>>,
    /// The scopes that the token must have; all are required.
    #[schemars(extend("default" = []))]
    pub(super) scopes: Option<Vec<String>>,
    /// Accepted values by the dotted path of a claim. The claim must equal or contain one of them.
    #[schemars(extend("default" = {}))]
    pub(super) claims: Option<BTreeMap<String, ClaimValues>>,
    /// How and how recently the user must have logged in; absent: it does not matter.
    pub(super) authentication: Option<UserAuthentication>,
    /// The public origin for the `htu` of DPoP proofs; absent: the request's scheme and host.
    pub(super) origin: Option<String>,
    /// The `realm` of challenges; absent: the policy's name.
    pub(super) realm: Option<String>,
    /// Serves metadata (RFC 9728) of the resource at `origin` and `match.path_prefix`, and names them in
    /// challenges; absent: none are served.
    pub(super) resource: Option<Resource>,
    /// The https URL of the resource's metadata (RFC 9728), for challenges, where another server has
    /// them.
    pub(super) resource_metadata: Option<String>,
    /// What stays open (server-sent events, `WebSocket`s, gRPC streams) when the token ends. The proxy must be
    /// set up to end it.
    #[schemars(extend("default" = Streams::default().name()))]
    pub(super) streams: Option<Word<Streams>>,
    /// Whether the policy is enforced.
    #[schemars(extend("default" = Mode::default().name()))]
    pub(super) mode: Option<Word<Mode>>,
    /// Lets a route select this policy by its annotation `gateway.envoyproxy.io/keybound-policy`,
    /// which Envoy Gateway sends along (`includeRouteMetadata`). If no policy allows it, the
    /// annotation is ignored.
    #[schemars(extend("default" = false))]
    pub(super) allow_route_annotation: Option<bool>,
}

/// Which requests a policy applies to. All conditions must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    /// Hosts, without a port; `*.example.com` matches every host below example.com. Absent: every
    /// host.
    #[schemars(length(min = 1))]
    pub(super) hosts: Option<Vec<String>>,
    /// The path begins with these whole segments. Absent: every path.
    #[schemars(regex(pattern = "^/"))]
    pub(super) path_prefix: Option<String>,
    /// Methods. Absent: every method.
    #[schemars(length(min = 1))]
    pub(super) methods: Option<Vec<String>>,
}

/// The limits of a check.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// The maximum length of an access token, in bytes.
    #[schemars(range(min = 256, max = 1_048_576), extend("default" = policy::USUAL_TOKEN_BYTES))]
    pub(super) token_bytes: Option<u64>,
    /// The maximum duration of a check. By default, Envoy times out after 200ms. Where an issuer
    /// has `introspection` and this is absent, it is a quarter more than the longest
    /// `introspection.timeout`, which is 1s by default.
    #[schemars(extend("default" = Span(installation::Limits::default().check_deadline)))]
    pub(super) check_deadline: Option<Span>,
    /// The maximum number of concurrent checks.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = installation::Limits::default().concurrent_checks))]
    pub(super) concurrent_checks: Option<u64>,
    /// How many verified tokens are cached.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = TokenCacheLimits::default().entries))]
    pub(super) token_cache_entries: Option<u64>,
    /// The maximum size of cached tokens, in bytes.
    #[schemars(range(min = 65_536, max = 17_179_869_184_u64), extend("default" = TokenCacheLimits::default().bytes))]
    pub(super) token_cache_bytes: Option<u64>,
}
