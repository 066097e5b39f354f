//! Events that replicas share: what one receives is written to a Redis stream before it is acknowledged,
//! and read by all.
//!
//! A replica that cannot read what the others have acknowledged cannot tell which tokens are good: after
//! a while it refuses those of the issuer. What is in force stays in force.
//!
//! An entry that cannot be read may revoke any token: as long as it is there, all of the issuer's are
//! refused. Those around it count, and more are written.

use super::kept::Kept;
use super::marks::{Mark, Marked};
use super::receiver::{Changes, Receiver};
use crate::state::replay::redis::{CONNECT, Link, RedisRules, told};
use crate::state::waits::doubled;
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::SubjectKey;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// What replicas share of the events of one issuer.
#[derive(Debug)]
pub(super) struct Shared {
    rules: RedisRules,
    key: String,
    link: watch::Sender<Option<Link>>,
    /// Also of what follows this under the same rules: while a configuration is prepared, both are there.
    pending: Arc<Mutex<Pending>>,
    /// One writes at a time, so that nobody takes for written what another has yet to write.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// Whether nothing can be told: it was not read for too long, or not all of it can be.
    stale: Arc<AtomicBool>,
    /// How many entries cannot be read.
    unreadable: AtomicUsize,
}

/// What is in force here and not written yet.
#[derive(Debug, Default)]
struct Pending {
    marks: HashMap<SubjectKey, Mark>,
    passed_over: bool,
    heard: bool,
    /// When it was last written that the stream works.
    heard_at: Option<Instant>,
}

/// How far the stream was read.
#[derive(Debug)]
struct Reading {
    /// Where the next range begins: behind the last entry.
    position: String,
    /// The id of the first entry that cannot be read.
    odd: Option<String>,
    /// How many there are from there on.
    odd_ones: usize,
}

/// What was in the stream when it was read from its beginning.
#[derive(Debug, Default)]
struct There {
    /// Until when tokens are revoked of each subject.
    until: HashMap<SubjectKey, UnixTime>,
    /// Of what there was no room for, the latest times.
    passed_over: Option<(UnixTime, UnixTime)>,
}

/// How often the stream is read.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is asked whether this is still the server that all write to.
const ASK: Duration = Duration::from_secs(1);

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long the stream may go unread before tokens are refused.
const STALE: Duration = Duration::from_secs(60);

/// The most entries that are read at once.
const BATCH: usize = 500;

/// The most marks in one entry.
const ENTRY: usize = 500;

/// How long entries stay in the stream beyond the time that they count.
const MARGIN: Duration = Duration::from_secs(3600);

/// The time between two error lines about the same entry that cannot be read.
const REMIND: Duration = Duration::from_secs(60);

/// The time between two entries that tell nothing but that the stream works.
const HEARD: Duration = Duration::from_secs(30);

impl Shared {
    /// What is shared of the events of `issuer`. Until it has been read once, nothing is known.
    pub(super) fn new(rules: RedisRules, issuer: &str, previous: Option<&Self>) -> Self {
        let key = format!("keybound:events:{}", Thumbprint::of(issuer.as_bytes()).to_base64url());
        let stale =
            previous.map_or_else(|| Arc::new(AtomicBool::new(true)), |it| Arc::clone(&it.stale));
        // Into another Redis, all that is in force is written when it is reached.
        let same = previous.filter(|it| it.rules == rules);
        let pending = same.map(|it| Arc::clone(&it.pending)).unwrap_or_default();
        let writing = same.map(|it| Arc::clone(&it.writing)).unwrap_or_default();
        let (link, unreadable) = (watch::Sender::new(None), AtomicUsize::new(0));
        Self { rules, key, link, pending, writing, stale, unreadable }
    }

    /// How many entries cannot be read.
    pub(super) fn unreadable(&self) -> usize {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Whether nothing can be told: it has not been read for too long, or an entry cannot be.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Notes whether nothing can be told, and returns whether that has changed. If nothing can be any more, what
    /// is open is judged again.
    fn set_stale(&self, is_stale: bool, receiver: &Receiver) -> bool {
        let changed = self.stale.swap(is_stale, Ordering::Relaxed) != is_stale;
        if changed && is_stale {
            receiver.bell.ring();
        }
        changed
    }

    /// Writes what has changed, and whatever could not be written before.
    pub(super) async fn write(&self, receiver: &Receiver, changes: &Changes) -> RedisResult<()> {
        {
            let mut pending = self.pending();
            pending.marks.extend(changes.marks.iter().copied());
            pending.passed_over |= changes.passed_over;
            pending.heard |= changes.heard;
        }
        let link = self.link.borrow().clone();
        let link = link.ok_or_else(|| RedisError::from((ErrorKind::Io, "not connected")))?;
        self.flush(&link, receiver).await
    }

    async fn flush(&self, link: &Link, receiver: &Receiver) -> RedisResult<()> {
        let _alone = self.writing.lock().await;
        loop {
            let (marks, passed_over, heard) = self.next_entry();
            if marks.is_empty() && !passed_over && !heard {
                return Ok(());
            }
            let now = receiver.clock.now();
            let passed = if passed_over { receiver.marks.passed_over(now) } else { None };
            let kept = Kept { marks: marks.clone(), passed_over: passed };
            let keep = receiver.rules.keep.saturating_add(MARGIN);
            if let Err(error) = self.append(link, &kept, now.saturating_sub(keep)).await {
                let mut pending = self.pending();
                for (subject, mark) in marks {
                    pending.marks.entry(subject).or_insert(mark);
                }
                pending.passed_over |= passed_over;
                return Err(error);
            }
        }
    }

    fn next_entry(&self) -> (Vec<Marked>, bool, bool) {
        let mut pending = self.pending();
        let marks: Vec<_> = pending.marks.iter().take(ENTRY).map(|(k, it)| (*k, *it)).collect();
        for (subject, _) in &marks {
            pending.marks.remove(subject);
        }
        let passed_over = std::mem::take(&mut pending.passed_over);
        // What tells nothing else is not written each time.
        let due = pending.heard_at.is_none_or(|it| HEARD <= it.elapsed());
        let heard = std::mem::take(&mut pending.heard) && due;
        if heard || !marks.is_empty() {
            pending.heard_at = Some(Instant::now());
        }
        (marks, passed_over, heard)
    }

    async fn append(&self, link: &Link, kept: &Kept, oldest: UnixTime) -> RedisResult<()> {
        let mut command = Cmd::new();
        command.arg("XADD").arg(&self.key).arg("MINID").arg("~").arg(oldest.as_millis().max(0));
        command.arg("*").arg("events").arg(kept.lines());
        send(link, &command).await.map(drop)
    }

    /// Connects, reads what is there and what comes, and reconnects. It never returns.
    pub(super) async fn run(self: Arc<Self>, receiver: Arc<Receiver>) {
        let (mut failures, mut read_at) = (0_u32, None);
        loop {
            let Err(error) = self.follow(&receiver, &mut read_at).await;
            self.link.send_replace(None);
            failures = if read_at.is_some_and(|it: Instant| it.elapsed() < DEADLINE) {
                0
            } else {
                failures.saturating_add(1)
            };
            let is_late = read_at.is_none_or(|it| STALE <= it.elapsed());
            let is_stale = is_late || 0 < self.unreadable();
            let changed = self.set_stale(is_stale, &receiver);
            let issuer = &*receiver.issuer.name;
            let error = told(&error);
            receiver.report.failed(&format_args!("redis: {error}"), receiver.clock.now());
            tracing::warn!(issuer, %error, failures, "events that replicas share are not read");
            if changed && is_stale {
                tracing::error!(
                    issuer,
                    "events that other replicas acknowledged cannot be read: tokens of this issuer are \
                     refused until they can"
                );
            }
            sleep(doubled(FIRST_PAUSE, failures, LAST_PAUSE)).await;
        }
    }

    /// Follows the stream until that fails.
    async fn follow(
        &self,
        receiver: &Receiver,
        read_at: &mut Option<Instant>,
    ) -> Result<std::convert::Infallible, RedisError> {
        let link =
            timeout(CONNECT, Link::open(&self.rules)).await.unwrap_or_else(|_| Err(late()))?;
        // It may be another Redis than before, or have lost what it had.
        let mut reading = self.read_all(&link, receiver).await?;
        self.link.send_replace(Some(link.clone()));
        let mut asked_at = Instant::now();
        let mut told = None;
        loop {
            *read_at = Some(Instant::now());
            self.unreadable.store(reading.odd_ones, Ordering::Relaxed);
            let is_stale = reading.odd.is_some();
            let changed = self.set_stale(is_stale, receiver);
            self.tell_of_odd(receiver, &reading, &mut told);
            if changed && !is_stale {
                tracing::info!(
                    issuer = &*receiver.issuer.name,
                    "events that replicas share are read"
                );
            }
            self.flush(&link, receiver).await?;
            sleep(LOOK).await;
            if ASK <= asked_at.elapsed() {
                asked_at = Instant::now();
                link.still_leads().await?;
                if self.is_lost(&link, receiver, &reading).await? {
                    reading = self.read_all(&link, receiver).await?;
                }
            }
            self.look_at_odd(&link, receiver, &mut reading).await?;
            self.read(&link, receiver, &mut reading, None).await?;
        }
    }

    /// Says which entry cannot be read and what is to be done, now and then. `told` is which it was and when.
    fn tell_of_odd(
        &self,
        receiver: &Receiver,
        reading: &Reading,
        told: &mut Option<(String, Instant)>,
    ) {
        let Some(odd) = &reading.odd else { return };
        if told.as_ref().is_some_and(|(it, at)| it == odd && at.elapsed() < REMIND) {
            return;
        }
        *told = Some((odd.clone(), Instant::now()));
        let (issuer, key, unreadable) = (&*receiver.issuer.name, &*self.key, reading.odd_ones);
        let what = format!("redis: entry {odd} of {key} cannot be read: XDEL {key} {odd}");
        receiver.report.failed(&what, receiver.clock.now());
        tracing::error!(
            issuer,
            key,
            entry = &**odd,
            unreadable,
            "an entry among the events that replicas share cannot be read, and may revoke any token: those of \
             this issuer are refused while it is there; see who wrote it, and delete it with XDEL key entry"
        );
    }

    /// Looks whether the first entry that could not be read is still there. If not, those behind it are read
    /// again, since they may hold others.
    async fn look_at_odd(
        &self,
        link: &Link,
        receiver: &Receiver,
        reading: &mut Reading,
    ) -> RedisResult<()> {
        let Some(odd) = &reading.odd else { return Ok(()) };
        if !self.range(link, odd, odd, 1).await?.is_empty() {
            return Ok(());
        }
        *reading = Reading::after(format!("({odd}"));
        // They are no news.
        self.read(link, receiver, reading, Some(&mut There::default())).await
    }

    /// Reads the stream from its beginning, and has written what it lacks.
    async fn read_all(&self, link: &Link, receiver: &Receiver) -> RedisResult<Reading> {
        let (mut reading, mut there) = (Reading::after("-".to_owned()), There::default());
        self.read(link, receiver, &mut reading, Some(&mut there)).await?;
        self.write_missing(receiver, &there);
        Ok(reading)
    }

    /// Whether the entry that was read last is gone, or none was ever there of what is in force: what came
    /// before may be gone, too. Somebody has emptied or deleted the stream, or Redis has evicted it.
    async fn is_lost(
        &self,
        link: &Link,
        receiver: &Receiver,
        reading: &Reading,
    ) -> RedisResult<bool> {
        let Some(last) = reading.position.strip_prefix('(') else {
            let has_no_room = receiver.marks.no_room(receiver.clock.now()).is_some();
            return Ok(has_no_room || 0 < receiver.marks.entries());
        };
        Ok(self.range(link, last, last, 1).await?.is_empty())
    }

    /// Has that written which is in force here and not in the stream, which has lost it.
    fn write_missing(&self, receiver: &Receiver, there: &There) {
        let now = receiver.clock.now();
        let is_missing = |(subject, mark): &Marked| {
            there.until.get(subject).is_none_or(|until| *until < mark.until)
        };
        let missing: Vec<_> = receiver.marks.all(now).into_iter().filter(is_missing).collect();
        let passed_over = there.passed_over < receiver.marks.passed_over(now);
        if passed_over || !missing.is_empty() {
            let (issuer, marks) = (&*receiver.issuer.name, missing.len());
            tracing::warn!(issuer, marks, "events that replicas share were lost: written again");
            let mut pending = self.pending();
            pending.marks.extend(missing);
            pending.passed_over |= passed_over;
        }
    }

    /// Reads to the end of the stream.
    async fn read(
        &self,
        link: &Link,
        receiver: &Receiver,
        reading: &mut Reading,
        mut there: Option<&mut There>,
    ) -> RedisResult<()> {
        loop {
            let entries = self.range(link, &reading.position, "+", BATCH).await?;
            let count = entries.len();
            for (id, kept) in entries {
                reading.position = format!("({id}");
                let Some(kept) = kept else {
                    reading.odd.get_or_insert(id);
                    reading.odd_ones = reading.odd_ones.saturating_add(1);
                    continue;
                };
                receiver.put_shared(&kept);
                match there.as_deref_mut() {
                    Some(there) => there.add(&kept),
                    None => receiver.report.token_came(),
                }
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }

    /// The entries between these ids, `most` at most.
    async fn range(
        &self,
        link: &Link,
        from: &str,
        to: &str,
        most: usize,
    ) -> RedisResult<Vec<(String, Option<Kept>)>> {
        let mut command = Cmd::new();
        command.arg("XRANGE").arg(&self.key).arg(from).arg(to).arg("COUNT").arg(most);
        entries(send(link, &command).await?)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl There {
    fn add(&mut self, kept: &Kept) {
        self.until.extend(kept.marks.iter().map(|(subject, it)| (*subject, it.until)));
        self.passed_over = self.passed_over.max(kept.passed_over);
    }
}

impl Reading {
    /// One that begins at this position.
    const fn after(position: String) -> Self {
        Self { position, odd: None, odd_ones: 0 }
    }
}

async fn send(link: &Link, command: &Cmd) -> RedisResult<Value> {
    timeout(DEADLINE, link.clone().send(command)).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> RedisError {
    RedisError::from((ErrorKind::Io, "late answer"))
}

/// The entries of an answer to XRANGE, each with its id and what is kept in it, if that can be read.
fn entries(answer: Value) -> RedisResult<Vec<(String, Option<Kept>)>> {
    let odd = || RedisError::from((ErrorKind::UnexpectedReturnType, "not a stream of events"));
    let Value::Array(entries) = answer else { return Err(odd()) };
    let read = |entry: Value| {
        let Value::Array(parts) = entry else { return Err(odd()) };
        let [id, Value::Array(fields)] = &*parts else { return Err(odd()) };
        let id = text(id).ok_or_else(odd)?.to_owned();
        let kept = match &**fields {
            [name, lines] if text(name) == Some("events") => {
                text(lines).and_then(|it| Kept::of_lines(it.lines()))
            }
            _ => None,
        };
        Ok((id, kept))
    };
    entries.into_iter().map(read).collect()
}

fn text(value: &Value) -> Option<&str> {
    let Value::BulkString(octets) = value else { return None };
    str::from_utf8(octets).ok()
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::oauth::EventKind;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn answer(name: &str, lines: &str) -> Value {
        let fields = Value::Array(vec![bulk(name), bulk(lines)]);
        Value::Array(vec![Value::Array(vec![bulk("7-1"), fields])])
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let mark = Mark {
            until: UnixTime::from_millis(5),
            expires: UnixTime::from_millis(9),
            kind: EventKind::SessionRevoked,
        };
        let passed_over = Some((UnixTime::from_millis(1), UnixTime::from_millis(2)));
        for kept in [
            Kept::default(),
            Kept { marks: vec![(SubjectKey::from_octets([7; 16]), mark)], passed_over },
        ] {
            let found = entries(answer("events", &kept.lines())).unwrap();
            assert_eq!(found, [("7-1".to_owned(), Some(kept))]);
        }
        assert_eq!(entries(Value::Array(vec![])).unwrap().len(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_nothing() {
        for odd in [answer("other", ""), answer("events", "nonsense")] {
            assert_eq!(entries(odd).unwrap(), [("7-1".to_owned(), None)]);
        }
        for odd in [Value::Nil, Value::Array(vec![bulk("7-1")])] {
            assert!(entries(odd).is_err());
        }
    }
}
