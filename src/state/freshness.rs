//! The lifetime of an HTTP response: `Cache-Control` and `Age` (RFC 9111 §4.2, §5.2).

use http::{HeaderMap, header};
use std::time::Duration;

/// How long a response with these headers stays fresh; `None` if they do not say.
///
/// A directive that cannot be parsed counts as zero (RFC 9111 §4.2.1), and of two the shorter wins.
/// `Expires` is ignored, since it is an absolute time of a clock that may be wrong; `s-maxage` is
/// ignored, since it is for shared caches.
pub fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let stated = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .flat_map(|line| match line.to_str() {
            Ok(line) => line.split(outside_quotes()).filter_map(directive).collect(),
            Err(_) => vec![0],
        })
        .min()?;
    Some(Duration::from_secs(stated.saturating_sub(age(headers))))
}

/// The lifetime in seconds that one directive states; `None` for other directives.
fn directive(text: &str) -> Option<u64> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (text.trim(), None),
    };
    match name.to_ascii_lowercase().as_str() {
        "no-store" | "no-cache" => Some(0),
        "max-age" => Some(value.map_or(0, |it| seconds(it.trim_matches('"')))),
        _ => None,
    }
}

/// Delta seconds (RFC 9111 §1.2.2); a number too large for us is still a long time.
fn seconds(text: &str) -> u64 {
    if text.is_empty() || !text.bytes().all(|it| it.is_ascii_digit()) {
        return 0;
    }
    text.parse().unwrap_or(u64::MAX)
}

/// The age of the response when a shared cache on the way returned it, in seconds.
fn age(headers: &HeaderMap) -> u64 {
    headers.get(header::AGE).and_then(|it| it.to_str().ok()).map_or(0, |it| seconds(it.trim()))
}

/// A predicate for commas that separate directives, as opposed to commas in a quoted value.
fn outside_quotes() -> impl FnMut(char) -> bool {
    let mut quoted = false;
    move |it| {
        quoted ^= it == '"';
        it == ',' && !quoted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: Option<u64>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(
                header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        assert_eq!(lifetime(&headers), expected.map(Duration::from_secs), "{lines:?}");
    }

    #[test]
    fn silence_is_not_a_statement() {
        check(&[], None);
        check(&["cache-control: public, must-revalidate"], None);
        check(&["cache-control: s-maxage=60"], None);
        check(&["expires: Thu, 01 Jan 1970 00:00:00 GMT"], None);
    }

    #[test]
    fn max_age_is_read_in_every_spelling() {
        for value in [
            "max-age=60",
            "public, max-age=60",
            "Max-Age=60 , private",
            "max-age=\"60\"",
            "a=\",\",max-age=60",
        ] {
            check(&[&format!("cache-control: {value}")], Some(60));
        }
        check(&["cache-control: max-age=31536000"], Some(31_536_000));
        check(&["cache-control: max-age=99999999999999999999"], Some(u64::MAX));
    }

    #[test]
    fn what_must_not_be_kept_has_no_lifetime() {
        for value in ["no-store", "no-cache", "NO-CACHE", "no-cache=\"set-cookie\"", "max-age=0"] {
            check(&[&format!("cache-control: max-age=60, {value}")], Some(0));
        }
    }

    #[test]
    fn what_is_not_understood_has_no_lifetime() {
        for value in
            ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=+5", "max-age=1h"]
        {
            check(&[&format!("cache-control: {value}")], Some(0));
        }
    }

    #[test]
    fn a_directive_inside_quotes_is_none() {
        check(&["cache-control: extension=\"a, max-age=5\""], None);
    }

    #[test]
    fn the_shorter_of_two_statements_holds() {
        check(&["cache-control: max-age=60, max-age=30"], Some(30));
        check(&["cache-control: max-age=30", "cache-control: max-age=60"], Some(30));
    }

    #[test]
    fn the_age_on_arrival_counts() {
        check(&["cache-control: max-age=60", "age: 59"], Some(1));
        check(&["cache-control: max-age=60", "age: 61"], Some(0));
        check(&["age: 10"], None);
    }
}
