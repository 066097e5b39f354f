//! The decision.

pub mod client_certificate;
pub mod facts;
pub mod jose;
pub mod oauth;
pub mod percent;
pub mod policy;
pub mod words;

mod answer;
mod check;
mod denial;
mod explanation;
mod request;
mod sources;
mod time;
mod uri;

pub use answer::{Answer, Header, Metadata};
pub use check::{Facts, Proved, Rules, Verdict, check, check_into, signature};
pub use denial::{Denial, Detail, Fault, OAuthError, Refusal};
pub use explanation::{Explanation, Finding, Mark, Step};
pub use request::{
    Annotation, Evidence, Field, Overrides, Request, Target, is_separator, reads_as,
};
pub use sources::{
    Fixed, Introspected, Keys, Newer, NotRecorded, Sources, Turns, Use, VerifiedToken, Waiting,
};
pub use time::UnixTime;
pub use uri::{HttpUri, NotHttpUri, Origin};
