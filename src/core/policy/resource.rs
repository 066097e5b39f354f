//! The protected resource of a policy (RFC 9728): its identifier, and where its metadata are.

use super::Policy;
use super::readings::Host;
use crate::percent::{decoded, encoded};
use crate::request::Target;

/// What the metadata of a resource say for people. All else follows from what its policy enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// The name (`resource_name`).
    pub name: Option<String>,
    /// The URL of a page for developers (`resource_documentation`).
    pub documentation: Option<String>,
}

/// Where metadata are: this stands between the origin and the path of their resource (RFC 9728 §3.1).
pub const WELL_KNOWN_PATH: &str = "/.well-known/oauth-protected-resource";

impl Policy {
    /// The identifier of the resource whose metadata are served: the origin and the path prefix of this
    /// policy. None without [`resource`](Self::resource) or [`origin`](Self::origin).
    pub fn resource_identifier(&self) -> Option<String> {
        self.at_origin("")
    }

    /// The URL of these metadata.
    pub fn metadata_url(&self) -> Option<String> {
        self.at_origin(WELL_KNOWN_PATH)
    }

    fn at_origin(&self, between: &str) -> Option<String> {
        self.resource.as_ref()?;
        let mut text = self.origin.as_ref()?.as_str().to_owned() + between;
        for segment in &self.matches.path_prefix {
            text.push('/');
            text.push_str(&encoded(segment));
        }
        Some(text)
    }

    /// The host and the path where the metadata are, which tell two resources apart.
    pub fn resource_place(&self) -> Option<(String, &[Vec<u8>])> {
        self.resource.as_ref()?;
        let (_, authority) = self.origin.as_ref()?.as_str().split_once("://")?;
        let host = Host::of(authority).plain()?.to_ascii_lowercase();
        Some((host, &self.matches.path_prefix))
    }

    /// Whether a request is for the metadata of its resource. Ports do not count, as elsewhere.
    pub(crate) fn has_metadata_at(&self, target: &Target<'_>) -> bool {
        let Some((own, path)) = self.resource_place() else { return false };
        let Some(rest) = target.path_only().strip_prefix(WELL_KNOWN_PATH) else { return false };
        let host = Host::of(target.authority).plain();
        host.is_some_and(|it| it.eq_ignore_ascii_case(&own)) && is_path(rest, path)
    }
}

/// Whether `text` is this path, with or without a slash at its end.
fn is_path(text: &str, path: &[Vec<u8>]) -> bool {
    let text = text.strip_suffix('/').unwrap_or(text);
    let mut segments = text.split('/');
    let found = segments.next().is_some_and(str::is_empty)
        && path.iter().all(|own| {
            segments.next().and_then(|it| decoded(it.as_bytes())).is_some_and(|it| it == *own)
        });
    found && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SenderConstraint;
    use crate::uri::Origin;

    fn policy(origin: &str, path: &[&str]) -> Policy {
        let mut policy = Policy::new("p", SenderConstraint::Dpop);
        policy.origin = Some(Origin::parse(origin).unwrap());
        policy.matches.path_prefix = path.iter().map(|it| it.as_bytes().to_vec()).collect();
        policy.resource = Some(Resource::default());
        policy
    }

    #[test]
    fn the_well_known_path_stands_between_origin_and_path() {
        for (origin, path, identifier, url) in [
            (
                "https://api.example.com",
                &[][..],
                "https://api.example.com",
                "https://api.example.com/.well-known/oauth-protected-resource",
            ),
            (
                "https://API.example.com:8443/",
                &["v1", "pay ments", "é"],
                "https://api.example.com:8443/v1/pay%20ments/%C3%A9",
                "https://api.example.com:8443/.well-known/oauth-protected-resource/v1/pay%20ments/%C3%A9",
            ),
        ] {
            let policy = policy(origin, path);
            assert_eq!(policy.resource_identifier().as_deref(), Some(identifier));
            assert_eq!(policy.metadata_url().as_deref(), Some(url));
        }
        let with = |edit: fn(&mut Policy)| {
            let mut policy = policy("https://api.example.com", &[]);
            edit(&mut policy);
            (policy.resource_identifier(), policy.metadata_url())
        };
        assert_eq!(with(|it| it.resource = None), (None, None));
        assert_eq!(with(|it| it.origin = None), (None, None));
    }

    #[test]
    fn metadata_are_at_one_host_and_one_path() {
        let root = policy("https://api.example.com:8443", &[]);
        let deep = policy("https://api.example.com", &["v1", "a b"]);
        for (authority, path, is_root, is_deep) in [
            ("api.example.com", "", true, false),
            ("api.example.com", "/", true, false),
            ("api.example.com", "?x=/v1/a%20b", true, false),
            ("API.example.com.:443", "", true, false),
            ("api.example.com", "/v1/a%20b", false, true),
            ("api.example.com", "/v1/a%20b/", false, true),
            ("api.example.com", "/v1/a%20b?x=1", false, true),
            ("api.example.com", "/v%31/%61%20b", false, true),
            ("api.example.com", "/v1/a%20b//", false, false),
            ("api.example.com", "//v1/a%20b", false, false),
            ("api.example.com", "/v1/a%20b/c", false, false),
            ("api.example.com", "/v1", false, false),
            ("api.example.com", "/V1/a%20b", false, false),
            ("api.example.com", "v1/a%20b", false, false),
            ("api.example.com", "/v1%2Fa%20b", false, false),
            ("api.example.com", "/v1/a%2", false, false),
            ("other.example.com", "", false, false),
            ("api.example.com@other.example.com", "", false, false),
            ("", "", false, false),
        ] {
            let path = &format!("{WELL_KNOWN_PATH}{path}");
            let target = Target { method: "GET", scheme: "https", authority, path };
            assert_eq!(root.has_metadata_at(&target), is_root, "{authority} {path}");
            assert_eq!(deep.has_metadata_at(&target), is_deep, "{authority} {path}");
        }
        for path in
            ["/.well-known/oauth-protected-resourc", "/x/.well-known/oauth-protected-resource", "/"]
        {
            let target =
                Target { method: "GET", scheme: "https", authority: "api.example.com", path };
            assert!(!root.has_metadata_at(&target), "{path}");
        }
    }
}
