//! The effective policies, for `check-config`, `/status` and the page.

use super::{Authentication, ClaimValues, HostPattern, Match, Policy, PolicySet, Streams};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// A policy in terms of the configuration, with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectivePolicy {
    name: String,
    hosts: Vec<String>,
    #[serde(serialize_with = "as_text")]
    path_prefix: Vec<Vec<u8>>,
    methods: Vec<String>,
    allow_route_annotation: bool,
    mode: &'static str,
    streams: &'static str,
    /// Whether no token is asked for. Then there is nothing that it must be bound to.
    public: bool,
    sender_constraint: Option<&'static str>,
    origin: Option<String>,
    issuers: Vec<String>,
    scopes: Vec<String>,
    claims: BTreeMap<String, ClaimValues>,
    authentication: Option<Authentication>,
    resource_metadata: Option<String>,
    /// Whether every configured issuer is accepted.
    #[serde(skip)]
    accepts_every_issuer: bool,
}

/// Decoded, as it is compared; null for every path.
fn as_text<S: Serializer>(segments: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    let text = |it: &Vec<u8>| format!("/{}", String::from_utf8_lossy(it));
    let path = (!segments.is_empty()).then(|| segments.iter().map(text).collect::<String>());
    path.serialize(serializer)
}

impl EffectivePolicy {
    /// All policies of `set`, in matching order.
    pub fn all(set: &PolicySet) -> Vec<Self> {
        set.policies.iter().map(|it| Self::new(it, set)).collect()
    }

    /// `policy` as part of `set`.
    fn new(policy: &Policy, set: &PolicySet) -> Self {
        let Policy {
            name,
            matches: Match { hosts, path_prefix, methods },
            public: _,
            sender_constraint,
            issuers,
            scopes,
            claims,
            authentication,
            origin,
            streams,
            mode,
            routes_may_name_it,
            // Left out: these affect the wording of a denial, not the decision.
            realm: _,
            resource: _,
            resource_metadata,
        } = policy;
        let names = issuers.iter().filter_map(|it| set.issuers.get(it.0));
        let names: Vec<_> = names.map(|it| it.name.to_string()).collect();
        Self {
            name: name.to_string(),
            hosts: hosts.iter().map(HostPattern::to_string).collect(),
            path_prefix: path_prefix.clone(),
            methods: methods.clone(),
            allow_route_annotation: *routes_may_name_it,
            mode: mode.name(),
            streams: streams.name(),
            public: policy.is_public(),
            sender_constraint: (!policy.is_public()).then(|| sender_constraint.name()),
            origin: origin.as_ref().map(|it| it.as_str().to_owned()),
            accepts_every_issuer: names.len() == set.issuers.len(),
            issuers: names,
            scopes: scopes.clone(),
            claims: claims.iter().map(|it| (it.path.clone(), it.values.clone())).collect(),
            authentication: Some(authentication.clone()).filter(|it| !it.is_any()),
            resource_metadata: policy.metadata_url().or_else(|| resource_metadata.clone()),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of the metadata of its resource.
    pub fn resource_metadata(&self) -> Option<&str> {
        self.resource_metadata.as_deref()
    }

    /// Whether streams end with the token by which they were opened.
    pub fn ends_streams(&self) -> bool {
        self.streams == Streams::EndWithToken.name()
    }

    /// The column titles of a [`row`](Self::row).
    pub const COLUMNS: [&str; 8] =
        ["policy", "match", "sender constraint", "issuers", "scopes", "claims", "login", "mode"];

    /// The policy as a table row for people. Control characters are escaped for the terminal.
    pub fn row(&self) -> [String; 8] {
        let by_route = if self.allow_route_annotation { ", or a route's annotation" } else { "" };
        let issuers = match () {
            () if self.public => "-".to_owned(),
            () if self.accepts_every_issuer => "all".to_owned(),
            () => self.issuers.join(" "),
        };
        let claims = self.claims.iter().map(|(path, values)| format!("{path} = {values}"));
        [
            self.name.clone(),
            self.requests() + by_route,
            self.sender_constraint.unwrap_or("public").to_owned(),
            issuers,
            or_dash(self.scopes.join(" ")),
            or_dash(claims.collect::<Vec<_>>().join(", ")),
            or_dash(self.authentication.as_ref().map(ToString::to_string).unwrap_or_default()),
            self.mode.to_owned(),
        ]
    }

    /// The requests that the policy matches.
    fn requests(&self) -> String {
        let segments = self.path_prefix.iter().map(|it| it.escape_ascii().to_string());
        let path = segments.fold(String::new(), |path, it| path + "/" + &it);
        let parts = [self.methods.join("|"), self.hosts.join("|"), path];
        let given: Vec<_> = parts.into_iter().filter(|it| !it.is_empty()).collect();
        if given.is_empty() { "every request".to_owned() } else { given.join(" ") }
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ClaimRule, Issuer, IssuerId, Resource, Streams};
    use crate::policy::{Mode, SenderConstraint, examples};
    use crate::uri::Origin;
    use serde_json::json;
    use std::sync::Arc;

    fn effective(policy: Policy) -> EffectivePolicy {
        let mut all = EffectivePolicy::all(&examples::set_of(vec![Arc::new(policy)]));
        all.pop().unwrap()
    }

    fn values(given: serde_json::Value) -> ClaimValues {
        ClaimValues::parse(given).unwrap()
    }

    fn payments() -> Policy {
        let mut policy = Policy::new("payments", SenderConstraint::Certificate);
        let below = HostPattern::Below("example.com".to_owned());
        policy.matches.hosts = vec![HostPattern::Exact("a.example.com".to_owned()), below];
        policy.matches.path_prefix = vec![b"v1".to_vec(), "pay m\u{e9}nts".into()];
        policy.scopes = vec!["pay".to_owned(), "see".to_owned()];
        policy.routes_may_name_it = true;
        policy.claims = vec![
            ClaimRule { path: "acr".to_owned(), values: values(json!(["loa3", 3])) },
            ClaimRule { path: "act.sub".to_owned(), values: values(json!(true)) },
        ];
        policy.authentication =
            Authentication { acr: vec!["phr".to_owned()], max_age_seconds: Some(300) };
        policy.origin = Origin::parse("https://api.example.com").ok();
        policy.resource = Some(Resource::default());
        policy.mode = Mode::Report;
        policy.streams = Streams::EndWithToken;
        policy
    }

    #[test]
    fn a_policy_is_told_as_it_is_written() {
        let expected = json!({
            "name": "payments",
            "hosts": ["a.example.com", "*.example.com"],
            "path_prefix": "/v1/pay m\u{e9}nts",
            "methods": [],
            "allow_route_annotation": true,
            "mode": "report",
            "streams": "end_with_token",
            "public": false,
            "sender_constraint": "certificate",
            "origin": "https://api.example.com",
            "issuers": [],
            "scopes": ["pay", "see"],
            "claims": {"acr": ["loa3", 3], "act.sub": [true]},
            "authentication": {"acr": ["phr"], "max_age": "300s"},
            "resource_metadata":
                "https://api.example.com/.well-known/oauth-protected-resource/v1/pay%20m%C3%A9nts",
        });
        assert_eq!(serde_json::to_value(effective(payments())).unwrap(), expected);
    }

    #[test]
    fn a_row_says_the_same_in_a_line() {
        let requests = r"a.example.com|*.example.com /v1/pay m\xc3\xa9nts, or a route's annotation";
        let claims = r#"acr = "loa3" or 3, act.sub = true"#;
        let login = "phr, at most 300s ago";
        let expected =
            ["payments", requests, "certificate", "all", "pay see", claims, login, "report"];
        assert_eq!(effective(payments()).row(), expected);
    }

    fn issuer(name: &str) -> Arc<Issuer> {
        Arc::new(Issuer::new(name, "api"))
    }

    #[test]
    fn issuers_are_named_and_a_row_says_where_they_are_all() {
        for (accepted, names, shown) in [
            (&[0][..], json!(["https://a.example"]), "https://a.example"),
            (&[1, 0], json!(["https://b.example", "https://a.example"]), "all"),
        ] {
            let issuers = accepted.iter().map(|it| IssuerId(*it)).collect();
            let policy = Policy { issuers, ..Policy::new("p", SenderConstraint::Dpop) };
            let mut set = examples::set_of(vec![Arc::new(policy)]);
            set.issuers = vec![issuer("https://a.example"), issuer("https://b.example")];
            let [effective] = &EffectivePolicy::all(&set)[..] else { panic!() };
            assert_eq!(serde_json::to_value(effective).unwrap()["issuers"], names);
            assert_eq!(effective.row()[3], shown);
        }
    }

    #[test]
    fn what_is_not_demanded_is_told_as_well() {
        let open = effective(Policy::new("open", SenderConstraint::None));
        assert_eq!(open.row(), ["open", "every request", "none", "all", "-", "-", "-", "enforce"]);
        let json = serde_json::to_value(&open).unwrap();
        let absent = ["path_prefix", "origin", "authentication", "resource_metadata"]
            .map(|it| json[it].is_null());
        assert_eq!((absent, &json["allow_route_annotation"]), ([true; 4], &json!(false)));
    }

    #[test]
    fn a_public_policy_has_nothing_that_a_token_would_need() {
        let public = effective(Policy::public("health"));
        let row = ["health", "every request", "public", "-", "-", "-", "-", "enforce"];
        assert_eq!(public.row(), row);
        let json = serde_json::to_value(&public).unwrap();
        assert_eq!((&json["public"], &json["sender_constraint"]), (&json!(true), &json!(null)));
        assert_eq!(json["issuers"], json!([]));
    }
}
