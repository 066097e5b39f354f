//! Alternative readings of a path: by servers that normalise more than percent-encoding, and behind
//! proxies that rewrite it first.

use super::escapes::{decoded, encoded};
use super::habits::{Habits, count};
use super::segments::Segments;
use super::{Budget, TooMany};
use std::collections::HashSet;

/// The cost, for each octet of a path, of the forms in which proxies may forward it.
const HANDED_ON: usize = 16;

/// The first reading of `path` for which `is_it` holds. Tries each reading once, as far as the
/// `budget` allows.
///
/// A segment that equals the one in `spelled` at the same position has no other reading: the author
/// of the policy wrote it that way.
pub(super) fn find(
    path: &str,
    spelled: &[Vec<u8>],
    budget: &mut Budget,
    mut is_it: impl FnMut(&Segments, &mut Budget) -> Result<bool, TooMany>,
) -> Result<Option<Segments>, TooMany> {
    budget.spend(path.len().saturating_mul(HANDED_ON))?;
    let mut segments = Segments::default();
    let mut tried = HashSet::new();
    for text in handed_on(&rooted(path), spelled) {
        for habits in Habits::that_matter(&text).each() {
            budget.spend(text.len())?;
            segments.read(&text, habits, spelled);
            if tried.contains(&segments) {
                continue;
            }
            if is_it(&segments, budget)? {
                return Ok(Some(segments));
            }
            tried.insert(segments.clone());
        }
    }
    Ok(None)
}

/// The forms of a path that servers may receive: unchanged, and as proxies forward it.
fn handed_on(path: &[u8], spelled: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut found = vec![];
    let mut add = |text: &[u8]| {
        for text in beginnings(text).into_iter().flatten() {
            if !found.iter().any(|it| it == text) {
                found.push(text.to_vec());
            }
        }
    };
    add(path);
    let shared = Habits::that_matter(path).only(Habits::BACKSLASH.and(Habits::OVERLONG));
    let escaped = escapes_matter(path);
    for habits in shared.each() {
        add(&resolved(path, habits));
        let segments = normalised(path, habits, spelled);
        add(&joined(&segments, |_, it| encoded(it, |it| !it.is_ascii() || b"%?#".contains(&it))));
        if escaped {
            add(before_query(&once_decoded(path, habits, spelled)));
            let is_meant = |place, it: &[u8]| spelled.get(place).is_some_and(|s| s == it);
            let decoded = joined(&segments, |place, it| {
                let kept = if is_meant(place, it) { "%?#" } else { "" };
                encoded(it, |it| !it.is_ascii() || kept.as_bytes().contains(&it))
            });
            add(before_query(&decoded));
        }
    }
    found
}

/// A path unchanged; without the host that URL parsers see in `//host` (RFC 3986 §4.2), or after
/// any number of slashes, as browsers do (WHATWG URL, special authority ignore slashes state); and
/// with one leading slash, as trimming leaves it.
fn beginnings(path: &[u8]) -> [Option<&[u8]>; 4] {
    let is_slash = |it: &u8| matches!(it, b'/' | b'\\');
    if !path.get(1).is_some_and(is_slash) {
        return [Some(path), None, None, None];
    }
    let behind_host = |slashes: usize| {
        let behind = path.get(slashes..)?;
        behind.get(behind.iter().position(is_slash).unwrap_or(behind.len())..)
    };
    let any = path.iter().take_while(|it| is_slash(it)).count();
    let slashes = path.iter().take_while(|it| **it == b'/').count();
    [Some(path), behind_host(2), behind_host(any), path.get(slashes.saturating_sub(1)..)]
}

/// Decoded, without empty segments and dot segments.
fn normalised(path: &[u8], habits: Habits, spelled: &[Vec<u8>]) -> Segments {
    let own = Habits::ENCODED_SLASH.and(Habits::EMPTY).and(Habits::DOTS);
    let mut segments = Segments::default();
    segments.read(path, own.and(habits), spelled);
    segments
}

fn joined(segments: &Segments, written: impl Fn(usize, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let each = segments.iter().enumerate();
    each.flat_map(|(place, it)| [b"/".to_vec(), written(place, it)].concat()).collect()
}

/// Decoded, except for segments that the policy spells this way.
fn once_decoded(path: &[u8], habits: Habits, spelled: &[Vec<u8>]) -> Vec<u8> {
    let segments = path.split(|it| *it == b'/').skip(1).enumerate();
    let each = segments.flat_map(|(place, segment)| {
        let once = decoded(segment, habits.has(Habits::OVERLONG));
        let is_meant = spelled.get(place).is_some_and(|it| *it == once);
        let written = if is_meant { segment.to_vec() } else { encoded(&once, |it| !it.is_ascii()) };
        [b"/".to_vec(), written].concat()
    });
    each.collect()
}

/// Without dot segments, otherwise unchanged.
fn resolved(path: &[u8], habits: Habits) -> Vec<u8> {
    let is_slash = |it: &u8| *it == b'/' || (*it == b'\\' && habits.has(Habits::BACKSLASH));
    let mut kept: Vec<&[u8]> = vec![];
    for segment in path.split(is_slash).skip(1) {
        match &*decoded(segment, false) {
            b"." => (),
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    kept.iter().flat_map(|it| [b"/", *it].concat()).collect()
}

/// The path of a target that may also be a whole URL, or have no leading slash.
fn rooted(path: &str) -> Vec<u8> {
    if path.is_empty() || path.starts_with('/') {
        return path.as_bytes().to_vec();
    }
    let path = path
        .split_once("://")
        .map_or(path, |(_, rest)| rest.find('/').and_then(|it| rest.get(it..)).unwrap_or_default());
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    [slash.as_bytes(), path.as_bytes()].concat()
}

fn before_query(path: &[u8]) -> &[u8] {
    path.split(|it| *it == b'?').next().unwrap_or_default()
}

/// Whether an encoded octet would be special after decoding.
fn escapes_matter(path: &[u8]) -> bool {
    let once = decoded(path, true);
    let is_new = |octet: &u8| count(path, *octet) < count(&once, *octet);
    b"/\\;?#\0".iter().any(is_new) || once.contains(&b'%')
}
