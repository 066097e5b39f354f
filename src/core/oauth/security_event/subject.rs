//! Subjects of events (RFC 9493, SSF 1.0 §3), and how they are found again in tokens.

use crate::jose::Thumbprint;
use crate::jose::json::Object;
use crate::oauth::revocable::{Identifier, Revocable};
use crate::policy::Issuer;
use serde_json::Value;

/// Whose tokens an event revokes, of one issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSubject {
    /// Tokens with this `sub`.
    User(Box<str>),
    /// Tokens with this `sid`.
    Session(Box<str>),
    /// Tokens with this `sub` that have no `sid`: they may be of any session of the user.
    Sessionless(Box<str>),
    /// The token with this `jti`.
    Token(Box<str>),
}

/// A subject as it is kept and looked up: the first half of a SHA-256, which reveals nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectKey([u8; 16]);

/// The subjects that one token may be revoked by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectKeys(Vec<SubjectKey>);

/// What a subject names.
pub(super) enum Named {
    /// These.
    Of(Vec<EventSubject>),
    /// Somebody of another issuer.
    Foreign,
    /// Nobody whose tokens could be told, in this format.
    Unmapped(&'static str),
}

/// What keys are about. They are written down, and must not change.
const SUB: &str = "sub";
const SID: &str = "sid";
const SESSIONLESS: &str = "sub without sid";
const JTI: &str = "jti";

/// How deep subjects may hold others: `aliases` in a member of a complex subject.
const DEPTH: usize = 3;

impl EventSubject {
    /// The kind of subject.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Session(_) => "session",
            Self::Sessionless(_) => "user without a session",
            Self::Token(_) => "token",
        }
    }

    /// How it is looked up.
    pub fn key(&self) -> SubjectKey {
        match self {
            Self::User(sub) => SubjectKey::of(SUB, sub),
            Self::Session(sid) => SubjectKey::of(SID, sid),
            Self::Sessionless(sub) => SubjectKey::of(SESSIONLESS, sub),
            Self::Token(jti) => SubjectKey::of(JTI, jti),
        }
    }
}

impl SubjectKey {
    fn of(kind: &str, value: &str) -> Self {
        let octets = [kind.as_bytes(), b"\0", value.as_bytes()].concat();
        let mut half = [0; 16];
        let digest = Thumbprint::of(&octets);
        half.iter_mut().zip(digest.octets()).for_each(|(to, from)| *to = *from);
        Self(half)
    }

    /// A key that was written down.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// Its octets, to write them down.
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }
}

impl SubjectKeys {
    /// Those of a token.
    pub fn of(token: &Revocable) -> Self {
        let all = |it| token.all(it);
        let own =
            Self::from_claims(all(Identifier::Sub), all(Identifier::Sid), all(Identifier::Jti));
        if !token.is_listed(Identifier::Sid) {
            return own;
        }
        // What should name one session and does not may be of any.
        let more = all(Identifier::Sub).map(|it| SubjectKey::of(SESSIONLESS, it));
        Self(own.iter().chain(more).collect())
    }

    /// Those of a token with these `sub`, `sid` and `jti`.
    pub fn from_claims<'a>(
        subs: impl IntoIterator<Item = &'a str>,
        sids: impl IntoIterator<Item = &'a str>,
        jtis: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let subs: Vec<_> = subs.into_iter().collect();
        let mut keys: Vec<_> = sids.into_iter().map(|it| SubjectKey::of(SID, it)).collect();
        if keys.is_empty() {
            keys.extend(subs.iter().map(|it| SubjectKey::of(SESSIONLESS, it)));
        }
        keys.extend(subs.iter().map(|it| SubjectKey::of(SUB, it)));
        keys.extend(jtis.into_iter().map(|it| SubjectKey::of(JTI, it)));
        Self(keys)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = SubjectKey> {
        self.0.iter().copied()
    }
}

/// How much of what a complex subject names an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The session, where one is named.
    Session,
    /// The whole user, whatever session is named besides.
    User,
}

/// Reads a subject of an event that concerns tokens of `issuer`.
pub(super) fn read(subject: &Value, issuer: &Issuer, reach: Reach) -> Named {
    read_within(subject, issuer, reach, DEPTH)
}

fn read_within(subject: &Value, issuer: &Issuer, reach: Reach, depth: usize) -> Named {
    let Some((subject, depth)) = subject.as_object().zip(depth.checked_sub(1)) else {
        return Named::Unmapped("malformed");
    };
    // RISC wrote `subject_type` and `iss-sub` before RFC 9493.
    let format = text(subject, "format").or_else(|| text(subject, "subject_type"));
    match format.map(|it| it.replace('-', "_")).as_deref() {
        Some("iss_sub") => of_issuer(subject, issuer, "sub", EventSubject::User),
        Some("jwt_id") => of_issuer(subject, issuer, "jti", EventSubject::Token),
        // It may be a user or a session: CAEP's own examples have both.
        Some("opaque") => match text(subject, "id") {
            Some(id) => {
                Named::Of(vec![EventSubject::User(id.into()), EventSubject::Session(id.into())])
            }
            None => Named::Unmapped("malformed"),
        },
        Some("aliases") => aliases(subject, issuer, reach, depth),
        Some("complex") => complex(subject, issuer, reach, depth),
        Some("account") => Named::Unmapped("account"),
        Some("email") => Named::Unmapped("email"),
        Some("phone_number") => Named::Unmapped("phone_number"),
        Some("did") => Named::Unmapped("did"),
        Some("uri") => Named::Unmapped("uri"),
        Some("ip_addresses") => Named::Unmapped("ip_addresses"),
        Some("saml_assertion_id") => Named::Unmapped("saml_assertion_id"),
        Some(_) => Named::Unmapped("other"),
        None if subject.contains_key("user") || subject.contains_key("session") => {
            complex(subject, issuer, reach, depth)
        }
        None => Named::Unmapped("malformed"),
    }
}

fn of_issuer(
    subject: &Object,
    issuer: &Issuer,
    name: &str,
    made: fn(Box<str>) -> EventSubject,
) -> Named {
    match (text(subject, "iss"), text(subject, name)) {
        (Some(iss), Some(_)) if !issuer.is_called(iss) => Named::Foreign,
        (Some(_), Some(value)) => Named::Of(vec![made(value.into())]),
        _ => Named::Unmapped("malformed"),
    }
}

/// Names of one and the same subject (RFC 9493 §3.2.8): those that are known count.
fn aliases(subject: &Object, issuer: &Issuer, reach: Reach, depth: usize) -> Named {
    let names = subject.get("identifiers").and_then(Value::as_array);
    let mut found = vec![];
    let mut foreign = false;
    for name in names.into_iter().flatten() {
        match read_within(name, issuer, reach, depth) {
            Named::Of(more) => found.extend(more),
            Named::Foreign => foreign = true,
            Named::Unmapped(_) => (),
        }
    }
    match (found.is_empty(), foreign) {
        (false, _) => Named::Of(found),
        (true, true) => Named::Foreign,
        (true, false) => Named::Unmapped("aliases"),
    }
}

/// A subject that all members name together (SSF 1.0 §3.1).
///
/// A session, where one is named and the event is about no more, else the user. Other members (device,
/// application, tenant, group) narrow it to what no token tells, so that they are left out: rather more is
/// revoked than less.
fn complex(subject: &Object, issuer: &Issuer, reach: Reach, depth: usize) -> Named {
    let member = |name: &str| subject.get(name).map(|it| read_within(it, issuer, reach, depth));
    let user = member("user");
    match &user {
        Some(Named::Foreign) => return Named::Foreign,
        Some(Named::Of(found)) if reach == Reach::User => return Named::Of(found.clone()),
        Some(Named::Of(_) | Named::Unmapped(_)) | None => (),
    }
    let users = match &user {
        Some(Named::Of(found)) => found.iter().filter_map(of_user).collect(),
        _ => vec![],
    };
    match (subject.get("session").map(|it| sessions(it, issuer)), user) {
        (Some(Named::Foreign), _) => Named::Foreign,
        (Some(Named::Of(sessions)), _) => {
            // A token that names no session may be of this one.
            Named::Of(
                sessions
                    .into_iter()
                    .chain(users.into_iter().map(EventSubject::Sessionless))
                    .collect(),
            )
        }
        // The session cannot be told: all of the user's.
        (_, Some(whose)) | (Some(whose), None) => whose,
        (None, None) => Named::Unmapped("complex"),
    }
}

/// The session that a member of a complex subject names.
fn sessions(subject: &Value, issuer: &Issuer) -> Named {
    let Some(subject) = subject.as_object() else { return Named::Unmapped("malformed") };
    let foreign = text(subject, "iss").is_some_and(|it| !issuer.is_called(it));
    let id = ["id", "sub", "sid"].into_iter().find_map(|it| text(subject, it));
    match id {
        _ if foreign => Named::Foreign,
        Some(id) => Named::Of(vec![EventSubject::Session(id.into())]),
        None => Named::Unmapped("session"),
    }
}

fn of_user(subject: &EventSubject) -> Option<Box<str>> {
    match subject {
        EventSubject::User(sub) => Some(sub.clone()),
        EventSubject::Session(_) | EventSubject::Sessionless(_) | EventSubject::Token(_) => None,
    }
}

/// A text that is not empty: an empty `sub` names nobody.
fn text<'a>(subject: &'a Object, name: &str) -> Option<&'a str> {
    subject.get(name).and_then(Value::as_str).filter(|it| !it.is_empty())
}
