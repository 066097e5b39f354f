//! The trace that a request belongs to: the `traceparent` header (W3C Trace Context §3.2).

use std::fmt::Write;

/// The span that caused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The span of the caller.
    pub span: SpanId,
    /// Whether the caller may have recorded that span.
    pub sampled: bool,
}

/// A trace id, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

/// A span id, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

impl TraceParent {
    /// The value of a `traceparent` header; `None` if it is malformed.
    pub fn read(header: &[u8]) -> Option<Self> {
        let (fields, rest) = header.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] =
            [fields.get(..2)?, fields.get(3..35)?, fields.get(36..52)?, fields.get(53..)?];
        let dashes = [2, 35, 52].iter().all(|it| fields.get(*it) == Some(&b'-'));
        let [version] = unhex(version)?;
        // Later versions may append fields after another dash (§4.3). Version 255 is invalid.
        let ended = match version {
            0 => rest.is_empty(),
            255 => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let (trace, span, [flags]) = (unhex(trace)?, unhex(span)?, unhex(flags)?);
        let named = trace != [0; 16] && span != [0; 8];
        let sampled = flags & 1 == 1;
        (dashes && ended && named).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            sampled,
        })
    }
}

impl TraceId {
    /// In lower-case hexadecimal, as in logs and headers.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl SpanId {
    /// In lower-case hexadecimal, as in logs and headers.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

/// `version-trace-span-flags`, in bytes.
const LENGTH: usize = 55;

fn unhex<const BYTES: usize>(digits: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    if digits.len() != BYTES.checked_mul(2)? {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = <[u8; 2]>::try_from(pair).ok()?;
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// Upper case is not allowed.
const fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a' - 10),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(32), |mut text, it| {
        // Writing to a string cannot fail.
        let _written = write!(text, "{it:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_names_a_trace_and_a_span() {
        let found = TraceParent::read(GOOD.as_bytes()).unwrap();
        assert_eq!(found.trace.to_hex(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(found.span.to_hex(), "b7ad6b7169203331");
        assert!(found.sampled);
    }

    #[test]
    fn only_the_last_flag_says_that_it_is_sampled() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let text = GOOD.replace("-01", &format!("-{flags}"));
            assert_eq!(TraceParent::read(text.as_bytes()).unwrap().sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        for (text, good) in [
            (GOOD.replacen("00-", "01-", 1), true),
            (GOOD.replacen("00-", "fe-", 1) + "-more", true),
            (GOOD.replacen("00-", "01-", 1) + "more", false),
            (GOOD.replacen("00-", "ff-", 1), false),
            (GOOD.to_owned() + "-more", false),
        ] {
            assert_eq!(TraceParent::read(text.as_bytes()).is_some(), good, "{text}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_traceparent_is_none() {
        for odd in [
            "",
            "00",
            &GOOD.replace('-', "_"),
            &GOOD.replace("0af7", "0AF7"),
            &GOOD.replace("0af7", "0a\n7"),
            &GOOD.replace("0af7", "0af"),
            &GOOD.replace("0af7", "0agf"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("-01", "-1"),
            &GOOD.replace("-01", "-0x"),
            &format!(" {GOOD}"),
            &format!("{GOOD} "),
        ] {
            assert_eq!(TraceParent::read(odd.as_bytes()), None, "{odd}");
        }
    }
}
