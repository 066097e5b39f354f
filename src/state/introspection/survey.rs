//! One look for an introspection endpoint, for commands that try a configuration: no token is sent.

use super::endpoint::{LIMITS, Place};
use super::{BadEndpoint, IntrospectionRules, endpoint};
use crate::state::http::{Client, Credentials};
use crate::state::jwks::KeyRules;
use http::Method;
use keybound_core::policy::Issuer;
use reqwest::{Request, Url};

/// What was found of an introspection endpoint.
#[derive(Debug)]
pub struct Survey {
    /// Where the metadata were found, if they were needed; an error is a clause.
    pub metadata: Option<Result<String, String>>,
    /// The endpoint; `None` if there is none that may be asked.
    pub endpoint: Option<String>,
    /// The status of its answer to a HEAD request, which says only that it can be reached; an error is
    /// a clause. `None` if there is no endpoint.
    pub reached: Option<Result<u16, String>>,
    /// The methods of authentication that the metadata list.
    pub methods: Option<Vec<String>>,
    /// Whether they list the one that is configured. True if they list none.
    pub lists_ours: bool,
}

/// Looks for the endpoint of `issuer` once, by the rules that `serve` follows. `keys` says how the
/// issuer is reached.
pub async fn survey(
    issuer: &Issuer,
    rules: &IntrospectionRules,
    keys: &KeyRules,
) -> Result<Survey, BadEndpoint> {
    let identity = rules.identity.as_ref().map(|it| &*it.0);
    let credentials = Credentials { ca: keys.ca.as_deref(), identity };
    let client = Client::new(credentials).map_err(BadEndpoint::Credentials)?;
    let client = client.allowing_http(keys.allow_http);
    let (place, seeker) = endpoint::of(issuer, rules, &client)?;
    let (mut metadata, mut methods) = (None, None);
    let mut found = place.borrow().clone();
    if let Some(seeker) = seeker {
        let looked = seeker.look().await;
        metadata = Some(match &looked {
            Ok(it) => Ok(it.location.to_string()),
            Err(failure) => Err(failure.to_string()),
        });
        if let Ok(looked) = looked {
            methods.clone_from(&looked.introspection.authentication_methods);
            found = seeker.found(looked.introspection);
        }
    }
    let url = match found {
        Place::At(endpoint) => Some(endpoint.url),
        Place::Sought | Place::Unknown => None,
    };
    let reached = match &url {
        Some(url) => Some(reached(&client, url).await),
        None => None,
    };
    let lists_ours = methods.as_deref().is_none_or(|it| rules.authentication.is_among(it));
    Ok(Survey { metadata, endpoint: url.map(|it| it.to_string()), reached, methods, lists_ours })
}

/// Whatever it answers to a request of another method than its own, it was reached.
async fn reached(client: &Client, url: &Url) -> Result<u16, String> {
    let reply = client.send(Request::new(Method::HEAD, url.clone()), LIMITS).await;
    reply.map(|it| it.status.as_u16()).map_err(|it| it.to_string())
}
