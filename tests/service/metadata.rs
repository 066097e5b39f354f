//! Metadata of resources (RFC 9728), the challenges of their policies, and what is enforced say the same.

use crate::support::proofs::prove;
use crate::support::tokens::Signer;
use futures_util::FutureExt;
use jsonwebtoken::Algorithm;
use keybound_core::jose::{KeySet, Thumbprint, thumbprint};
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::{
    Issuer, IssuerId, Mode, Policy, PolicySet, Resource, SenderConstraint,
};
use keybound_core::words::Words;
use keybound_core::{
    Answer, Evidence, Field, Fixed, HttpUri, Origin, PeerCertificate, Request, Rules, Target,
    UnixTime, Verdict, check,
};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

const NOW: i64 = 1_800_000_000;
const ISSUERS: [&str; 2] = ["https://one.example.com", "https://two.example.com"];
const SCOPES: [&str; 2] = ["pay", "see"];
const RESOURCE: &str = "https://api.example.com/payments";
const METADATA: &str = "/.well-known/oauth-protected-resource/payments";

/// To which keys a token is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Nothing,
    Certificate,
    Key,
}

/// Two issuers and a client, who holds a certificate and a DPoP key.
struct World {
    issuers: [Signer; 2],
    client: Signer,
    certificate: Thumbprint,
    proofs: Cell<u32>,
}

/// One policy, and the keys of the issuers.
struct Site {
    rules: Rules,
    sources: Fixed,
}

impl World {
    fn new() -> Self {
        Self {
            issuers: ["one", "two"].map(|it| Signer::new(Algorithm::ES256, it)),
            client: Signer::new(Algorithm::ES256, "client"),
            certificate: Thumbprint::of(b"certificate"),
            proofs: Cell::new(0),
        }
    }

    fn site(&self, edit: impl FnOnce(&mut Policy)) -> Site {
        let mut policy = Policy::new("payments", SenderConstraint::Either);
        policy.origin = Some(Origin::parse("https://api.example.com").unwrap());
        policy.matches.path_prefix = vec![b"payments".to_vec()];
        policy.resource = Some(Resource::default());
        edit(&mut policy);
        let issuers = ISSUERS.map(|it| Issuer::new(it, "api"));
        let rules = Rules::new(
            PolicySet::new(issuers, [policy]),
            Arc::new(NonceKeys::from_octets(&[0; 32])),
        );
        let keys = self.issuers.each_ref().map(|it| {
            let set = json!({"keys": [it.jwk()]}).to_string();
            Arc::new(KeySet::parse(set.as_bytes()).unwrap())
        });
        Site { rules, sources: Fixed::new(keys) }
    }

    /// How a request ends with a token of this issuer, with all that can be proved of it.
    fn verdict(&self, site: &Site, issuer: usize, bound: Bound, scope: &str) -> Verdict {
        let jkt = thumbprint(self.client.jwk().as_object().unwrap()).unwrap().to_base64url();
        let cnf = match bound {
            Bound::Nothing => json!(null),
            Bound::Certificate => json!({"x5t#S256": self.certificate.to_base64url()}),
            Bound::Key => json!({ "jkt": jkt }),
        };
        let mut claims = json!({
            "iss": ISSUERS[issuer], "aud": "api", "sub": "alice", "client_id": "app",
            "iat": NOW, "exp": NOW + 60, "scope": scope, "cnf": cnf,
        });
        if bound == Bound::Nothing {
            claims.as_object_mut().unwrap().remove("cnf");
        }
        let token = self.issuers[issuer].sign("at+jwt", &claims);
        self.proofs.set(self.proofs.get() + 1);
        let proof = json!({
            "jti": self.proofs.get().to_string(), "htm": "GET", "htu": RESOURCE, "iat": NOW,
            "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        let proof = prove(&self.client, &proof);
        let scheme = if bound == Bound::Key { "DPoP" } else { "Bearer" };
        let authorization = format!("{scheme} {token}");
        let mut request = at("/payments", "GET");
        request.authorization = Field::One(authorization.as_bytes());
        request.evidence = Evidence {
            peer_certificate: PeerCertificate::Sha256(self.certificate),
            ..Evidence::default()
        };
        if bound == Bound::Key {
            request.proof = Field::One(proof.as_bytes());
        }
        site.check(&request)
    }
}

impl Site {
    fn check(&self, request: &Request<'_>) -> Verdict {
        let now = UnixTime::from_secs(NOW);
        check(&self.rules, &self.sources, request, now).now_or_never().unwrap()
    }

    /// The metadata, as a client gets them.
    fn metadata(&self) -> Value {
        let request = at(METADATA, "GET");
        let verdict = Verdict::serving(self.rules.metadata_asked_for(&request).unwrap());
        let answer = Answer::of(&verdict, &self.rules.policies, Some(&request));
        let Answer::Served { status: 200, body, .. } = answer else { panic!("{answer:?}") };
        serde_json::from_str(body).unwrap()
    }

    /// The parameters of each challenge to a client without a token, by scheme.
    fn challenges(&self) -> HashMap<String, HashMap<String, String>> {
        let request = at("/payments", "GET");
        let verdict = self.check(&request);
        let answer = Answer::of(&verdict, &self.rules.policies, Some(&request));
        let Answer::Deny { status: 401, to_client, .. } = answer else { panic!("{answer:?}") };
        let lines = to_client.iter().filter(|it| it.name == "www-authenticate");
        lines
            .map(|it| {
                let (scheme, parameters) = it.value.split_once(' ').unwrap();
                let parameter = |it: &str| {
                    let (name, value) = it.split_once('=').unwrap();
                    (name.to_owned(), value.trim_matches('"').to_owned())
                };
                (scheme.to_owned(), parameters.split(", ").map(parameter).collect())
            })
            .collect()
    }
}

fn at<'a>(path: &'a str, method: &'a str) -> Request<'a> {
    let target = Target { method, scheme: "https", authority: "api.example.com", path };
    Request { target, ..Request::default() }
}

fn texts(metadata: &Value, name: &str) -> Vec<String> {
    let members = metadata[name].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

#[test]
fn metadata_challenge_and_what_is_enforced_agree_over_all_constraints_scopes_and_issuers() {
    let world = World::new();
    for constraint in SenderConstraint::all() {
        for scopes in [&[][..], &SCOPES[..1], &SCOPES] {
            for issuers in [&[0][..], &[1], &[1, 0]] {
                for mode in [Mode::Enforce, Mode::Report] {
                    let site = world.site(|it| {
                        it.sender_constraint = constraint;
                        it.scopes = scopes.iter().map(ToString::to_string).collect();
                        it.issuers = issuers.iter().copied().map(IssuerId).collect();
                        it.mode = mode;
                    });
                    let what = format!("{constraint:?} {scopes:?} {issuers:?} {mode:?}");
                    agree(&world, &site, mode, &what);
                }
            }
        }
    }
}

fn agree(world: &World, site: &Site, mode: Mode, what: &str) {
    let metadata = site.metadata();
    assert_eq!(metadata["resource"], RESOURCE);
    let (servers, scopes) =
        (texts(&metadata, "authorization_servers"), texts(&metadata, "scopes_supported"));
    let algorithms = texts(&metadata, "dpop_signing_alg_values_supported");
    let flag = |name: &str| metadata.get(name).is_some_and(|it| it == true);
    let requires_key = flag("dpop_bound_access_tokens_required");
    let takes_certificates = flag("tls_client_certificate_bound_access_tokens");
    let verifies = takes_certificates || !algorithms.is_empty();
    match mode {
        Mode::Enforce => {
            challenges_agree(&site.challenges(), &scopes, &algorithms, requires_key, what);
        }
        Mode::Report => assert!(!requires_key, "{what}"),
    }
    for (issuer, name) in ISSUERS.iter().enumerate() {
        for bound in [Bound::Nothing, Bound::Certificate, Bound::Key] {
            for scope in ["", "pay", "pay see"] {
                let verdict = world.verdict(site, issuer, bound, scope);
                let what = format!("{what}: {issuer} {bound:?} {scope:?} {:?}", verdict.outcome);
                let known = servers.iter().any(|it| it == name);
                let enough = scopes.iter().all(|it| scope.split(' ').any(|own| own == it));
                // A client cannot tell by them whether unbound tokens pass; only whether they do not.
                let fits = match bound {
                    Bound::Nothing => !requires_key,
                    Bound::Certificate => takes_certificates || !verifies,
                    Bound::Key => !algorithms.is_empty() || !verifies,
                };
                if mode == Mode::Report {
                    assert_eq!(verdict.denied(), None, "{what}");
                } else if bound == Bound::Nothing {
                    assert!((known && enough && fits) || verdict.outcome.is_err(), "{what}");
                } else {
                    assert_eq!(verdict.outcome.is_ok(), known && enough && fits, "{what}");
                }
            }
        }
    }
}

fn challenges_agree(
    challenges: &HashMap<String, HashMap<String, String>>,
    scopes: &[String],
    algorithms: &[String],
    requires_key: bool,
    what: &str,
) {
    assert_eq!(challenges.contains_key("DPoP"), !algorithms.is_empty(), "{what}");
    assert_eq!(challenges.contains_key("Bearer"), !requires_key, "{what}");
    for (scheme, parameters) in challenges {
        let scope = (!scopes.is_empty()).then(|| scopes.join(" "));
        assert_eq!(parameters.get("scope"), scope.as_ref(), "{what}");
        let algs = (scheme == "DPoP").then(|| algorithms.join(" "));
        assert_eq!(parameters.get("algs"), algs.as_ref(), "{what}");
        let url = HttpUri::parse(&parameters["resource_metadata"]).unwrap();
        assert_eq!(url.as_str(), format!("https://api.example.com{METADATA}"), "{what}");
    }
}

#[test]
fn a_check_that_nobody_asked_to_serve_refuses() {
    let world = World::new();
    let site = world.site(|it| it.issuers = vec![IssuerId(0)]);
    let denied = site.check(&at(METADATA, "GET")).denied();
    assert_eq!(denied.map(keybound_core::Denial::label), Some("policy_unknown"));
}

#[test]
fn pages_of_every_origin_may_read_metadata_and_send_their_headers() {
    let world = World::new();
    let site = world.site(|_| ());
    for (method, expected) in [
        (
            "GET",
            vec![
                ("access-control-allow-origin", "*"),
                ("cache-control", "public, max-age=300"),
                ("content-type", "application/json"),
            ],
        ),
        (
            "OPTIONS",
            vec![
                ("access-control-allow-origin", "*"),
                ("cache-control", "public, max-age=300"),
                ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
                ("access-control-allow-headers", "*"),
                ("access-control-max-age", "86400"),
                ("allow", "GET, HEAD, OPTIONS"),
            ],
        ),
    ] {
        let request = at(METADATA, method);
        let verdict = Verdict::serving(site.rules.metadata_asked_for(&request).unwrap());
        let answer = Answer::of(&verdict, &site.rules.policies, Some(&request));
        let Answer::Served { to_client, body, metadata, .. } = &answer else {
            panic!("{answer:?}")
        };
        let found: Vec<_> = to_client.iter().map(|it| (it.name, &*it.value)).collect();
        assert_eq!(found, expected, "{method}");
        assert_eq!(body.is_empty(), method == "OPTIONS");
        let told =
            [("decision", "served"), ("reason", "resource_metadata"), ("policy", "payments")];
        assert_eq!(metadata[..3], told);
    }
}
