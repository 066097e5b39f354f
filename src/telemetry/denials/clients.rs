//! Whom denials hit: for each policy and reason the clients with the most in the last hour.
//!
//! Memory is bounded, so the counts are approximate where there are many clients (the Space-Saving
//! algorithm of Metwally, Agrawal and El Abbadi): a client with many denials is there for sure, and its
//! count is at most too high by what is told beside it.

use super::{Noted, Serialized};
use keybound_core::Denial;
use keybound_core::facts::{Known, shortened};
use keybound_core::jose::Thumbprint;
use serde::Serialize;
use std::sync::Arc;
use tokio::time::Instant;

/// Whom denials hit.
#[derive(Debug)]
pub(super) struct Clients {
    since: Instant,
    groups: Vec<Group>,
}

/// The denials by one policy for one reason.
#[derive(Debug)]
struct Group {
    /// Empty if no policy applied.
    policy: Box<str>,
    reason: Denial,
    denials: Slots,
    clients: Vec<Client>,
    last: Instant,
}

#[derive(Debug)]
struct Client {
    who: Who,
    denials: Slots,
    /// Denials of those who had this place before: by so many the count may be too high.
    inherited: Slots,
    first: Instant,
    last: Instant,
    noted: Arc<Noted>,
}

/// Whose denial it is, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    /// A client that a verified token names.
    Client {
        issuer: Option<Box<str>>,
        client_id: Box<str>,
    },
    /// No client is known, but a certificate.
    Certificate(Thumbprint),
    /// An issuer, of whose token the client is not known.
    Issuer(Box<str>),
    Nobody,
}

/// Whose denial it is, borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    issuer: Option<&'a str>,
    client_id: Option<&'a str>,
    certificate: Option<Thumbprint>,
}

/// Most groups: policies and reasons with denials in the last hour. Beyond, the one with the oldest is
/// forgotten.
const GROUPS: usize = 128;

/// Most clients of a group.
const CLIENTS: usize = 16;

/// A number for each of the twelve times five minutes of an hour.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    counts: [u32; SLOTS],
    /// The present one, counted from the start.
    present: u64,
}

const SLOTS: usize = 12;

/// How long a slot lasts, in seconds.
const SLOT: u64 = 300;

/// The denials by one policy for one reason, in `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct GroupStatus {
    /// The policy; none if none applied.
    policy: Option<String>,
    reason: &'static str,
    /// The denials of the last hour.
    denials: u64,
    /// Those who had most of them, the most first.
    clients: Vec<ClientStatus>,
}

/// A client in `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct ClientStatus {
    /// Its denials in the last hour.
    denials: u64,
    /// By so many the number may be too high.
    at_most_over: u64,
    first_seconds_ago: u64,
    last_seconds_ago: u64,
    /// The facts about a recent one.
    last: Serialized,
}

impl Clients {
    pub(super) const fn since(since: Instant) -> Self {
        Self { since, groups: Vec::new() }
    }

    /// Counts a denial, and keeps `noted` of it: what is there, or else made if the client is new.
    pub(super) fn count(
        &mut self,
        (policy, reason): (&str, Denial),
        named: Named<'_>,
        now: Instant,
        noted: Option<&Arc<Noted>>,
        make: impl FnOnce() -> Arc<Noted>,
    ) {
        let slot = self.slot(now);
        let Some(group) = self.group(policy, reason, now) else { return };
        group.denials.count(slot);
        group.last = now;
        let client = group.clients.iter_mut().find(|it| it.who.is(named));
        if let Some(client) = client {
            client.denials.count(slot);
            client.last = now;
            if let Some(noted) = noted {
                client.noted = Arc::clone(noted);
            }
            return;
        }
        let inherited = group.make_room(slot);
        let mut denials = Slots::default();
        denials.count(slot);
        let (who, noted) = (Who::from(named), noted.map_or_else(make, Arc::clone));
        group.clients.push(Client { who, denials, inherited, first: now, last: now, noted });
    }

    /// Whom denials hit in the hour before `now`, the reasons with the most first.
    pub(super) fn status(&self, now: Instant) -> Vec<GroupStatus> {
        let slot = self.slot(now);
        let groups = self.groups.iter().map(|it| it.status(slot, now));
        let mut groups: Vec<_> = groups.filter(|it| it.denials != 0).collect();
        groups.sort_by_key(|it| std::cmp::Reverse(it.denials));
        groups
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() / SLOT
    }

    fn group(&mut self, policy: &str, reason: Denial, now: Instant) -> Option<&mut Group> {
        let known = self.groups.iter().position(|it| it.reason == reason && *it.policy == *policy);
        if let Some(known) = known {
            return self.groups.get_mut(known);
        }
        let oldest = self.groups.iter().enumerate().min_by_key(|it| it.1.last).map(|it| it.0);
        if let Some(oldest) = oldest.filter(|_| GROUPS <= self.groups.len()) {
            self.groups.swap_remove(oldest);
        }
        self.groups.push(Group::new(policy, reason, now));
        self.groups.last_mut()
    }
}

impl Group {
    fn new(policy: &str, reason: Denial, now: Instant) -> Self {
        let (denials, clients) = (Slots::default(), vec![]);
        Self { policy: policy.into(), reason, denials, clients, last: now }
    }

    /// Makes room for a client. Returns the denials of those who had its place before.
    fn make_room(&mut self, slot: u64) -> Slots {
        self.clients.retain(|it| it.count(slot) != 0);
        if self.clients.len() < CLIENTS {
            return Slots::default();
        }
        let least = self.clients.iter().enumerate().min_by_key(|it| it.1.count(slot));
        let Some(least) = least.map(|it| it.0) else { return Slots::default() };
        let Client { denials, inherited, .. } = self.clients.swap_remove(least);
        denials.with(inherited, slot)
    }

    fn status(&self, slot: u64, now: Instant) -> GroupStatus {
        let mut clients: Vec<_> = self.clients.iter().filter(|it| it.count(slot) != 0).collect();
        clients.sort_by_key(|it| std::cmp::Reverse(it.count(slot)));
        let seconds = |it: Instant| now.saturating_duration_since(it).as_secs();
        let clients = clients.into_iter().map(|it| ClientStatus {
            denials: it.count(slot),
            at_most_over: it.inherited.sum(slot),
            first_seconds_ago: seconds(it.first),
            last_seconds_ago: seconds(it.last),
            last: Serialized(Arc::clone(&it.noted)),
        });
        GroupStatus {
            policy: (!self.policy.is_empty()).then(|| self.policy.to_string()),
            reason: self.reason.label(),
            denials: self.denials.sum(slot),
            clients: clients.collect(),
        }
    }
}

impl Client {
    fn count(&self, slot: u64) -> u64 {
        self.denials.sum(slot).saturating_add(self.inherited.sum(slot))
    }
}

impl<'a> Named<'a> {
    /// Whose check it was.
    pub(super) fn by(known: &Known<'a>) -> Self {
        let client_id = known.client_id().map(shortened);
        let certificate = known.verdict.facts.certificate.filter(|_| client_id.is_none());
        Self { issuer: known.named_issuer().map(shortened), client_id, certificate }
    }
}

impl Who {
    fn is(&self, named: Named<'_>) -> bool {
        match (self, named) {
            (Self::Client { issuer, client_id }, Named { client_id: Some(it), .. }) => {
                **client_id == *it && issuer.as_deref() == named.issuer
            }
            (Self::Certificate(own), Named { client_id: None, certificate: Some(it), .. }) => {
                *own == it
            }
            (Self::Issuer(own), Named { client_id: None, certificate: None, issuer: Some(it) }) => {
                **own == *it
            }
            (Self::Nobody, Named { client_id: None, certificate: None, issuer: None }) => true,
            _ => false,
        }
    }
}

impl From<Named<'_>> for Who {
    fn from(named: Named<'_>) -> Self {
        match named {
            Named { client_id: Some(it), issuer, .. } => {
                Self::Client { issuer: issuer.map(Into::into), client_id: it.into() }
            }
            Named { certificate: Some(it), .. } => Self::Certificate(it),
            Named { issuer: Some(it), .. } => Self::Issuer(it.into()),
            Named { .. } => Self::Nobody,
        }
    }
}

impl Slots {
    fn count(&mut self, slot: u64) {
        self.turn_to(slot);
        if let Some(count) = self.counts.first_mut() {
            *count = count.saturating_add(1);
        }
    }

    /// Moves on to `slot`, the first of the counts.
    fn turn_to(&mut self, slot: u64) {
        let passed = usize::try_from(slot.saturating_sub(self.present)).unwrap_or(SLOTS);
        let passed = passed.min(SLOTS);
        self.counts.rotate_right(passed);
        self.counts.iter_mut().take(passed).for_each(|it| *it = 0);
        self.present = self.present.max(slot);
    }

    /// The sum of the hour that ends with `slot`.
    fn sum(&self, slot: u64) -> u64 {
        let passed = usize::try_from(slot.saturating_sub(self.present)).unwrap_or(SLOTS);
        let within = SLOTS.saturating_sub(passed);
        self.counts.iter().take(within).map(|it| u64::from(*it)).sum()
    }

    /// These counts and others, as of `slot`.
    fn with(mut self, mut others: Self, slot: u64) -> Self {
        self.turn_to(slot);
        others.turn_to(slot);
        for (count, other) in self.counts.iter_mut().zip(others.counts) {
            *count = count.saturating_add(other);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::{Facts, Verdict};
    use std::time::Duration;

    const POLICY: &str = "payments";
    const MISMATCH: Denial = Denial::CertificateMismatch;

    struct Site {
        start: Instant,
        clients: Clients,
    }

    impl Site {
        fn new() -> Self {
            let start = Instant::now();
            Self { start, clients: Clients::since(start) }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start.checked_add(Duration::from_secs(seconds)).unwrap()
        }

        fn count(&mut self, reason: Denial, client: &str, seconds: u64) {
            self.count_named(reason, by(client), seconds);
        }

        fn count_named(&mut self, reason: Denial, named: Named<'_>, seconds: u64) {
            let now = self.at(seconds);
            let make = || Arc::new(Noted::empty(reason, now));
            self.clients.count((POLICY, reason), named, now, None, make);
        }

        /// Each reason with its denials and its clients: denials, at most over, first and last.
        fn told(&self, seconds: u64) -> Vec<(&'static str, u64, Vec<[u64; 4]>)> {
            let groups = self.clients.status(self.at(seconds));
            let figures = |it: &ClientStatus| {
                [it.denials, it.at_most_over, it.first_seconds_ago, it.last_seconds_ago]
            };
            let group = |it: &GroupStatus| {
                (it.reason, it.denials, it.clients.iter().map(figures).collect())
            };
            groups.iter().map(group).collect()
        }
    }

    const fn by(client: &str) -> Named<'_> {
        Named { issuer: Some("https://as"), client_id: Some(client), certificate: None }
    }

    #[test]
    fn the_clients_with_the_most_denials_are_told_since_when_and_until_when() {
        let mut site = Site::new();
        for (client, times) in [("thief", [10, 20, 30]), ("bank", [1, 2, 40])] {
            for at in times {
                site.count(MISMATCH, client, at);
            }
        }
        site.count(MISMATCH, "bank", 50);
        site.count(Denial::TokenExpired, "bank", 60);
        let expected = [
            ("certificate_mismatch", 7, vec![[4, 0, 99, 50], [3, 0, 90, 70]]),
            ("token_expired", 1, vec![[1, 0, 40, 40]]),
        ];
        assert_eq!(site.told(100), expected);
    }

    #[test]
    fn what_is_an_hour_old_is_forgotten_and_who_goes_on_keeps_the_first_time() {
        let mut site = Site::new();
        site.count(MISMATCH, "old", 0);
        site.count(MISMATCH, "bank", 0);
        site.count(MISMATCH, "bank", 30 * 60);
        assert_eq!(site.told(3599).first().map(|it| it.1), Some(3));
        site.count(MISMATCH, "bank", 70 * 60);
        assert_eq!(site.told(4200), [("certificate_mismatch", 2, vec![[2, 0, 4200, 0]])]);
        assert_eq!(site.told(2 * 4200), []);
    }

    #[test]
    fn of_many_clients_the_loud_ones_are_there_and_no_count_is_too_low() {
        let mut site = Site::new();
        for number in 0..1000_u32 {
            site.count(MISMATCH, &number.to_string(), 1);
            if number % 2 == 0 {
                site.count(MISMATCH, "loud", 1);
            }
        }
        let told = site.told(1);
        let (_, denials, clients) = &told[0];
        assert_eq!((*denials, clients.len()), (1500, CLIENTS));
        let [count, over, ..] = clients[0];
        assert!(500 <= count && count - over <= 500, "{clients:?}");
        assert!(clients[1..].iter().all(|it| it[0] <= 1500 / 16), "{clients:?}");
        // Who takes a place takes over its count, so that none is lost.
        assert_eq!(clients.iter().map(|it| it[0]).sum::<u64>(), 1500);
        assert!(clients.iter().all(|it| it[1] < it[0]), "{clients:?}");
    }

    #[test]
    fn no_more_reasons_are_counted_than_there_is_room_for() {
        let mut site = Site::new();
        let now = site.at(1);
        for number in 0..=GROUPS {
            let make = || Arc::new(Noted::empty(MISMATCH, now));
            let policy = number.to_string();
            site.clients.count((&policy, MISMATCH), by("a"), now, None, make);
        }
        assert_eq!(site.clients.groups.len(), GROUPS);
    }

    #[test]
    fn who_is_known_by_less_is_told_apart_by_that() {
        let certificate = Some(Thumbprint::of(b"a"));
        let nobody = Named { issuer: None, client_id: None, certificate: None };
        let all = [
            by("a"),
            by("b"),
            Named { issuer: Some("https://other"), ..by("a") },
            Named { issuer: None, ..by("a") },
            Named { certificate, ..nobody },
            Named { certificate: Some(Thumbprint::of(b"b")), ..nobody },
            Named { issuer: Some("https://as"), ..nobody },
            nobody,
        ];
        for (place, one) in all.iter().enumerate() {
            for (other_place, other) in all.iter().enumerate() {
                assert_eq!(Who::from(*one).is(*other), place == other_place, "{one:?} {other:?}");
            }
        }
        let mut site = Site::new();
        for it in all {
            site.count_named(MISMATCH, it, 1);
        }
        assert_eq!(site.told(1)[0].2.len(), all.len());
    }

    #[test]
    fn a_certificate_counts_only_where_no_client_is_known() {
        let certificate = Some(Thumbprint::of(b"a"));
        let facts = Facts { certificate, ..Facts::default() };
        let verdict =
            Verdict { outcome: Err(MISMATCH), facts, mode: keybound_core::policy::Mode::Enforce };
        let named = Named::by(&Known::by(&verdict));
        assert_eq!((named.certificate, named.client_id), (certificate, None));
    }
}
