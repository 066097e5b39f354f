//! The segments of a path under a given set of normalisations.

use super::escapes::escape;
use super::habits::{Habits, is_blank, is_trailing};

/// The segments of one reading of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Segments {
    octets: Vec<u8>,
    ends: Vec<usize>,
}

impl Segments {
    /// The decoded segments.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins.zip(&self.ends).map(|(begin, end)| self.octets.get(*begin..*end).unwrap_or_default())
    }

    /// Whether the first segments are those of `prefix`; with `folded`, ignoring case except for
    /// segments that equal those in `spelled`.
    pub(super) fn begin_with(&self, prefix: &[Vec<u8>], folded: bool, spelled: &[Vec<u8>]) -> bool {
        let mut own = self.iter();
        prefix.iter().enumerate().all(|(place, wanted)| {
            own.next().is_some_and(|it| {
                let is_meant = || spelled.get(place).is_some_and(|spelled| spelled == it);
                it == wanted || (folded && !is_meant() && same_letters(it, wanted))
            })
        })
    }

    fn begin(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Reads `path`. A segment that equals the one in `spelled` at the same position is not
    /// normalised: the author of the policy wrote it that way.
    pub(super) fn read(&mut self, path: &[u8], habits: Habits, spelled: &[Vec<u8>]) {
        self.octets.clear();
        self.ends.clear();
        // What follows a host may start with a backslash.
        let Some((_, mut rest)) = path.split_first() else { return };
        let mut in_parameters = false;
        while let Some((&first, behind)) = rest.split_first() {
            let escape =
                if first == b'%' { escape(rest, habits.has(Habits::OVERLONG)) } else { None };
            let (octet, is_raw) = escape.map_or((first, true), |(octet, _)| (octet, false));
            rest = escape.map_or(behind, |(_, behind)| behind);
            match octet {
                b'/' if is_raw => {
                    self.end(habits, spelled);
                    in_parameters = false;
                }
                b'#' | b'?' if is_raw && habits.has(Habits::ENDS) => break,
                _ if in_parameters => (),
                b'/' if habits.has(Habits::ENCODED_SLASH) => self.end(habits, spelled),
                b'\\' if habits.has(Habits::BACKSLASH) => self.end(habits, spelled),
                b';' if habits.has(Habits::ENCODED_PARAMETERS) => in_parameters = true,
                b';' if is_raw && habits.has(Habits::PARAMETERS) => in_parameters = true,
                0 if habits.has(Habits::ENDS) => break,
                it if is_raw && it.is_ascii_control() && habits.has(Habits::ENDS) => (),
                it => self.octets.push(it),
            }
        }
        self.end(habits, spelled);
    }

    /// Ends the current segment.
    fn end(&mut self, habits: Habits, spelled: &[Vec<u8>]) {
        let begin = self.begin();
        let segment = self.octets.get(begin..).unwrap_or_default();
        let is_meant = spelled.get(self.ends.len()).is_some_and(|it| *it == segment);
        if !is_meant {
            let kept = if habits.has(Habits::TRAILING) { trimmed(segment) } else { segment.len() };
            let segment = segment.get(..kept).unwrap_or_default();
            let dots = if habits.has(Habits::DOTS) { segment } else { b"" };
            let drops = dots == b"." || (segment.is_empty() && habits.has(Habits::EMPTY));
            if dots == b".." {
                self.ends.pop();
                self.octets.truncate(self.begin());
                return;
            }
            self.octets.truncate(if drops { begin } else { begin.saturating_add(kept) });
            if drops {
                return;
            }
        }
        self.ends.push(self.octets.len());
    }
}

/// Whether two texts are equal ignoring case, in any script.
fn same_letters(one: &[u8], other: &[u8]) -> bool {
    if one.is_ascii() && other.is_ascii() {
        return one.eq_ignore_ascii_case(other);
    }
    let text = |it| str::from_utf8(it).ok();
    text(one).zip(text(other)).is_some_and(|(one, other)| {
        one.chars().flat_map(char::to_lowercase).eq(other.chars().flat_map(char::to_lowercase))
            || one
                .chars()
                .flat_map(char::to_uppercase)
                .eq(other.chars().flat_map(char::to_uppercase))
    })
}

/// The length of a segment without trailing dots and spaces. A dot segment is kept.
fn trimmed(segment: &[u8]) -> usize {
    let without = |is_cut: fn(u8) -> bool| {
        segment.iter().rposition(|it| !is_cut(*it)).map_or(0, |it| it.saturating_add(1))
    };
    let without_blanks = without(is_blank);
    match segment.get(..without_blanks) {
        Some(b"." | b"..") => without_blanks,
        _ => without(is_trailing),
    }
}
