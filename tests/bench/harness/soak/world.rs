//! What happens around keybound, and which answers are right because of it.

use super::super::tokens::Signer;
use super::Kind;
use super::issued::{Token, sid};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The reason of an answer that lets a request through.
pub(super) const ALLOWED: &str = "allowed";

/// A new key is fetched for the first token that names it, unless one was for another just before:
/// `unknown_kid_cooldown`, and some time for the fetch.
const PUBLISHED: Duration = Duration::from_secs(13);
/// A key that is withdrawn is gone with the next fetch, which the configuration of the soak has every ten
/// seconds.
const WITHDRAWN: Duration = Duration::from_secs(20);
/// As docs/revocation.md promises, for a list that a rename puts in place: and time to read it.
const REVOKED: Duration = Duration::from_secs(3);
/// After Redis is there again, for keybound to connect.
const CONNECTED: Duration = Duration::from_secs(3);
/// For as long as Envoy drains a listener, and a little more.
const DRAINED: Duration = Duration::from_secs(8);
/// So many tokens are known, and come again and again.
const KNOWN: usize = 500;
/// So many wrong answers are told one by one.
const TOLD: u64 = 200;

/// From when a request was sent to when it was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

/// How a moment lies to something that has an effect within some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    During,
    After,
}

/// The issuer, what it has revoked, Redis, and the proxies.
pub(super) struct World {
    folder: PathBuf,
    x5t: String,
    state: Mutex<State>,
    began: Instant,
    answers: AtomicU64,
    wrong: AtomicU64,
}

struct State {
    keys: Vec<Key>,
    /// When each session ended, but for the last, which is the present one.
    ended: Vec<Instant>,
    known: Arc<[Token]>,
    /// Tokens by the key before the present one.
    former: Arc<[Token]>,
    /// Tokens of the session before the present one.
    revoked: Arc<[Token]>,
    /// The last outage of Redis, or the present one.
    redis: Option<(Instant, Option<Instant>)>,
    /// When the proxies last took other listeners.
    updated: Option<Instant>,
}

struct Key {
    signer: Arc<Signer>,
    published: Instant,
    withdrawn: Option<Instant>,
}

impl World {
    /// An issuer with one key, who has revoked nothing, and for the client with this certificate. It is
    /// put into `folder`.
    pub(super) fn new(folder: &Path, x5t: &str) -> Self {
        fs::create_dir_all(folder.join("issuer")).unwrap();
        let nothing: Arc<[Token]> = Arc::new([]);
        let state = State {
            keys: vec![],
            ended: vec![],
            known: Arc::clone(&nothing),
            former: Arc::clone(&nothing),
            revoked: nothing,
            redis: None,
            updated: None,
        };
        let world = Self {
            folder: folder.to_owned(),
            x5t: x5t.to_owned(),
            state: Mutex::new(state),
            began: Instant::now(),
            answers: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        };
        world.rotate();
        world.put("revoked.yaml", &json!({"revoked": []}));
        let mut state = world.state.lock().unwrap();
        state.former = Arc::clone(&state.known);
        state.revoked = Arc::clone(&state.known);
        drop(state);
        world
    }

    /// Lets something happen, or takes note that it is about to happen or has happened.
    pub(super) fn happens(&self, what: &str) {
        let now = Instant::now();
        match what {
            "rotate" => self.rotate(),
            "withdraw" => self.withdraw(),
            "revoke" => self.revoke(),
            "redis down" => self.state.lock().unwrap().redis = Some((now, None)),
            "redis up" => {
                let mut state = self.state.lock().unwrap();
                state.redis = state.redis.map(|(down, _)| (down, Some(now)));
            }
            "listeners" => self.state.lock().unwrap().updated = Some(now),
            // What makes no other answer right.
            _ => (),
        }
        let (answers, wrong) =
            (self.answers.load(Ordering::Relaxed), self.wrong.load(Ordering::Relaxed));
        eprintln!(
            "{:.0} s, {answers} answers, {wrong} wrong: {what}",
            self.began.elapsed().as_secs_f64()
        );
    }

    /// A new key, published beside the old one, and new tokens by it.
    fn rotate(&self) {
        let number = self.state.lock().unwrap().keys.len();
        let signer = Arc::new(Signer::new(Algorithm::ES256, &format!("key-{number}")));
        let mut state = self.state.lock().unwrap();
        state.keys.push(Key { signer, published: Instant::now(), withdrawn: None });
        self.publish(&state);
        state.former = Arc::clone(&state.known);
        drop(state);
        self.renew();
    }

    /// All keys are withdrawn but the last.
    fn withdraw(&self) {
        let mut state = self.state.lock().unwrap();
        let old = state.keys.len() - 1;
        for key in &mut state.keys[..old] {
            key.withdrawn.get_or_insert_with(Instant::now);
        }
        self.publish(&state);
    }

    /// The session ends, and another begins, with new tokens.
    fn revoke(&self) {
        let mut state = self.state.lock().unwrap();
        state.ended.push(Instant::now());
        let ended: Vec<_> = (0..state.ended.len()).map(|it| json!({"sid": sid(it)})).collect();
        self.put("revoked.yaml", &json!({"revoked": ended}));
        state.revoked = Arc::clone(&state.known);
        drop(state);
        self.renew();
    }

    fn renew(&self) {
        let cnf = json!({"x5t#S256": self.x5t});
        let tokens = (0..KNOWN).map(|_| self.issue(&cnf, 86_400)).collect();
        self.state.lock().unwrap().known = tokens;
    }

    fn publish(&self, state: &State) {
        let keys = state.keys.iter().filter(|it| it.withdrawn.is_none());
        let keys: Vec<_> = keys.map(|it| it.signer.jwk()).collect();
        self.put("issuer/jwks.json", &json!({"keys": keys}));
    }

    /// In place by a rename, and with an end of the line: JSON is YAML.
    fn put(&self, name: &str, text: &Value) {
        let (new, place) = (self.folder.join("new"), self.folder.join(name));
        fs::write(&new, format!("{text}\n")).unwrap();
        fs::rename(new, place).unwrap();
    }

    /// A new token by the present key, of the present session.
    pub(super) fn issue(&self, cnf: &Value, good_for: i64) -> Token {
        self.issue_by(0, cnf, good_for)
    }

    /// The same by the key before the present one, if there is one.
    pub(super) fn issue_by_former(&self, cnf: &Value, good_for: i64) -> Token {
        self.issue_by(1, cnf, good_for)
    }

    fn issue_by(&self, before: usize, cnf: &Value, good_for: i64) -> Token {
        let state = self.state.lock().unwrap();
        let key = (state.keys.len() - 1).saturating_sub(before);
        let (signer, session) = (Arc::clone(&state.keys[key].signer), state.ended.len());
        drop(state);
        Token::new(&signer, key, session, cnf, good_for)
    }

    /// A token by the present key, of the present session.
    pub(super) fn known(&self, number: usize) -> Token {
        Self::one_of(&self.state.lock().unwrap().known, number)
    }

    /// A token by the key before the present one.
    pub(super) fn former(&self, number: usize) -> Token {
        Self::one_of(&self.state.lock().unwrap().former, number)
    }

    /// A token of the session before the present one.
    pub(super) fn revoked(&self, number: usize) -> Token {
        Self::one_of(&self.state.lock().unwrap().revoked, number)
    }

    fn one_of(tokens: &[Token], number: usize) -> Token {
        tokens[number / 3 % tokens.len()].clone()
    }

    /// The reasons of which one must be told of a token, whatever is presented beside it.
    pub(super) fn may_be(&self, token: &Token, moment: Moment) -> Vec<&'static str> {
        let state = self.state.lock().unwrap();
        let key = &state.keys[token.key];
        let ended = state.ended.get(token.session);
        let known = match ended.map_or(Phase::Before, |it| moment.to(*it, REVOKED)) {
            Phase::Before => vec![ALLOWED],
            Phase::During => vec![ALLOWED, "token_revoked"],
            Phase::After => vec!["token_revoked"],
        };
        let mut may_be = match key.withdrawn.map_or(Phase::Before, |it| moment.to(it, WITHDRAWN)) {
            Phase::Before => known,
            Phase::During => [known, vec!["token_key_unknown", "keys_unavailable"]].concat(),
            Phase::After => vec!["token_key_unknown"],
        };
        if moment.to(key.published, PUBLISHED) != Phase::After {
            may_be.push("keys_unavailable");
        }
        may_be
    }

    /// The same of a proof that has to be recorded.
    pub(super) fn recorded(&self, reasons: &[&'static str], moment: Moment) -> Vec<&'static str> {
        let redis = self.state.lock().unwrap().redis;
        let out = redis.is_some_and(|(down, up)| {
            let over = up.is_some_and(|up| up + CONNECTED < moment.asked);
            down <= moment.answered && !over
        });
        let unavailable = out.then_some("replay_unavailable");
        reasons.iter().copied().chain(unavailable).collect()
    }

    /// The verdict on a reason, if one of these must be told.
    pub(super) fn judged(&self, kind: Kind, reason: &str, may_be: &[&str]) -> String {
        self.verdict(kind, reason, may_be.contains(&reason), may_be)
    }

    /// The verdict on a connection that ended without an answer.
    pub(super) fn closed(&self, kind: Kind, moment: Moment, why: &str) -> String {
        let updated = self.state.lock().unwrap().updated;
        let drains = updated.is_some_and(|it| moment.to(it, DRAINED) == Phase::During);
        let reason = if drains { "closed while a listener drains" } else { why };
        self.verdict(kind, reason, drains, &[])
    }

    fn verdict(&self, kind: Kind, reason: &str, right: bool, may_be: &[&str]) -> String {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if right {
            return format!("{kind:?}: {reason}");
        }
        if self.wrong.fetch_add(1, Ordering::Relaxed) < TOLD {
            let at = self.began.elapsed().as_secs_f64();
            eprintln!("{at:.1} s: WRONG: {kind:?}: {reason}, and not one of {may_be:?}");
        }
        format!("WRONG {kind:?}: {reason}")
    }
}

impl Moment {
    /// How it lies to what began at `start` and has its effect within `settles`.
    fn to(self, start: Instant, settles: Duration) -> Phase {
        if self.answered < start {
            Phase::Before
        } else if start + settles < self.asked {
            Phase::After
        } else {
            Phase::During
        }
    }
}
