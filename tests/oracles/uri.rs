//! Targets of proofs: what is normalised here is what another library for RFC 3986 makes of it
//! (§6.2.2 and §6.2.3), but for the differences that are listed here.

use super::choices::Choices;
use fluent_uri::Uri;
use keybound_core::{HttpUri, Origin};

/// Holds what becomes of a URI against what another library makes of it.
pub fn normalises_as_another_library(text: &str) -> &'static str {
    let ours = HttpUri::parse(text);
    let theirs = normalised(text);
    let found = ours.as_ref().map(HttpUri::as_str).ok();
    assert_eq!(found, theirs.as_deref(), "{text}");
    // The same as the target of a request, which comes in parts.
    if let Some((scheme, (authority, path))) = text
        .split_once("://")
        .map(|(it, rest)| (it, rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))))
    {
        let origin = Origin::new(scheme, authority);
        assert_eq!(origin.and_then(|it| HttpUri::new(&it, path)), ours, "{text}");
    }
    if theirs.is_some() { "normalised" } else { "refused" }
}

/// Holds that two spellings are one target exactly where both libraries say so.
pub fn two_are_equal_where_they_normalise_alike(choices: &mut Choices<'_>) -> &'static str {
    let one = uri(choices);
    let other = respelled(choices, &one);
    let outcome = (normalises_as_another_library(&one), normalises_as_another_library(&other));
    let (one, other) = (HttpUri::parse(&one), HttpUri::parse(&other));
    match outcome {
        ("normalised", "normalised") if one == other => "the same",
        ("normalised", "normalised") => "different",
        _ => "refused",
    }
}

/// What the other library makes of it, as it would be here.
fn normalised(text: &str) -> Option<String> {
    // Query and fragment do not count (RFC 9449 §4.2).
    let text = text.split(['?', '#']).next().unwrap();
    let (scheme, rest) = text.split_once("://")?;
    if !["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it)) {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // A backslash is a slash to some.
    if path.contains('\\') {
        return None;
    }
    // Other characters that RFC 3986 knows no place for stay as they are.
    let known = ODD.iter().zip(0_u32..).fold(path.to_owned(), |path, (odd, number)| {
        path.replace(*odd, &format!("{MARK}{number}"))
    });
    let text = format!("{scheme}://{}{known}", plain_authority(authority)?);
    let normal = Uri::parse(text).ok()?.normalize().into_string();
    // RFC 3986 §6.2.3: an empty path is the root. The library leaves that to others.
    let normal = if path.is_empty() { normal + "/" } else { normal };
    Some(
        ODD.iter()
            .zip(0_u32..)
            .fold(normal, |normal, (odd, number)| normal.replace(&format!("{MARK}{number}"), odd)),
    )
}

const ODD: &[&str] = &["\"", "<", ">", "[", "]", "^", "`", "{", "|", "}"];

/// Stands before the number of a character. No case holds it.
const MARK: &str = "Zq";

/// An authority of which there is one reading, its port without leading zeros. RFC 3986 knows more:
/// user information, any characters in a name, addresses of the future.
fn plain_authority(authority: &str) -> Option<String> {
    let end = authority.rfind(']').map_or(0, |it| it + 1);
    let (host, port) = match authority[end..].find(':') {
        Some(colon) => (&authority[..end + colon], &authority[end + colon + 1..]),
        None => (authority, ""),
    };
    let of_name = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
    let of_address = |it: char| it.is_ascii_hexdigit() || "[]:.".contains(it);
    let plain = if host.starts_with('[') {
        host.chars().all(of_address)
    } else {
        host.chars().all(of_name)
    };
    let digits = port.chars().all(|it| it.is_ascii_digit());
    let number = if port.is_empty() {
        Some(String::new())
    } else {
        port.parse::<u16>().ok().map(|it| it.to_string())
    };
    (plain && !host.is_empty() && digits).then(|| number.map(|it| format!("{host}:{it}")))?
}

// Spellings.

fn uri(choices: &mut Choices<'_>) -> String {
    let mut either = |usual: &[&'static str], odd: &[&'static str]| {
        let from = if choices.one_in(16) { odd } else { usual };
        choices.pick(from)
    };
    let scheme =
        either(&["http://", "https://", "HTTPS://", "Http://"], &["ftp://", "http:", "//"]);
    let host = either(HOSTS, ODD_HOSTS);
    let port = either(
        &["", "", ":", ":80", ":443", ":8443", ":0443", ":00080", ":65535"],
        &[":65536", ":99999", ":x", ":+1", ":1:2"],
    );
    let slash = either(&["/"], &[""]);
    let path: String = (0..8).map(|_| either(PIECES, ODD_PIECES)).collect();
    format!("{scheme}{host}{port}{slash}{path}")
}

const HOSTS: &[&str] =
    &["a", "a", "A.b", "a.", "a-_b", "1.2.3.4", "[::1]", "[0::0:1]", "[::FFFF:1.2.3.4]"];

const ODD_HOSTS: &[&str] =
    &["[::1", "[1]", "[v1.a]", "[fe80::1%25a]", "", "u@a", "a,b", "a%2eb", "é", "a b", "a\\b"];

const PIECES: &[&str] = &[
    "", "", "", "/", "/", "/", ".", "..", "a", "B", "%41", "%2e", "%2E", "%2F", "%2f", "%7E", "~",
    "%c3%a9", "%25", "|", "{", "%7C", "\"", "^", "%5c", ";", "=", ":", "@", "!", "*", "%21", "+",
    "?", "#", "-", "_", "%5F",
];

const ODD_PIECES: &[&str] = &["%", "%zz", "%4", "%é", "é", "\\", " ", "\t", "\u{0}"];

/// The same text with some characters spelled in another way, or another text.
fn respelled(choices: &mut Choices<'_>, text: &str) -> String {
    let mut again = text.to_owned();
    for _ in 0..=choices.below(3) {
        let (old, new) = choices.pick(&[
            ("https", "HTTPS"),
            ("a", "%61"),
            ("%41", "A"),
            ("%2e", "."),
            ("%2f", "%2F"),
            ("~", "%7e"),
            ("/a", "/a/."),
            ("/", "/x/../"),
            ("/", "//"),
            ("/", "/./"),
            (":443", ""),
            (":80", ":"),
            ("A.b", "a.B"),
            ("[::1]", "[0:0:0:0:0:0:0:1]"),
            ("B", "b"),
            ("%2F", "/"),
            ("!", "%21"),
            ("|", "%7C"),
            ("", "?x"),
        ]);
        again = again.replacen(old, new, 1);
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::{CASES, outcomes};

    #[test]
    fn two_spellings_are_one_target_where_another_library_says_so() {
        outcomes(CASES, two_are_equal_where_they_normalise_alike).came_up(&[
            "the same",
            "different",
            "refused",
        ]);
    }
}
