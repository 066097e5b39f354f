//! Where a list may be fetched from. Its URI stands in a token, and leads only to where a `jwks_uri` in
//! the metadata of the same issuer could lead.

use crate::state::discovery;
use crate::state::jwks::{KeyRules, KeySource};
use reqwest::Url;

/// The places from which an issuer may lead to its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// What the operator named: the issuer, and where its keys are.
    named: Vec<Url>,
    allow_http: bool,
}

impl Places {
    /// Those of `issuer`, whose keys are obtained by `rules`.
    pub(super) fn of(issuer: &str, rules: &KeyRules) -> Self {
        let keys = match &rules.source {
            KeySource::Uri(url) => Some(&**url),
            KeySource::Discovery | KeySource::File(_) => None,
        };
        let named = [Some(issuer), keys, Some(ANYWHERE)].into_iter().flatten();
        let named = named.filter_map(|it| Url::parse(it).ok()).collect();
        Self { named, allow_http: rules.allow_http }
    }

    /// The URL `uri`, if it may be asked.
    pub(super) fn admit(&self, uri: &str) -> Option<Url> {
        self.named.iter().find_map(|it| discovery::led_to(uri, it, self.allow_http))
    }
}

/// A place that is near to nothing, for an issuer whose name is no URL.
const ANYWHERE: &str = "https://anywhere.invalid/";

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(issuer: &str, keys: KeySource, allow_http: bool, uri: &str) -> bool {
        let rules = KeyRules { allow_http, ..KeyRules::new(keys) };
        Places::of(issuer, &rules).admit(uri).is_some()
    }

    const OUTSIDE: [&str; 3] = [
        "https://as.example.com/statuses/1",
        "https://lists.example.net:8443/1?a=b",
        "https://93.184.216.34/1",
    ];
    const NEAR: [&str; 6] = [
        "https://10.0.0.1/1",
        "https://192.168.1.1/1",
        "https://[fd00::1]/1",
        "https://127.0.0.1/1",
        "http://127.0.0.1/1",
        "https://localhost/1",
    ];
    const NEVER: [&str; 10] = [
        "http://as.example.com/1",
        "https://169.254.169.254/latest/meta-data",
        "http://169.254.169.254/latest/meta-data",
        "https://0.0.0.0/1",
        "https://user:secret@as.example.com/1",
        "file:///etc/passwd",
        "data:application/statuslist+jwt,a.b.c",
        "urn:statuses:1",
        "/statuses/1",
        "",
    ];

    #[test]
    fn a_public_issuer_leads_to_public_places() {
        let issuer = "https://as.example.com";
        for uri in OUTSIDE {
            assert!(admits(issuer, KeySource::Discovery, false, uri), "{uri}");
        }
        for uri in NEAR.into_iter().chain(NEVER) {
            assert!(!admits(issuer, KeySource::Discovery, false, uri), "{uri}");
        }
        for allowed in ["http://as.example.com/1", "http://lists.example.net/1"] {
            assert!(admits(issuer, KeySource::Discovery, true, allowed), "{allowed}");
        }
        for uri in NEAR.into_iter().chain(NEVER).filter(|it| !it.contains("as.example.com/1")) {
            assert!(!admits(issuer, KeySource::Discovery, true, uri), "{uri}");
        }
    }

    #[test]
    fn an_issuer_leads_to_its_own_surroundings_and_to_those_of_its_keys() {
        let private = "https://10.1.2.3/realm";
        assert!(admits(private, KeySource::Discovery, false, "https://10.0.0.1/1"));
        assert!(!admits(private, KeySource::Discovery, false, "https://127.0.0.1/1"));
        let here = "http://127.0.0.1:8080";
        assert!(admits(here, KeySource::Discovery, false, "http://127.0.0.1:8081/1"));
        let keys = KeySource::Uri("https://10.1.2.3/jwks".to_owned());
        assert!(admits("https://as.example.com", keys.clone(), false, "https://10.0.0.1/1"));
        assert!(!admits("https://as.example.com", keys, false, "https://127.0.0.1/1"));
    }

    #[test]
    fn an_issuer_that_is_no_url_leads_to_public_places() {
        for issuer in ["kubernetes/serviceaccount", "spiffe://example.org", "example"] {
            let file = || KeySource::File("/etc/keybound/jwks.json".into());
            assert!(admits(issuer, file(), false, "https://as.example.com/1"), "{issuer}");
            for uri in NEAR.into_iter().chain(NEVER) {
                assert!(!admits(issuer, file(), false, uri), "{issuer} {uri}");
            }
        }
    }
}
