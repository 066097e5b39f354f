//! The entries of a denylist, at 28 bytes each however long they are written.
//!
//! What an entry names is kept as a fingerprint: SHA-256 over a secret and the identifiers, cut to 128
//! bits. Whoever chooses his own `sub` or `client_id` cannot find one with the fingerprint of somebody
//! else's, nor fill one bucket, without the secret; and with it a collision would still cost 2^64
//! hashes, which a hash that is only fast does not promise. A token is hashed once for a list and not
//! at each check, so that speed does not matter.

use super::entry::Entry;
use crate::randomness::{self, NoRandomness};
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::{Identifier, Revocable};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// The entries of a denylist.
#[derive(Debug)]
pub(super) struct Table {
    /// Another for each table of this process.
    number: NonZeroU64,
    secret: Secret,
    /// The sets of identifiers that entries name.
    shapes: Vec<Shape>,
    /// By the first octet of the fingerprint, and sorted.
    buckets: Vec<Vec<Row>>,
}

/// A table that is being filled.
#[derive(Debug)]
pub(super) struct Filling(Table);

/// An entry that means a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// Its line in the file.
    pub(super) line: u32,
    /// What it names.
    pub(super) shape: Shape,
    /// Until when the tokens that it means were issued; none if they all are.
    pub(super) until: Option<UnixTime>,
}

/// A set of identifiers: the bit at the place of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape(u8);

/// An entry. Octets, since nothing is aligned then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    fingerprint: [u8; 16],
    /// In milliseconds since 1970.
    until: [u8; 8],
    line: [u8; 4],
}

#[derive(Clone, Copy)]
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redacted")
    }
}

const BUCKETS: usize = 256;

/// Rows are added to a full bucket in eighths of it, so that little is reserved for nothing.
const GROWTH: usize = 8;

impl Filling {
    /// An empty table.
    pub(super) fn new() -> Result<Self, NoRandomness> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let number = NonZeroU64::new(number).unwrap_or(NonZeroU64::MAX);
        let mut secret = [0; 32];
        randomness::fill(&mut secret)?;
        let buckets = std::iter::repeat_with(Vec::new).take(BUCKETS).collect();
        Ok(Self(Table { number, secret: Secret(secret), shapes: vec![], buckets }))
    }

    /// Adds the entry on this line.
    pub(super) fn add(&mut self, entry: &Entry, line: u32) {
        let shape = Shape::of(|it| entry.get(it).is_some());
        if let Err(place) = self.0.shapes.binary_search(&shape) {
            self.0.shapes.insert(place, shape);
        }
        let named = shape.members().filter_map(|it| entry.get(it));
        let fingerprint = self.0.secret.fingerprint(shape, named);
        let (until, line) = (entry.until().as_millis().to_le_bytes(), line.to_le_bytes());
        let [first, ..] = fingerprint;
        if let Some(bucket) = self.0.buckets.get_mut(usize::from(first)) {
            if bucket.len() == bucket.capacity() {
                bucket.reserve_exact((bucket.len() / GROWTH).saturating_add(GROWTH));
            }
            bucket.push(Row { fingerprint, until, line });
        }
    }

    /// The table. Of several entries for the same tokens the one that means the most of them stays.
    pub(super) fn finish(mut self) -> Table {
        for bucket in &mut self.0.buckets {
            bucket.sort_unstable_by(|one, other| {
                let longest_first = other.until().cmp(&one.until());
                one.fingerprint.cmp(&other.fingerprint).then(longest_first)
            });
            bucket.dedup_by(|later, kept| later.fingerprint == kept.fingerprint);
            bucket.shrink_to_fit();
        }
        self.0
    }
}

impl Table {
    /// Its number: that of no other table in this process.
    pub(super) const fn number(&self) -> NonZeroU64 {
        self.number
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// What its entries name, for an explanation.
    pub(super) fn shapes(&self) -> impl Iterator<Item = Shape> {
        self.shapes.iter().copied()
    }

    /// Whether nothing tells if an entry means this token, of whose names not all are known.
    pub(super) fn may_mean(&self, token: &Revocable) -> bool {
        self.shapes.iter().flat_map(|it| it.members()).any(|it| token.has_more(it))
    }

    /// The entry that means this token.
    pub(super) fn find(&self, token: &Revocable) -> Option<Hit> {
        self.shapes.iter().find_map(|shape| self.find_by(*shape, token, &mut vec![]))
    }

    /// The same among the entries of one shape. What is `named` stands for its first members.
    fn find_by<'t>(
        &self,
        shape: Shape,
        token: &'t Revocable,
        named: &mut Vec<&'t str>,
    ) -> Option<Hit> {
        let Some(next) = shape.members().nth(named.len()) else {
            let fingerprint = self.secret.fingerprint(shape, named.iter().copied());
            let row = self.row(&fingerprint)?;
            let until = row.until();
            let hit = Hit { line: u32::from_le_bytes(row.line), shape, until: until.known() };
            return (token.issued() <= until.0).then_some(hit);
        };
        token.all(next).find_map(|value| {
            named.push(value);
            let hit = self.find_by(shape, token, named);
            named.pop();
            hit
        })
    }

    fn row(&self, fingerprint: &[u8; 16]) -> Option<&Row> {
        let [first, ..] = *fingerprint;
        let bucket = self.buckets.get(usize::from(first))?;
        let place = bucket.binary_search_by(|it| it.fingerprint.cmp(fingerprint)).ok()?;
        bucket.get(place)
    }
}

/// The last time at which a token that an entry means was issued.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Until(UnixTime);

impl Until {
    fn known(self) -> Option<UnixTime> {
        Some(self.0).filter(|it| it.as_millis() != i64::MAX)
    }
}

impl Row {
    const fn until(&self) -> Until {
        Until(UnixTime::from_millis(i64::from_le_bytes(self.until)))
    }
}

impl Secret {
    /// The fingerprint of the members of `shape`, in its order. Each is told with its length, so that no
    /// two lists of members read the same.
    fn fingerprint<'a>(&self, shape: Shape, members: impl Iterator<Item = &'a str>) -> [u8; 16] {
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(&self.0);
        text.push(shape.0);
        for member in members {
            let length = u64::try_from(member.len()).unwrap_or(u64::MAX);
            text.extend_from_slice(&length.to_le_bytes());
            text.extend_from_slice(member.as_bytes());
        }
        let digest = Thumbprint::of(&text);
        digest.octets().first_chunk().copied().unwrap_or_default()
    }
}

impl Shape {
    fn of(has: impl Fn(Identifier) -> bool) -> Self {
        let bits = Identifier::ALL.into_iter().rev();
        Self(bits.fold(0, |bits, it| bits << 1 | u8::from(has(it))))
    }

    /// Its identifiers, in the order of all of them.
    pub(super) fn members(self) -> impl Iterator<Item = Identifier> {
        let places = (0_u8..).zip(Identifier::ALL);
        places.filter(move |(place, _)| self.0 >> place & 1 == 1).map(|(_, it)| it)
    }

    /// The names of its identifiers.
    pub(super) fn names(self) -> String {
        self.members().map(Identifier::name).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::revocation::samples::token;
    use serde_json::{Value, json};

    fn table(entries: &[Value]) -> Table {
        let mut table = Filling::new().unwrap();
        for (line, entry) in (1..).zip(entries) {
            table.add(&serde_json::from_value(entry.clone()).unwrap(), line);
        }
        table.finish()
    }

    /// The memory of the entries, in bytes.
    fn bytes(table: &Table) -> usize {
        let buckets = table.buckets.iter();
        let rows: usize = buckets.map(|it| it.capacity().saturating_mul(size_of::<Row>())).sum();
        rows.saturating_add(table.buckets.capacity().saturating_mul(size_of::<Vec<Row>>()))
    }

    fn line_of(table: &Table, claims: &Value) -> Option<u32> {
        table.find(token(claims).revocable.as_ref().unwrap()).map(|it| it.line)
    }

    fn claims() -> Value {
        json!({"jti": "j", "sub": "s", "sid": "i", "client_id": "c", "iat": 1000})
    }

    #[test]
    fn all_that_an_entry_names_must_hold() {
        for (entry, revoked) in [
            (json!({"jti": "j"}), true),
            (json!({"sub": "s"}), true),
            (json!({"sid": "i"}), true),
            (json!({"client_id": "c"}), true),
            (json!({"jti": "j", "sub": "s", "sid": "i", "client_id": "c"}), true),
            (json!({"sub": "s", "client_id": "c"}), true),
            (json!({"sub": "s", "client_id": "other"}), false),
            (json!({"sub": "other", "client_id": "c"}), false),
            (json!({"jti": "J"}), false),
            (json!({"jti": "j "}), false),
            // An identifier is only what it is said to be.
            (json!({"sub": "c"}), false),
            (json!({"client_id": "s", "sub": "c"}), false),
            (json!({"sub": "si"}), false),
        ] {
            let found = line_of(&table(std::slice::from_ref(&entry)), &claims());
            assert_eq!(found, revoked.then_some(1), "{entry}");
        }
    }

    #[test]
    fn a_token_that_does_not_have_what_an_entry_names_is_not_meant() {
        let list = table(&[json!({"sub": "s", "sid": "i"})]);
        for gone in ["sub", "sid"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(gone);
            assert_eq!(line_of(&list, &claims), None, "{gone}");
        }
    }

    #[test]
    fn a_claim_that_is_a_list_means_each_of_its_names() {
        let list = table(&[json!({"sid": "DS"}), json!({"sub": "s", "sid": "i"})]);
        for (sid, line) in [
            (json!("DS"), Some(1)),
            (json!(["DS"]), Some(1)),
            (json!(["x", "DS"]), Some(1)),
            (json!({"id": "DS"}), Some(1)),
            (json!(["x", "i"]), Some(2)),
            (json!(["x"]), None),
            (json!([["ds"]]), None),
        ] {
            let mut claims = claims();
            claims["sid"] = sid.clone();
            assert_eq!(line_of(&list, &claims), line, "{sid}");
        }
    }

    #[test]
    fn a_list_of_more_names_than_are_known_may_be_meant_by_entries_that_name_its_kind() {
        let long = json!({"sub": "s", "sid": ["a", "b", "c", "d", "e"]});
        for (entries, claims, expected) in [
            (vec![json!({"sid": "x"})], &long, true),
            (vec![json!({"jti": "x"}), json!({"sub": "x", "sid": "x"})], &long, true),
            (vec![json!({"sub": "x"})], &long, false),
            (vec![], &long, false),
            (vec![json!({"sid": "x"})], &json!({"sid": ["a", "b", "c", "d"]}), false),
        ] {
            let token = token(claims);
            let found = table(&entries).may_mean(token.revocable.as_ref().unwrap());
            assert_eq!(found, expected, "{entries:?}");
        }
    }

    #[test]
    fn tokens_are_meant_that_were_issued_until_then() {
        let list = table(&[json!({"sub": "s", "before": 1000})]);
        for (iat, revoked) in [
            (json!(999), true),
            (json!(1000), true),
            (json!(1000.0009), true),
            (json!(1000.001), false),
            (json!(1001), false),
            (json!(null), true),
        ] {
            let mut claims = claims();
            claims["iat"] = iat.clone();
            if iat.is_null() {
                claims.as_object_mut().unwrap().remove("iat");
            }
            assert_eq!(line_of(&list, &claims).is_some(), revoked, "{iat}");
        }
    }

    #[test]
    fn of_entries_for_the_same_tokens_the_one_that_means_the_most_counts() {
        let entry = |before: Option<i64>| match before {
            None => json!({"sub": "s"}),
            Some(before) => json!({"sub": "s", "before": before}),
        };
        for (list, line) in [
            ([Some(999), Some(1000)], Some(2)),
            ([Some(1000), Some(999)], Some(1)),
            ([None, Some(999)], Some(1)),
            ([Some(999), None], Some(2)),
            ([Some(998), Some(999)], None),
        ] {
            let list = table(&list.map(entry));
            assert_eq!((list.len(), line_of(&list, &claims())), (1, line));
        }
    }

    #[test]
    fn an_entry_is_found_among_many() {
        let entries: Vec<_> = (0..5000).map(|it| json!({"jti": format!("{it}")})).collect();
        let list = table(&entries);
        for number in 0..5000 {
            let claims = json!({"jti": format!("{number}")});
            assert_eq!(line_of(&list, &claims), Some(number + 1));
        }
        assert_eq!(line_of(&list, &json!({"jti": "5000"})), None);
        assert_eq!(line_of(&list, &json!({"sub": "7"})), None);
    }

    #[test]
    fn an_entry_takes_no_more_than_32_octets_also_while_the_list_is_read() {
        let mut filling = Filling::new().unwrap();
        let count = 100_000;
        for line in 0..count {
            let entry = json!({"sub": format!("a-user-with-a-long-name-{line}"), "client_id": "c"});
            filling.add(&serde_json::from_value(entry).unwrap(), line);
        }
        let count = usize::try_from(count).unwrap();
        assert!(bytes(&filling.0) <= 32 * count, "{}", bytes(&filling.0));
        let list = filling.finish();
        assert_eq!(list.len(), count);
        assert!(bytes(&list) <= 29 * count, "{}", bytes(&list));
    }

    #[test]
    fn a_fingerprint_is_of_no_use_in_another_list() {
        let [one, other] = [(); 2].map(|()| Filling::new().unwrap().0);
        let of = |table: &Table| table.secret.fingerprint(Shape(1), std::iter::once("j"));
        assert_eq!(of(&one), of(&one));
        assert_ne!(of(&one), of(&other));
        assert_ne!(one.number, other.number);
    }

    #[test]
    fn no_two_lists_of_members_read_the_same() {
        let secret = Secret([7; 32]);
        let of = |members: &[&str]| secret.fingerprint(Shape(3), members.iter().copied());
        assert_ne!(of(&["a", "bc"]), of(&["ab", "c"]));
        assert_ne!(of(&["", "abc"]), of(&["abc", ""]));
    }

    #[test]
    fn an_entry_is_told_by_what_it_names() {
        let list = table(&[json!({"client_id": "c", "sub": "s", "before": 1000})]);
        let hit = list.find(token(&claims()).revocable.as_ref().unwrap()).unwrap();
        assert_eq!(hit.shape.names(), "sub and client_id");
        assert_eq!(hit.until, Some(UnixTime::from_secs(1000)));
        let shapes: Vec<_> = list.shapes().map(Shape::names).collect();
        assert_eq!(shapes, ["sub and client_id"]);
    }
}
