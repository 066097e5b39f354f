//! What tells that a token is among those that were revoked: its identifiers, when it was issued, and
//! where its status stands.

use super::access_token::{BEGINNING, time};
use super::status_list::{MalformedStatus, StatusReference};
use crate::jose::json::Object;
use crate::policy::{Issuer, StatusDemand};
use crate::time::UnixTime;
use serde_json::Value;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// What tells that a token is among those that were revoked.
///
/// Of a JWT that its issuer was asked about, both what it says and what the answer says count: a
/// wrapped token may have another `jti` than the one in it.
#[derive(Clone, Debug)]
pub struct Revocable {
    own: Identifiers,
    /// In the issuer's answer about the token.
    said: Option<Box<Identifiers>>,
    /// What stands in either where a name should and is none.
    listed: Box<[Listed]>,
    /// Where its status stands, as the token says and as the answer says.
    places: Result<Box<[StatusReference]>, MalformedStatus>,
    /// The answer names a place or a list that the token does not.
    is_said_elsewhere: bool,
    issued: UnixTime,
    /// Under which list of revoked tokens it was last found to be good.
    pub passed: Passed,
    /// Under which events it was last found to be good.
    pub passed_events: Passed,
}

type Identifiers = [Option<Box<str>>; Identifier::ALL.len()];

/// The names in a claim that should be one name and is a list or an object: it may mean each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    identifier: Identifier,
    names: Vec<Box<str>>,
    /// There are more than are kept.
    has_more: bool,
}

/// The most names of a claim that are looked up. Those of four claims may have to be combined.
const MOST_LISTED: usize = 4;

/// An identifier by which tokens are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identifier {
    /// `jti`: the token (RFC 7519 §4.1.7).
    Jti,
    /// `sub`: the user (RFC 7519 §4.1.2).
    Sub,
    /// `sid`: the session (OpenID Connect Front-Channel Logout 1.0 §3).
    Sid,
    /// `client_id`: the client, wherever [`ClaimNames`](crate::policy::ClaimNames) says it stands.
    ClientId,
}

impl Identifier {
    /// Every identifier.
    pub const ALL: [Self; 4] = [Self::Jti, Self::Sub, Self::Sid, Self::ClientId];

    /// Its name, as that of the claim.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Sub => "sub",
            Self::Sid => "sid",
            Self::ClientId => "client_id",
        }
    }
}

impl Revocable {
    /// That of a token with these claims; none if its issuer revokes no tokens.
    pub(super) fn of(claims: &Object, issuer: &Issuer) -> Option<Box<Self>> {
        issuer.revokes.then(|| {
            let claim = |it: Identifier| issuer.claim_names.find(claims, it.name());
            let identifier = |it| claim(it).and_then(name);
            let listed = |it| claim(it).and_then(|claim| Listed::of(it, claim));
            let iat = claims.get("iat").and_then(|it| time(it, f64::floor).ok());
            let place = match issuer.status {
                StatusDemand::Off => Ok(None),
                StatusDemand::IfPresent | StatusDemand::Required => StatusReference::of(claims),
            };
            Box::new(Self {
                own: Identifier::ALL.map(identifier),
                said: None,
                listed: Identifier::ALL.into_iter().filter_map(listed).collect(),
                places: place.map(|it| it.into_iter().collect()),
                is_said_elsewhere: false,
                issued: iat.unwrap_or(BEGINNING),
                passed: Passed::default(),
                passed_events: Passed::default(),
            })
        })
    }

    /// That of a token together with what its issuer `said` about it. The earlier time counts.
    pub(crate) fn joined(own: Option<&Self>, said: Option<&Self>) -> Option<Box<Self>> {
        let (own, said) = match (own, said) {
            (Some(own), Some(said)) => (own, said),
            (one, other) => return one.or(other).cloned().map(Box::new),
        };
        let issued = match (own.issued, said.issued) {
            (BEGINNING, issued) | (issued, BEGINNING) => issued,
            (one, other) => one.min(other),
        };
        let (places, mut is_said_elsewhere) = own.places_with(said);
        is_said_elsewhere |= said.listed.iter().any(|it| !own.listed.contains(it));
        let listed = own.listed.iter().chain(said.listed.iter()).cloned().collect();
        let (own, said) = (own.own.clone(), Some(Box::new(said.own.clone())));
        let (passed, passed_events) = <_>::default();
        Some(Box::new(Self {
            own,
            said,
            listed,
            places,
            is_said_elsewhere,
            issued,
            passed,
            passed_events,
        }))
    }

    /// The places of both, and whether `said` has one that this has not.
    fn places_with(&self, said: &Self) -> (Result<Box<[StatusReference]>, MalformedStatus>, bool) {
        match (&self.places, &said.places) {
            (Ok(own), Ok(said)) => {
                let more = said.iter().filter(|it| !own.contains(it));
                let all: Box<[_]> = own.iter().chain(more).cloned().collect();
                let is_more = own.len() < all.len();
                (Ok(all), is_more)
            }
            (Ok(_), Err(MalformedStatus)) => (Err(MalformedStatus), true),
            (Err(MalformedStatus), _) => (Err(MalformedStatus), false),
        }
    }

    /// Whether the issuer's answer says more of the token than the token itself.
    pub(crate) fn says_more(&self) -> bool {
        let said = self.said.iter().flat_map(|it| it.iter());
        let is_more = said.zip(&self.own).any(|(said, own)| said.is_some() && said != own);
        is_more || self.is_said_elsewhere
    }

    /// Where the status of the token stands: nowhere, at one place, or where the token and where the
    /// answer says. Empty unless its issuer's statuses are [asked for](Issuer::status).
    ///
    /// # Errors
    ///
    /// The `status` claim cannot be read.
    pub fn places(&self) -> Result<&[StatusReference], MalformedStatus> {
        self.places.as_deref().map_err(|it| *it)
    }

    /// The values of an identifier: none, one, or that of the token and that of the answer; several also
    /// where either has a list.
    pub fn all(&self, identifier: Identifier) -> impl Iterator<Item = &str> {
        let own = read(&self.own, identifier);
        let said = self.said.as_ref().and_then(|it| read(it, identifier));
        let listed = self.lists(identifier).flat_map(|it| it.names.iter().map(|it| &**it));
        own.into_iter().chain(said.filter(|it| own != Some(it))).chain(listed)
    }

    /// Whether its claim is none that names one: such a token may also be of another.
    pub fn is_listed(&self, identifier: Identifier) -> bool {
        self.lists(identifier).next().is_some()
    }

    /// Whether its claim has more names than [`all`](Self::all) tells.
    pub fn has_more(&self, identifier: Identifier) -> bool {
        self.lists(identifier).any(|it| it.has_more)
    }

    fn lists(&self, identifier: Identifier) -> impl Iterator<Item = &Listed> {
        self.listed.iter().filter(move |it| it.identifier == identifier)
    }

    /// When the token was issued (`iat`); the beginning of time if it does not say so, so that it counts
    /// as issued before anything that was revoked.
    pub const fn issued(&self) -> UnixTime {
        self.issued
    }

    /// The approximate memory use in bytes.
    pub fn bytes(&self) -> usize {
        let of = |it: &Identifiers| it.iter().flatten().map(|it| it.len()).sum::<usize>();
        let said =
            self.said.as_ref().map_or(0, |it| size_of::<Identifiers>().saturating_add(of(it)));
        let places = self.places().unwrap_or_default();
        let of_place = |it: &StatusReference| size_of_val(it).saturating_add(it.bytes());
        let places = places.iter().map(of_place).fold(0, usize::saturating_add);
        let of_list = |it: &Listed| {
            let names = it.names.iter().map(|it| it.len().saturating_add(size_of_val(it)));
            names.fold(size_of_val(it), usize::saturating_add)
        };
        let listed = self.listed.iter().map(of_list).fold(0, usize::saturating_add);
        let own = size_of::<Self>().saturating_add(of(&self.own));
        own.saturating_add(said).saturating_add(places).saturating_add(listed)
    }
}

impl Listed {
    /// The names in `claim`, if it is a list or an object that has any.
    fn of(identifier: Identifier, claim: &Value) -> Option<Self> {
        let mut found = Self { identifier, names: vec![], has_more: false };
        if matches!(claim, Value::Array(_) | Value::Object(_)) {
            found.add(claim);
        }
        (!found.names.is_empty()).then_some(found)
    }

    fn add(&mut self, claim: &Value) {
        match claim {
            Value::Array(members) => members.iter().for_each(|it| self.add(it)),
            Value::Object(members) => members.values().for_each(|it| self.add(it)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                let Some(name) = name(claim) else { return };
                if self.names.len() < MOST_LISTED {
                    self.names.push(name);
                } else {
                    self.has_more = true;
                }
            }
        }
    }
}

/// What a claim names. What names nothing is as good as absent.
fn name(claim: &Value) -> Option<Box<str>> {
    match claim {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::String(text) => (!text.is_empty()).then(|| text.as_str().into()),
        Value::Bool(_) | Value::Number(_) => Some(claim.to_string().into()),
    }
}

fn read(of: &Identifiers, identifier: Identifier) -> Option<&str> {
    let place = Identifier::ALL.iter().position(|it| *it == identifier)?;
    of.get(place)?.as_deref()
}

/// The number of the list under which a token was last found to be good, so that a list is searched once
/// for a token and not once for each request. Lists have numbers of their own over the whole process.
#[derive(Debug, Default)]
pub struct Passed(AtomicU64);

impl Passed {
    /// Whether the token was found to be good under this list.
    #[inline]
    pub fn is_under(&self, list: NonZeroU64) -> bool {
        self.0.load(Ordering::Relaxed) == list.get()
    }

    /// Notes that the token was found to be good under this list.
    pub fn note(&self, list: NonZeroU64) {
        self.0.store(list.get(), Ordering::Relaxed);
    }
}

impl Clone for Passed {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn revocable(claims: &Value) -> Revocable {
        let mut issuer = Issuer::new("https://as.example.com", "api");
        assert!(Revocable::of(claims.as_object().unwrap(), &issuer).is_none());
        issuer.revokes = true;
        *Revocable::of(claims.as_object().unwrap(), &issuer).unwrap()
    }

    fn identifiers(of: &Revocable) -> Vec<Vec<&str>> {
        Identifier::ALL.iter().map(|it| of.all(*it).collect()).collect()
    }

    #[test]
    fn a_token_is_known_by_its_identifiers_wherever_its_issuer_writes_them() {
        let found = revocable(&json!({"jti": "j", "sub": "s", "sid": "i", "azp": "a"}));
        assert_eq!(identifiers(&found), [["j"], ["s"], ["i"], ["a"]]);
        let found = revocable(&json!({"client_id": "c", "azp": "a", "sid": 7, "sub": null}));
        assert_eq!(identifiers(&found), [vec![], vec![], vec!["7"], vec!["c"]]);
        for odd in [json!(""), json!([]), json!({}), json!([null, ""]), json!(null)] {
            let found = revocable(&json!({"sub": "u", "sid": odd}));
            assert_eq!(identifiers(&found), [vec![], vec!["u"], vec![], vec![]], "{odd}");
            assert!(!found.is_listed(Identifier::Sid), "{odd}");
        }
    }

    #[test]
    fn a_claim_that_should_be_one_name_means_each_that_it_holds() {
        for (sid, names, more) in [
            (json!(["s"]), vec!["s"], false),
            (json!({"id": "s"}), vec!["s"], false),
            (json!(["s", 7, null, {"x": [true, ""]}]), vec!["s", "7", "true"], false),
            (json!(["a", "b", "c", "d"]), vec!["a", "b", "c", "d"], false),
            (json!(["a", "b", "c", "d", "e"]), vec!["a", "b", "c", "d"], true),
        ] {
            let found = revocable(&json!({"sub": "u", "sid": sid}));
            assert_eq!(identifiers(&found), [vec![], vec!["u"], names, vec![]], "{sid}");
            let told = (found.is_listed(Identifier::Sid), found.has_more(Identifier::Sid));
            assert_eq!(told, (true, more), "{sid}");
            assert!(!found.is_listed(Identifier::Sub) && !found.has_more(Identifier::Sub));
        }
        let [plain, list] =
            [json!("s"), json!(["s", "t"])].map(|it| revocable(&json!({"sid": it})));
        for (own, said, names, more) in [
            (&plain, &list, vec!["s", "s", "t"], true),
            (&list, &list, vec!["s", "t", "s", "t"], false),
        ] {
            let joined = Revocable::joined(Some(own), Some(said)).unwrap();
            assert_eq!(joined.all(Identifier::Sid).collect::<Vec<_>>(), names);
            assert_eq!((joined.is_listed(Identifier::Sid), joined.says_more()), (true, more));
        }
        assert!(plain.bytes() < list.bytes());
    }

    #[test]
    fn a_token_that_does_not_say_when_it_was_issued_is_older_than_anything() {
        for (claims, millis) in [
            (json!({"iat": 7}), 7000),
            (json!({"iat": 7.0009}), 7000),
            (json!({"nbf": 9}), i64::MIN),
            (json!({"iat": "7"}), i64::MIN),
        ] {
            assert_eq!(revocable(&claims).issued(), UnixTime::from_millis(millis), "{claims}");
        }
    }

    #[test]
    fn what_a_token_says_counts_beside_what_its_issuer_says_of_it() {
        let outer = revocable(&json!({"jti": "outer", "sub": "s", "iat": 7}));
        let inner = revocable(&json!({"jti": "inner", "sub": "s", "sid": "i", "iat": 5}));
        let joined = Revocable::joined(Some(&outer), Some(&inner)).unwrap();
        assert_eq!(identifiers(&joined), [vec!["outer", "inner"], vec!["s"], vec!["i"], vec![]]);
        assert_eq!((joined.issued(), joined.says_more()), (UnixTime::from_secs(5), true));
        let silent = revocable(&json!({"sub": "s"}));
        let joined = Revocable::joined(Some(&outer), Some(&silent)).unwrap();
        assert_eq!((joined.issued(), joined.says_more()), (UnixTime::from_secs(7), false));
        assert!(Revocable::joined(None, None).is_none());
    }

    #[test]
    fn the_place_of_its_status_is_read_where_it_is_asked_for() {
        let mut issuer = Issuer::new("https://as.example.com", "api");
        issuer.revokes = true;
        let at = |uri: &str| json!({"status": {"status_list": {"idx": 7, "uri": uri}}});
        let read = |issuer: &Issuer, claims: &Value| {
            *Revocable::of(claims.as_object().unwrap(), issuer).unwrap()
        };
        assert_eq!(read(&issuer, &at("a")).places(), Ok(&[][..]));
        assert_eq!(read(&issuer, &json!({"status": 7})).places(), Ok(&[][..]), "not looked at");
        for demand in [StatusDemand::IfPresent, StatusDemand::Required] {
            issuer.status = demand;
            assert_eq!(read(&issuer, &json!({})).places(), Ok(&[][..]));
            assert_eq!(read(&issuer, &json!({"status": 7})).places(), Err(MalformedStatus));
            let found = read(&issuer, &at("a"));
            let place = &found.places().unwrap()[0];
            assert_eq!((place.uri(), place.index()), ("a", 7));
        }
        let [a, b] = ["a", "b"].map(|it| read(&issuer, &at(it)));
        let (none, odd) = (read(&issuer, &json!({})), read(&issuer, &json!({"status": 7})));
        for (own, said, places, more) in [
            (&a, &a, Ok(vec!["a"]), false),
            (&a, &none, Ok(vec!["a"]), false),
            (&none, &a, Ok(vec!["a"]), true),
            (&a, &b, Ok(vec!["a", "b"]), true),
            (&a, &odd, Err(MalformedStatus), true),
            (&odd, &a, Err(MalformedStatus), false),
        ] {
            let joined = Revocable::joined(Some(own), Some(said)).unwrap();
            let found = joined.places().map(|it| it.iter().map(StatusReference::uri).collect());
            assert_eq!((found, joined.says_more()), (places, more), "{own:?} {said:?}");
        }
        assert_eq!(a.bytes() - none.bytes(), size_of::<StatusReference>() + 1);
    }

    #[test]
    fn its_memory_is_counted() {
        let one = revocable(&json!({"jti": "j"}));
        let longer = revocable(&json!({"jti": "j".repeat(100)}));
        assert_eq!(longer.bytes() - one.bytes(), 99);
        assert!(size_of::<Revocable>() < one.bytes());
        assert!(one.bytes() < Revocable::joined(Some(&one), Some(&one)).unwrap().bytes());
    }
}
