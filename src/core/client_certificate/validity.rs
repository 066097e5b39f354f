//! The validity period of a certificate (RFC 5280 §4.1.2.5), for whoever watches over its own.

use super::file::{
    CONTEXT_0, Element, GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, element, elements,
};
use crate::time::UnixTime;

/// The validity period of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not valid before.
    pub from: UnixTime,
    /// Not valid after.
    pub until: UnixTime,
}

impl Validity {
    /// That of the certificate `der`; `None` if it cannot be read. No signature is verified.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (SEQUENCE, certificate, []) = element(der)? else { return None };
        let (SEQUENCE, signed, _) = element(certificate)? else { return None };
        let parts = elements(signed)?;
        let parts = match parts.split_first() {
            // The version.
            Some(((CONTEXT_0, _), rest)) => rest,
            Some(_) | None => &parts,
        };
        // The serial number; algorithm, issuer and validity.
        let [(INTEGER, _), (SEQUENCE, _), (SEQUENCE, _), (SEQUENCE, validity), ..] = parts else {
            return None;
        };
        match &*elements(validity)? {
            [from, until] => Some(Self { from: time(*from)?, until: time(*until)? }),
            _ => None,
        }
    }
}

/// `YYMMDDHHMMSSZ` of 1950 to 2049, or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5.1 and .2).
fn time((tag, text): Element<'_>) -> Option<UnixTime> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let century = if year < "50" { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.to_owned(), rest)
        }
        _ => return None,
    };
    let pair = |at: usize| rest.get(at..at.checked_add(2)?);
    let (month, day, hour, minute, second) = (pair(0)?, pair(2)?, pair(4)?, pair(6)?, pair(8)?);
    if rest.len() != 10 {
        return None;
    }
    UnixTime::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_certificate::{der_in, examples};

    #[test]
    fn a_certificate_says_from_when_until_when() {
        for (example, from, until) in [
            (examples::RFC8705, "2018-10-18T12:37:09Z", "2022-05-02T12:37:09Z"),
            // With a version, and extensions.
            (examples::RFC9440, "2020-01-14T22:55:33Z", "2021-01-23T22:55:33Z"),
        ] {
            let validity = Validity::of(&der_in(example.pem.as_bytes()).unwrap()).unwrap();
            assert_eq!(
                (&*validity.from.to_rfc3339(), &*validity.until.to_rfc3339()),
                (from, until)
            );
        }
    }

    #[test]
    fn times_are_of_two_kinds() {
        for (tag, text, told) in [
            (UTC_TIME, "490101000000Z", Some("2049-01-01T00:00:00Z")),
            (UTC_TIME, "500101000000Z", Some("1950-01-01T00:00:00Z")),
            (GENERALIZED_TIME, "20500101000000Z", Some("2050-01-01T00:00:00Z")),
            // No well-defined end (RFC 5280 §4.1.2.5).
            (GENERALIZED_TIME, "99991231235959Z", Some("9999-12-31T23:59:59Z")),
            (UTC_TIME, "20500101000000Z", None),
            (GENERALIZED_TIME, "490101000000Z", None),
            (UTC_TIME, "490101000000", None),
            (UTC_TIME, "4901010000Z", None),
            (UTC_TIME, "491301000000Z", None),
            (UTC_TIME, "49010100000äZ", None),
            (INTEGER, "490101000000Z", None),
        ] {
            let found = time((tag, text.as_bytes())).map(UnixTime::to_rfc3339);
            assert_eq!(found.as_deref(), told, "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        for der in [&b""[..], &[SEQUENCE, 0], &[SEQUENCE, 2, SEQUENCE, 0], &[INTEGER, 1, 7]] {
            assert_eq!(Validity::of(der), None);
        }
    }
}
