//! How servers normalise a path beyond percent-decoding, and which of that affects a given path.

use super::escapes::{decoded, is_obsolete_escape};
use memchr::memchr_iter;

/// A set of normalisations, each a bit. Servers behind one another apply several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habits(u16);

impl Habits {
    /// Removes `;parameters` from each segment, as servlet containers do (RFC 3986 §3.3).
    pub(super) const PARAMETERS: Self = Self(1);
    /// Treats `%2f` as a slash, as servers do that decode a path before they split it.
    pub(super) const ENCODED_SLASH: Self = Self(1 << 1);
    /// Treats a backslash as a slash, encoded or not, as Windows and browser URL parsers do.
    pub(super) const BACKSLASH: Self = Self(1 << 2);
    /// Removes empty segments.
    pub(super) const EMPTY: Self = Self(1 << 3);
    /// Resolves dot segments (RFC 3986 §5.2.4).
    pub(super) const DOTS: Self = Self(1 << 4);
    /// Removes dots and spaces at the end of a segment, as Windows file systems do, and a final
    /// line break, before which the `$` of a regular expression matches too.
    pub(super) const TRAILING: Self = Self(1 << 5);
    /// Ends a path at NUL, as C does, or at `#`, and skips control characters, as browser URL
    /// parsers do.
    pub(super) const ENDS: Self = Self(1 << 6);
    /// Decodes overlong UTF-8 (RFC 3629 §3) and obsolete escapes: `%c0%af`, `%u002f`.
    pub(super) const OVERLONG: Self = Self(1 << 7);
    /// Removes parameters, and treats `%3b` as their `;`, too.
    pub(super) const ENCODED_PARAMETERS: Self = Self(1 << 8);

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The normalisations that may affect `path`. Some of them may not.
    pub(super) fn that_matter(path: &[u8]) -> Self {
        let mut found = Self::of_text(path);
        if path.contains(&b'%') {
            let once = decoded(path, true);
            found = found.and(Self::of_text(&once));
            for (octet, habit) in [(b'/', Self::ENCODED_SLASH), (b';', Self::ENCODED_PARAMETERS)] {
                if count(path, octet) < count(&once, octet) {
                    found = found.and(habit);
                }
            }
        }
        let makes_empty = Self::PARAMETERS
            .and(Self::ENCODED_SLASH)
            .and(Self::BACKSLASH)
            .and(Self::TRAILING)
            .and(Self::ENDS);
        if found.only(makes_empty) == Self::default() { found } else { found.and(Self::EMPTY) }
    }

    /// Every subset, the largest first.
    pub(super) fn each(self) -> impl Iterator<Item = Self> {
        let next = move |it: &Self| Some(Self(it.0.checked_sub(1)?).only(self));
        std::iter::successors(Some(self), next)
    }

    /// The same for a text that is not decoded any further.
    fn of_text(text: &[u8]) -> Self {
        let mut found = Self::default();
        let (mut before, mut begins) = (b'/', true);
        for (place, &it) in text.iter().enumerate() {
            found = found.and(match it {
                b';' => Self::PARAMETERS,
                b'\\' => Self::BACKSLASH,
                b'#' | b'?' | 0 => Self::ENDS,
                b'/' if before == b'/' && place != 0 => Self::EMPTY,
                b'.' if begins => Self::DOTS,
                b'%' if is_obsolete_escape(text.get(place..).unwrap_or_default()) => Self::OVERLONG,
                it if it.is_ascii_control() => Self::ENDS,
                _ => Self::default(),
            });
            if matches!(it, b'/' | b'\\' | b';' | b'#' | b'?' | 0) && is_trailing(before) {
                found = found.and(Self::TRAILING);
            }
            // After a skipped character, a dot may still start a segment.
            begins = matches!(it, b'/' | b'\\') || (begins && it.is_ascii_control());
            before = it;
        }
        if is_trailing(before) { found.and(Self::TRAILING) } else { found }
    }
}

/// The number of times an octet occurs in `text`.
pub(super) fn count(text: &[u8], octet: u8) -> usize {
    memchr_iter(octet, text).count()
}

/// Whether an octet is removed at the end of a segment with dots and spaces.
pub(super) const fn is_trailing(octet: u8) -> bool {
    octet == b'.' || is_blank(octet)
}

/// Whether an octet is a space or a line break.
pub(super) const fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t'..=b'\r')
}
