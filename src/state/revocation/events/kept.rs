//! Marks as lines, as they are kept in a file and shared by replicas.

use super::marks::{Mark, Marked};
use keybound_core::UnixTime;
use keybound_core::jose::base64url;
use keybound_core::oauth::{EventKind, SubjectKey};
use keybound_core::words::Words;
use std::str::SplitAsciiWhitespace;

/// What is kept of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) marks: Vec<Marked>,
    /// The time of issue for whose events there was no room, and until when that counts.
    pub(super) passed_over: Option<(UnixTime, UnixTime)>,
}

/// What one line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// What is revoked of a subject.
    Mark(Marked),
    /// The time of issue for whose events there was no room, and until when that counts.
    PassedOver((UnixTime, UnixTime)),
}

impl Line {
    /// What a line tells, without its end; none if it is not one of ours.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let line = match words.next()? {
            "passed-over" => Self::PassedOver((time(&mut words)?, time(&mut words)?)),
            key => Self::Mark(marked(key, &mut words)?),
        };
        words.next().is_none().then_some(line)
    }

    /// The line, without its end.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Mark((key, Mark { until, expires, kind })) => {
                let key = base64url::encode(key.octets());
                format!("{key} {} {} {kind}", until.as_millis(), expires.as_millis())
            }
            Self::PassedOver((at, until)) => {
                format!("passed-over {} {}", at.as_millis(), until.as_millis())
            }
        }
    }
}

fn marked(key: &str, words: &mut SplitAsciiWhitespace<'_>) -> Option<Marked> {
    let octets = base64url::decode(key.as_bytes()).ok()?.try_into().ok()?;
    let (until, expires) = (time(words)?, time(words)?);
    let kind = EventKind::named(words.next()?)?;
    Some((SubjectKey::from_octets(octets), Mark { until, expires, kind }))
}

fn time(words: &mut SplitAsciiWhitespace<'_>) -> Option<UnixTime> {
    words.next()?.parse().ok().map(UnixTime::from_millis)
}

impl Kept {
    /// What is kept, if each of these lines tells of some.
    pub(super) fn of_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut kept = Self::default();
        for line in lines {
            match Line::read(line)? {
                Line::Mark(mark) => kept.marks.push(mark),
                Line::PassedOver(passed_over) => kept.passed_over = Some(passed_over),
            }
        }
        Some(kept)
    }

    /// The same as lines.
    pub(super) fn lines(&self) -> String {
        let passed_over = self.passed_over.map(Line::PassedOver);
        let marks = self.marks.iter().map(|it| Line::Mark(*it));
        passed_over.into_iter().chain(marks).map(|it| it.text() + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mark = |octet, until| {
            let (until, expires) = (UnixTime::from_millis(until), UnixTime::from_secs(9));
            let kind = EventKind::AccountDisabled;
            (SubjectKey::from_octets([octet; 16]), Mark { until, expires, kind })
        };
        let passed_over = Some((UnixTime::from_secs(-1), UnixTime::from_millis(77)));
        let kept = Kept { marks: vec![mark(0, -5), mark(255, 1_800_000_000_123)], passed_over };
        for kept in [kept, Kept::default()] {
            assert_eq!(Kept::of_lines(kept.lines().lines()), Some(kept));
        }
    }

    #[test]
    fn a_line_that_is_not_ours_tells_nothing() {
        let good = "AAAAAAAAAAAAAAAAAAAAAA 1 2 account-disabled";
        assert!(Line::read(good).is_some());
        for odd in [
            "",
            "end",
            "AAAAAAAAAAAAAAAAAAAAAA 1 2",
            "AAAAAAAAAAAAAAAAAAAAAA 1 account-disabled",
            "AAAAAAAAAAAAAAAAAAAAAA 1 2 else",
            "AAAAAAAAAAAAAAAAAAAAA 1 2 account-disabled",
            "AAAAAAAAAAAAAAAAAAAAAA 1 x account-disabled",
            "AAAAAAAAAAAAAAAAAAAAAA 1 2 account-disabled x",
            "passed-over 1",
            "passed-over 1 2 3",
        ] {
            assert_eq!(Line::read(odd), None, "{odd}");
        }
    }
}
