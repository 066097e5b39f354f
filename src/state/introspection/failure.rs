//! Why a call of an introspection endpoint had no result, and what that says about the server.

use super::breaker::Signal;
use crate::state::http;
use ::http::StatusCode;
use keybound_core::Denial;
use keybound_core::oauth::BadAnswer;
use std::fmt;
use std::time::Duration;

/// Why a call had no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The issuer's metadata cannot be fetched or has no endpoint.
    EndpointUnknown,
    /// The client assertion cannot be signed.
    NotSigned,
    Http(http::Failure),
    /// 401 or 403: it rejects our credentials.
    CredentialsRefused(StatusCode),
    /// 429: it limits our calls, and may say how long to make none.
    Limited(Option<Duration>),
    /// An unexpected media type: this one.
    FormUnknown(String),
    BadAnswer(BadAnswer),
    /// A signed response that is not valid for this issuer: the reason, and what was found.
    JwtRefused(Denial, String),
    /// No JWT was sent, though one must be forwarded.
    JwtMissing,
    /// The keys to verify the response were not available in time.
    KeysLate,
    /// All concurrent calls were in use until the deadline.
    Busy,
    /// A bug of ours, or the end of this configuration.
    Aborted,
}

impl Failure {
    /// Whether the call took too long.
    pub(super) const fn is_late(&self) -> bool {
        matches!(self, Self::Http(http::Failure::TimedOut) | Self::KeysLate)
    }

    /// What the failure says about the server.
    pub(super) fn signal(&self) -> Signal {
        match self {
            Self::CredentialsRefused(_) => Signal::Fails,
            Self::Limited(retry_after) => Signal::Limits(*retry_after),
            Self::Http(failure) => match failure {
                http::Failure::Status(status) if status.is_server_error() => Signal::Fails,
                http::Failure::Unreachable(_)
                | http::Failure::TimedOut
                | http::Failure::NoAuthorities(_) => Signal::Fails,
                http::Failure::UrlRefused => Signal::Nothing,
                http::Failure::Status(_)
                | http::Failure::Redirected(_)
                | http::Failure::TooLarge
                | http::Failure::Compressed
                | http::Failure::NotModifiedUnasked => Signal::Answers,
            },
            Self::FormUnknown(_)
            | Self::BadAnswer(_)
            | Self::JwtRefused(..)
            | Self::JwtMissing
            | Self::KeysLate => Signal::Answers,
            Self::EndpointUnknown | Self::NotSigned | Self::Busy | Self::Aborted => Signal::Nothing,
        }
    }

    /// The label in the status and in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::EndpointUnknown => "endpoint_unknown",
            Self::NotSigned => "not_signed",
            Self::Http(failure) => failure.label(),
            Self::CredentialsRefused(_) => "credentials_refused",
            Self::Limited(_) => "limited",
            Self::FormUnknown(_) => "form_unknown",
            Self::BadAnswer(why) => why.label(),
            Self::JwtRefused(..) => "jwt_refused",
            Self::JwtMissing => "jwt_missing",
            Self::KeysLate => "keys_late",
            Self::Busy => "busy",
            Self::Aborted => "aborted",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointUnknown => f.write_str("the issuer's metadata name no endpoint"),
            Self::NotSigned => f.write_str("the client assertion cannot be signed"),
            Self::Http(http::Failure::TimedOut) => f.write_str(
                "timed out: introspection.timeout, limits.check_deadline and Envoy's `timeout` go \
                 together",
            ),
            Self::Http(failure) => failure.fmt(f),
            Self::CredentialsRefused(status) => {
                write!(f, "the endpoint refuses our credentials with {}", status.as_u16())
            }
            Self::Limited(_) => f.write_str("the endpoint wants fewer calls (429)"),
            Self::FormUnknown(found) => write!(f, "the answer is neither JSON nor a JWT: {found}"),
            Self::BadAnswer(why) => why.fmt(f),
            Self::JwtRefused(why, found) => {
                write!(f, "the answer's JWT is not accepted: {why}; {found}")
            }
            Self::JwtMissing => f.write_str("no JWT came that could go upstream"),
            Self::KeysLate => f.write_str("the keys for the answer's JWT came too late"),
            Self::Busy => f.write_str("too many calls are under way"),
            Self::Aborted => f.write_str("the call was broken off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_token_does_not_speak_against_the_server() {
        let status = |it| Failure::Http(http::Failure::Status(StatusCode::from_u16(it).unwrap()));
        for (failure, signal) in [
            (status(500), Signal::Fails),
            (status(503), Signal::Fails),
            (Failure::Limited(None), Signal::Limits(None)),
            (status(400), Signal::Answers),
            (status(404), Signal::Answers),
            (Failure::CredentialsRefused(StatusCode::UNAUTHORIZED), Signal::Fails),
            (Failure::Http(http::Failure::TimedOut), Signal::Fails),
            (Failure::Http(http::Failure::Unreachable(String::new())), Signal::Fails),
            (Failure::Http(http::Failure::TooLarge), Signal::Answers),
            (Failure::BadAnswer(BadAnswer::NotJson), Signal::Answers),
            (Failure::JwtMissing, Signal::Answers),
            (Failure::JwtRefused(Denial::TokenSignatureInvalid, String::new()), Signal::Answers),
            (Failure::EndpointUnknown, Signal::Nothing),
            (Failure::Busy, Signal::Nothing),
            (Failure::Aborted, Signal::Nothing),
        ] {
            assert_eq!(failure.signal(), signal, "{failure}");
        }
    }
}
