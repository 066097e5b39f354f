//! Metadata of protected resources (RFC 9728): what clients may know of what policies enforce.

use crate::oauth::credentials::Scheme;
use crate::policy::{Mode, Policy, PolicySet, Resource, SenderConstraint, WELL_KNOWN_PATH};
use crate::request::Request;
use serde::Serialize;
use std::sync::Arc;

/// The metadata of one resource.
#[derive(Clone, Debug)]
pub struct ResourceMetadata {
    policy: Arc<Policy>,
    document: String,
}

/// The metadata of all resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources(Vec<Arc<ResourceMetadata>>);

/// The methods that metadata answer.
pub(crate) const METHODS: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

impl Resources {
    /// The resources of `policies`, with what is enforced there.
    pub(crate) fn of(policies: &PolicySet) -> Self {
        let resource = |policy: &Arc<Policy>| {
            let document = serde_json::to_string(&document(policy, policies)?).ok()?;
            Some(Arc::new(ResourceMetadata { policy: Arc::clone(policy), document }))
        };
        Self(policies.policies.iter().filter_map(resource).collect())
    }

    /// The metadata that `request` asks for.
    pub(crate) fn asked_for(&self, request: &Request<'_>) -> Option<&Arc<ResourceMetadata>> {
        let target = &request.target;
        // Nearly every request ends here.
        if self.0.is_empty() || !target.path.starts_with(WELL_KNOWN_PATH) {
            return None;
        }
        let found = self.0.iter().find(|it| it.policy.has_metadata_at(target))?;
        METHODS.contains(&target.method).then_some(found)
    }
}

impl ResourceMetadata {
    /// The policy that they are about.
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The metadata, in JSON.
    pub fn document(&self) -> &str {
        &self.document
    }
}

/// The members of RFC 9728 §2.
#[derive(Serialize)]
struct Document<'a> {
    resource: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorization_servers: Vec<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    scopes_supported: &'a [String],
    bearer_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dpop_signing_alg_values_supported: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dpop_bound_access_tokens_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_certificate_bound_access_tokens: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_documentation: Option<&'a str>,
}

/// None if `policy` has no resource.
fn document<'a>(policy: &'a Policy, set: &PolicySet) -> Option<Document<'a>> {
    let Resource { name, documentation } = policy.resource.as_ref()?;
    let constraint = policy.sender_constraint;
    let algorithms = if constraint.accepts(Scheme::Dpop) { &*set.proofs.algorithms } else { &[] };
    // What is only reported is not required.
    let is_enforced = policy.mode == Mode::Enforce;
    let issuers = policy.issuers.iter().filter_map(|it| set.issuers.get(it.0));
    Some(Document {
        resource: policy.resource_identifier()?,
        authorization_servers: issuers.flat_map(|it| it.identifiers()).collect(),
        scopes_supported: &policy.scopes,
        bearer_methods_supported: ["header"],
        dpop_signing_alg_values_supported: algorithms.iter().map(|it| it.name()).collect(),
        dpop_bound_access_tokens_required: requires_dpop(constraint, is_enforced),
        tls_client_certificate_bound_access_tokens: takes_certificates(constraint),
        resource_name: name.as_deref(),
        resource_documentation: documentation.as_deref(),
    })
}

/// Without it, the default is false.
fn requires_dpop(constraint: SenderConstraint, is_enforced: bool) -> Option<bool> {
    (constraint == SenderConstraint::Dpop && is_enforced).then_some(true)
}

/// Whether tokens that are bound to a certificate alone are supported, and the binding is verified.
fn takes_certificates(constraint: SenderConstraint) -> Option<bool> {
    match constraint {
        SenderConstraint::Certificate | SenderConstraint::Either | SenderConstraint::IfBound => {
            Some(true)
        }
        SenderConstraint::Dpop | SenderConstraint::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Issuer, IssuerId};
    use crate::request::Target;
    use crate::uri::Origin;
    use serde_json::{Value, json};

    fn set(edit: impl FnOnce(&mut Policy, &mut Vec<Issuer>)) -> PolicySet {
        let mut policy = Policy::new("payments", SenderConstraint::Either);
        policy.origin = Some(Origin::parse("https://api.example.com").unwrap());
        policy.matches.path_prefix = vec![b"payments".to_vec()];
        policy.resource = Some(Resource::default());
        policy.issuers = vec![IssuerId(0)];
        let mut issuers = vec![Issuer::new("https://as.example.com", "api")];
        edit(&mut policy, &mut issuers);
        PolicySet::new(issuers, [policy])
    }

    fn told(edit: impl FnOnce(&mut Policy, &mut Vec<Issuer>)) -> Value {
        let resources = Resources::of(&set(edit));
        serde_json::from_str(resources.0[0].document()).unwrap()
    }

    #[test]
    fn the_document_says_what_is_enforced_and_nothing_else() {
        let algorithms = json!(["ES256", "PS256", "RS256", "EdDSA", "Ed25519"]);
        let expected = json!({
            "resource": "https://api.example.com/payments",
            "authorization_servers": ["https://as.example.com"],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": algorithms,
            "tls_client_certificate_bound_access_tokens": true,
        });
        assert_eq!(told(|_, _| ()), expected);
        for (constraint, algs, required, certificates) in [
            (SenderConstraint::Certificate, false, None, Some(true)),
            (SenderConstraint::Dpop, true, Some(true), None),
            (SenderConstraint::Either, true, None, Some(true)),
            (SenderConstraint::IfBound, true, None, Some(true)),
            (SenderConstraint::None, false, None, None),
        ] {
            let told = told(|it, _| it.sender_constraint = constraint);
            let member = |name: &str| told.get(name).and_then(Value::as_bool);
            assert_eq!(told.get("dpop_signing_alg_values_supported").is_some(), algs);
            assert_eq!(member("dpop_bound_access_tokens_required"), required, "{constraint:?}");
            let name = "tls_client_certificate_bound_access_tokens";
            assert_eq!(member(name), certificates, "{constraint:?}");
        }
        let reported = told(|it, _| {
            it.sender_constraint = SenderConstraint::Dpop;
            it.mode = Mode::Report;
        });
        assert_eq!(reported.get("dpop_bound_access_tokens_required"), None);
    }

    #[test]
    fn what_is_written_for_people_is_told_as_it_is() {
        let told = told(|it, _| {
            it.resource = Some(Resource {
                name: Some("Pay \"ments\"".to_owned()),
                documentation: Some("https://docs.example.com".to_owned()),
            });
            it.scopes = vec!["pay".to_owned(), "see".to_owned()];
        });
        assert_eq!(told["resource_name"], "Pay \"ments\"");
        assert_eq!(told["resource_documentation"], "https://docs.example.com");
        assert_eq!(told["scopes_supported"], json!(["pay", "see"]));
    }

    #[test]
    fn authorization_servers_are_issuers_that_a_client_can_look_up() {
        let told = told(|policy, issuers| {
            let tenants = vec!["t1".to_owned(), "t2".to_owned()];
            let name = "https://login.example.com/{tenantid}/v2.0";
            issuers.push(Issuer { tenants, ..Issuer::new(name, "api") });
            issuers.push(Issuer::new("accounts.example.com", "api"));
            issuers.push(Issuer::new("http://127.0.0.1:8080", "api"));
            issuers.push(Issuer::new("https://unlisted.example.com", "api"));
            policy.issuers = [3, 1, 0, 2].map(IssuerId).into();
        });
        let expected = [
            "http://127.0.0.1:8080",
            "https://login.example.com/t1/v2.0",
            "https://login.example.com/t2/v2.0",
            "https://as.example.com",
        ];
        assert_eq!(told["authorization_servers"], json!(expected));
    }

    #[test]
    fn metadata_are_read_and_not_changed() {
        let resources = Resources::of(&set(|_, _| ()));
        let path = "/.well-known/oauth-protected-resource/payments";
        for (method, is_asked_for) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("get", false),
            ("POST", false),
            ("PUT", false),
            ("", false),
        ] {
            let target = Target { method, scheme: "https", authority: "api.example.com", path };
            let request = Request { target, ..Request::default() };
            assert_eq!(resources.asked_for(&request).is_some(), is_asked_for, "{method}");
        }
        assert!(Resources::of(&set(|it, _| it.resource = None)).0.is_empty());
        assert!(Resources::of(&set(|it, _| it.origin = None)).0.is_empty());
    }
}
