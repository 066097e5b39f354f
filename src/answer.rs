//! Knows what is sent back: the one thing that front ends turn into bytes.

use std::borrow::Cow;
use std::sync::Arc;

/// A header that the answer carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its value.
    pub value: String,
}

/// What is told to the proxy about the decision, as dynamic metadata.
pub type Metadata = Vec<(&'static str, Cow<'static, str>)>;

/// The answer to one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request goes on to the upstream.
    Allow {
        /// Request headers that replace those of the client.
        set: Vec<Header>,
        /// Request headers that go.
        remove: Vec<Arc<str>>,
        /// Headers that are added to the upstream's response.
        to_client: Vec<Header>,
        /// For the proxy's log.
        metadata: Metadata,
    },
    /// The client gets this answer instead.
    Deny {
        /// The HTTP status, 400 to 599.
        status: u16,
        /// The headers of the answer; `www-authenticate` may be there twice.
        to_client: Vec<Header>,
        /// The body, JSON.
        body: String,
        /// For the proxy's log.
        metadata: Metadata,
    },
}

impl Answer {
    /// The answer to a check that ended with `verdict` under `rules`.
    pub fn of(_verdict: &crate::check::Verdict, _rules: &crate::policy::PolicySet) -> Self {
        Self::Deny { status: 500, to_client: vec![], body: String::new(), metadata: vec![] }
    }
}
