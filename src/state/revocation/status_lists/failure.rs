//! Why a status list could not be had.

use crate::state::http;
use crate::state::refreshes::Failed;
use keybound_core::oauth::BadStatusList;
use std::fmt;

/// Why a list could not be fetched, or what was fetched is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It could not be fetched.
    Http(http::Failure),
    /// What was fetched is said to be something else than a list.
    OtherKind(String),
    /// What was fetched is not the list.
    Bad(BadStatusList),
    /// The issuer's keys are not available, so that nothing can be verified.
    NoKeys,
    /// It was issued before the list that is held.
    Older,
    /// The lists of the issuer have become too large together.
    NoRoom,
    /// It took too long.
    Late,
    /// A bug of ours, which must not stop the refreshing of lists.
    Panicked,
}

impl Failed for Failure {
    fn label(&self) -> &'static str {
        match self {
            Self::Http(failure) => failure.label(),
            Self::OtherKind(_) => "content_type",
            Self::Bad(bad) => bad.label(),
            Self::NoKeys => "keys_unavailable",
            Self::Older => "older",
            Self::NoRoom => "no_room",
            Self::Late => "timed_out",
            Self::Panicked => "internal",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(failure) => failure.fmt(f),
            Self::OtherKind(kind) => write!(
                f,
                "the answer is {kind:?}, and a status list comes as application/statuslist+jwt: have the \
                 issuer say so"
            ),
            Self::Bad(bad) => bad.fmt(f),
            Self::NoKeys => f.write_str("the keys of the issuer are not available"),
            Self::Older => f.write_str("it was issued before the one that is in use"),
            Self::NoRoom => f.write_str("the lists of the issuer together are more than 256 MiB"),
            Self::Late => f.write_str("it took too long"),
            Self::Panicked => f.write_str("reading it failed in an unforeseen way"),
        }
    }
}

impl From<http::Failure> for Failure {
    fn from(failure: http::Failure) -> Self {
        Self::Http(failure)
    }
}

impl From<BadStatusList> for Failure {
    fn from(bad: BadStatusList) -> Self {
        Self::Bad(bad)
    }
}
