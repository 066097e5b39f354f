//! Security event tokens: what an issuer says has happened to its users and their sessions (RFC 8417,
//! OpenID SSF 1.0, CAEP 1.0 and RISC 1.0).
//!
//! An event revokes tokens: those of its subject that were issued until its time. What it does not say,
//! or says in words that we do not know, never revokes less than what it says.

mod subject;

pub use subject::{EventSubject, SubjectKey, SubjectKeys};

use crate::jose::json::Object;
use crate::jose::{Header, Thumbprint, Verified};
use crate::oauth::access_token::time;
use crate::policy::Issuer;
use crate::time::UnixTime;
use crate::words::{Words, words};
use serde_json::Value;
use std::fmt;
use subject::{Named, Reach};

/// Whom we take events from, and about whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmitter {
    /// The exact `iss` of its tokens.
    pub issuer: Box<str>,
    /// Who we are to it: the `aud` of its tokens must hold one of these.
    pub audiences: Vec<String>,
    /// The name of our stream (`stream_id`), if it is known.
    pub stream: Option<Box<str>>,
}

/// A security event token that was signed by its transmitter for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEvents {
    /// The `jti`, by which it is acknowledged.
    pub jti: Box<str>,
    /// What it tells: one event or several about the same subject.
    pub events: Vec<SecurityEvent>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// Its kind; none if we know no such kind.
    pub kind: Option<EventKind>,
    /// What follows from it.
    pub effect: Effect,
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The tokens of each of these that were issued until `until` are revoked.
    Revokes {
        /// What has happened.
        kind: EventKind,
        /// Whose tokens.
        subjects: Vec<EventSubject>,
        /// The last time of issue that is revoked.
        until: UnixTime,
        /// Why that is less than the event says, if it is.
        partly: Option<Partly>,
    },
    /// The transmitter shows that the stream works (SSF 1.0 §8.1.4).
    Verifies,
    /// The transmitter says whether it will go on sending (SSF 1.0 §8.1.5).
    Streams(StreamStatus),
    /// Nothing, as it should be: a new credential takes no other away.
    Nothing,
    /// Nothing: it is about a subject of another issuer.
    Foreign,
    /// Nothing: it is about another stream, or answers to what we have not asked for.
    OtherStream,
    /// Nothing, although something should: nothing in a token tells whether it is this subject's.
    Unmapped {
        /// The format of the subject, as far as it is one that is registered.
        format: &'static str,
    },
    /// Nothing: we know no such event.
    Unknown,
}

/// Why less is revoked than an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partly {
    /// It is about a user whom nothing in a token tells: the user's other tokens stay good.
    UserUnknown,
    /// It claims a time that is later than two clocks may differ: tokens that claim to be issued after that
    /// stay good, and are not good yet.
    ClockAhead,
}

words! {
    /// A kind of event that we know.
    pub enum EventKind as "EventKind" {
        /// A session has ended (CAEP 1.0 §3.1).
        SessionRevoked = "session-revoked",
        /// The claims of a subject have changed (CAEP 1.0 §3.2).
        TokenClaimsChange = "token-claims-change",
        /// A credential has changed (CAEP 1.0 §3.3).
        CredentialChange = "credential-change",
        /// An account was disabled (RISC 1.0 §2.3).
        AccountDisabled = "account-disabled",
        /// An account was deleted (RISC 1.0 §2.2).
        AccountPurged = "account-purged",
        /// All sessions of an account have ended (RISC 1.0 §2.9).
        SessionsRevoked = "sessions-revoked",
        /// The stream is tried out.
        Verification = "verification",
        /// The state of the stream has changed.
        StreamUpdated = "stream-updated",
    }
}

words! {
    /// Whether a transmitter sends events.
    pub enum StreamStatus as "StreamStatus" {
        /// It does.
        Enabled = "enabled",
        /// It keeps them for later.
        Paused = "paused",
        /// It does not, and keeps none.
        Disabled = "disabled",
    }
}

words! {
    /// Why a security event token is refused.
    pub enum BadEvents as "BadEvents" {
        /// It is not a signed JWT, or is longer than such a token may be.
        Malformed = "malformed",
        /// Its `typ` is not `secevent+jwt`, so that it may have been signed as something else.
        Type = "type",
        /// It is not signed by a key of its transmitter.
        Signature = "signature",
        /// The keys of its transmitter are not known at present.
        Keys = "keys",
        /// Its `iss` is not the transmitter.
        Issuer = "issuer",
        /// Its `aud` is not us.
        Audience = "audience",
        /// A claim that it needs is missing or malformed.
        Claims = "claims",
    }
}

/// The longest token that is read, in bytes.
pub const EVENT_BYTES: usize = 64 * 1024;

/// The most events that one token may tell. They share a subject, and so are few.
const MAX_EVENTS: usize = 32;

/// The longest `jti`, in bytes.
const MAX_JTI: usize = 1024;

/// RFC 8417 §2.3: what keeps these tokens apart from all others.
const TYPE: &str = "secevent+jwt";

/// Where the names of the kinds stand.
const SCHEMAS: &str = "https://schemas.openid.net/secevent/";

impl SecurityEvents {
    /// Whether a token with this header may be a security event token at all.
    pub fn admit(header: &Header) -> Result<(), BadEvents> {
        if header.is_type(TYPE) { Ok(()) } else { Err(BadEvents::Type) }
    }

    /// Reads a token whose signature was verified with the keys of `from`. It came at `now`, and
    /// revokes tokens of `issuer`.
    pub fn read(
        header: &Header,
        verified: &Verified,
        from: &Transmitter,
        issuer: &Issuer,
        now: UnixTime,
    ) -> Result<Self, BadEvents> {
        Self::admit(header)?;
        Self::from_claims(verified.claims(), from, issuer, now)
    }

    fn from_claims(
        claims: &Object,
        from: &Transmitter,
        issuer: &Issuer,
        now: UnixTime,
    ) -> Result<Self, BadEvents> {
        let text = |name| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&from.issuer) {
            return Err(BadEvents::Issuer);
        }
        if !claims.get("aud").is_some_and(|it| is_for(it, &from.audiences)) {
            return Err(BadEvents::Audience);
        }
        let jti = text("jti").filter(|it| !it.is_empty() && it.len() <= MAX_JTI);
        let jti = jti.ok_or(BadEvents::Claims)?.into();
        let iat = claims.get("iat").and_then(|it| time(it, f64::ceil).ok());
        let iat = iat.ok_or(BadEvents::Claims)?;
        let events = claims.get("events").and_then(Value::as_object).ok_or(BadEvents::Claims)?;
        if events.is_empty() || MAX_EVENTS < events.len() {
            return Err(BadEvents::Claims);
        }
        let token = Token { claims, iat, from, issuer, now };
        let read = |(uri, body): (&String, &Value)| token.event(uri, body);
        Ok(Self { jti, events: events.iter().map(read).collect::<Result<_, _>>()? })
    }
}

/// A token, whose events are read.
struct Token<'a> {
    claims: &'a Object,
    iat: UnixTime,
    from: &'a Transmitter,
    issuer: &'a Issuer,
    now: UnixTime,
}

impl Token<'_> {
    fn event(&self, uri: &str, body: &Value) -> Result<SecurityEvent, BadEvents> {
        let body = body.as_object().ok_or(BadEvents::Claims)?;
        let kind = EventKind::of(uri);
        let effect = match kind {
            None => Effect::Unknown,
            Some(EventKind::Verification | EventKind::StreamUpdated)
                if self.is_of_another_stream(body) =>
            {
                Effect::OtherStream
            }
            Some(EventKind::Verification) => Effect::Verifies,
            Some(EventKind::StreamUpdated) => {
                let status = text(body, "status").and_then(StreamStatus::named);
                status.map_or(Effect::Unknown, Effect::Streams)
            }
            Some(EventKind::CredentialChange) if text(body, "change_type") == Some("create") => {
                Effect::Nothing
            }
            Some(kind) => self.revocation(kind, body),
        };
        Ok(SecurityEvent { kind, effect })
    }

    /// Whether an event is about another stream than ours: it has another name (SSF 1.0 §8.1.4, §8.1.5), or
    /// a `state` that we have not sent. One without a `state` is from the transmitter by itself.
    fn is_of_another_stream(&self, body: &Object) -> bool {
        let named = [self.claims.get("sub_id"), body.get("subject")].into_iter().flatten();
        let mut ids = named.filter_map(|it| it.get("id").and_then(Value::as_str));
        let own = self.from.stream.as_deref();
        let is_named_otherwise = own.is_some_and(|own| ids.any(|it| it != own));
        let state = body.get("state").filter(|it| !it.is_null());
        is_named_otherwise
            || state.is_some_and(|it| it.as_str() != Some(&self.from.verification_state()))
    }

    fn revocation(&self, kind: EventKind, body: &Object) -> Effect {
        // SSF 1.0 names the subject in the token, and what came before it in the event.
        let written = [self.claims.get("sub_id"), body.get("subject")];
        let mut subjects = vec![];
        let mut otherwise = Effect::Unmapped { format: "absent" };
        for written in written.into_iter().flatten() {
            match subject::read(written, self.issuer, kind.reach()) {
                Named::Of(found) => subjects.extend(found),
                Named::Foreign => otherwise = Effect::Foreign,
                Named::Unmapped(format) => otherwise = Effect::Unmapped { format },
            }
        }
        if subjects.is_empty() {
            return otherwise;
        }
        let is_user = |it: &EventSubject| matches!(it, EventSubject::User(_));
        let user_unknown = kind.reach() == Reach::User && !subjects.iter().any(is_user);
        let (when, latest) = (self.when(body), self.now.saturating_add(self.issuer.clock_leeway));
        let partly = match (user_unknown, latest < when) {
            (true, _) => Some(Partly::UserUnknown),
            (false, true) => Some(Partly::ClockAhead),
            (false, false) => None,
        };
        Effect::Revokes { kind, subjects, until: when.min(latest), partly }
    }

    /// The time of an event: `event_timestamp` (CAEP 1.0 §2), else `toe` (RFC 8417 §2.2), else `iat`.
    ///
    /// None lies behind the token that tells it: what says so is in other units than seconds, or wrong,
    /// and does not count. It may lie in our future as far as two clocks may differ: what it revokes was
    /// issued by the same clock. From beyond that it counts up to there, so that it is not forgotten, and
    /// revokes nothing for as long as a wrong clock says.
    fn when(&self, body: &Object) -> UnixTime {
        let leeway = self.issuer.clock_leeway;
        let said = [body.get("event_timestamp"), self.claims.get("toe")].into_iter().flatten();
        let said = said.filter_map(|it| time(it, f64::ceil).ok());
        let latest = self.iat.saturating_add(leeway);
        said.into_iter().find(|it| *it <= latest).unwrap_or(self.iat)
    }
}

impl Transmitter {
    /// What a verification is asked for with, and comes with (SSF 1.0 §8.1.4): the same for all replicas,
    /// since any of them may get what another has asked for.
    pub fn verification_state(&self) -> String {
        let stream = self.stream.as_deref().unwrap_or_default();
        let own = self.audiences.iter().map(String::as_str);
        let parts: Vec<_> = [&*self.issuer, stream].into_iter().chain(own).collect();
        Thumbprint::of(format!("verification\0{}", parts.join("\0")).as_bytes()).to_base64url()
    }
}

impl EventKind {
    /// The kind with this URI.
    fn of(uri: &str) -> Option<Self> {
        let (family, name) = uri.strip_prefix(SCHEMAS)?.split_once("/event-type/")?;
        Self::named(name).filter(|it| it.family() == family)
    }

    /// How much of its subject it is about.
    const fn reach(self) -> Reach {
        match self {
            Self::SessionRevoked | Self::Verification | Self::StreamUpdated => Reach::Session,
            Self::TokenClaimsChange
            | Self::CredentialChange
            | Self::AccountDisabled
            | Self::AccountPurged
            | Self::SessionsRevoked => Reach::User,
        }
    }

    /// The profile that defines it.
    const fn family(self) -> &'static str {
        match self {
            Self::SessionRevoked | Self::TokenClaimsChange | Self::CredentialChange => "caep",
            Self::AccountDisabled | Self::AccountPurged | Self::SessionsRevoked => "risc",
            Self::Verification | Self::StreamUpdated => "ssf",
        }
    }
}

impl BadEvents {
    /// The code that the transmitter is told (RFC 8935 §2.4, RFC 8936 §2.6).
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed | Self::Type | Self::Claims => "invalid_request",
            Self::Signature | Self::Keys => "invalid_key",
            Self::Issuer => "invalid_issuer",
            Self::Audience => "invalid_audience",
        }
    }

    /// What is wrong, for the operators of both sides.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "it is not a signed JWT of a size that is read",
            Self::Type => "its `typ` is not secevent+jwt",
            Self::Signature => "no key and algorithm of the transmitter verifies its signature",
            Self::Keys => "the keys of the transmitter are not known at present",
            Self::Issuer => "its `iss` is not the transmitter",
            Self::Audience => "its `aud` does not name this receiver",
            Self::Claims => "`iat`, `jti` or `events` is missing or malformed",
        }
    }

    /// Whether the same token may be good later.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Keys)
    }
}

impl fmt::Display for EventSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// RFC 7519 §4.1.3.
fn is_for(aud: &Value, audiences: &[String]) -> bool {
    let is_ours = |it: &Value| it.as_str().is_some_and(|it| audiences.iter().any(|own| own == it));
    match aud {
        Value::Array(members) => {
            members.iter().all(Value::is_string) && members.iter().any(is_ours)
        }
        Value::String(_) => is_ours(aud),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
