//! The text form of `x-forwarded-client-cert`: `By=…;Hash=…;URI=…,By=…;Hash=…`.
//!
//! Stricter than Envoy's documentation: only known keys, in Envoy's case; only `By`, `URI` and
//! `DNS` may repeat; no `URI` after a `DNS`; a value is quoted as a whole, or has no character that
//! would need quotes. A certificate with `,` `;` or `"` in a SAN is therefore refused if a proxy
//! forwards its SANs.

use super::Element;
use crate::client_certificate::{Unusable, pem};
use std::borrow::Cow;

/// The elements, starting with the client's. The iterator ends after the first one that cannot be
/// parsed.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = Result<Element<'_>, Unusable>> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let mut pairs = Pairs::default();
        let (found, behind) = match pairs.read(rest.take()?) {
            Ok(behind) => (pairs.element(), behind),
            Err(unusable) => (Err(unusable), None),
        };
        rest = behind;
        Some(found)
    })
}

/// The pairs of one element.
#[derive(Default)]
struct Pairs<'a> {
    hash: Option<Value<'a>>,
    cert: Option<Value<'a>>,
    chain: Option<Value<'a>>,
    subject: Option<Value<'a>>,
    issuer: Option<Value<'a>>,
    /// The first one.
    uri: Option<Value<'a>>,
    /// The first one.
    dns: Option<Value<'a>>,
}

impl<'a> Pairs<'a> {
    /// Parses pairs up to the end of the element, and returns what follows its comma.
    fn read(&mut self, mut rest: &'a [u8]) -> Result<Option<&'a [u8]>, Unusable> {
        loop {
            let end = rest.iter().position(|&it| it == b'=').ok_or(Unusable::Malformed)?;
            let (key, behind) = rest.split_at_checked(end).ok_or(Unusable::Malformed)?;
            let (value, behind) =
                behind.get(1..).and_then(Value::read).ok_or(Unusable::Malformed)?;
            self.take(key, value)?;
            match behind {
                [] => return Ok(None),
                [b',', behind @ ..] => return Ok(Some(behind)),
                [b';', behind @ ..] => rest = behind,
                _ => return Err(Unusable::Malformed),
            }
        }
    }

    fn take(&mut self, key: &[u8], value: Value<'a>) -> Result<(), Unusable> {
        let once = match key {
            b"By" => return Ok(()),
            // Envoy writes URI SANs before DNS SANs. A URI after a DNS is forged by the text of a
            // DNS SAN.
            b"URI" if self.dns.is_some() => return Err(Unusable::Malformed),
            b"URI" => {
                self.uri.get_or_insert(value);
                return Ok(());
            }
            b"DNS" => {
                self.dns.get_or_insert(value);
                return Ok(());
            }
            b"Hash" => &mut self.hash,
            b"Cert" => &mut self.cert,
            b"Chain" => &mut self.chain,
            b"Subject" => &mut self.subject,
            b"Issuer" => &mut self.issuer,
            _ => return Err(Unusable::Malformed),
        };
        match once.replace(value) {
            None => Ok(()),
            Some(_) => Err(Unusable::Malformed),
        }
    }

    fn element(self) -> Result<Element<'a>, Unusable> {
        let read = |it: Value<'_>| pem::thumbprint_of_urlencoded(it.raw());
        Element::new(
            self.hash.ok_or(Unusable::Malformed)?.raw(),
            self.cert.map(|it| read(it).ok_or(Unusable::Malformed)).transpose()?,
            self.uri.map(Value::unescaped),
            self.dns.map(Value::unescaped),
        )
    }
}

/// A value without its quotes.
enum Value<'a> {
    Plain(&'a [u8]),
    /// Still with its backslashes.
    Quoted(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Parses a value, and returns what follows it.
    fn read(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        match text {
            [b'"', quoted @ ..] => {
                let (value, behind) = quoted.split_at_checked(closing_quote(quoted)?)?;
                Some((Self::Quoted(value), behind.get(1..)?))
            }
            plain => {
                let end = plain.iter().position(|&it| !is_plain(it)).unwrap_or(plain.len());
                let (value, behind) = plain.split_at_checked(end)?;
                Some((Self::Plain(value), behind))
            }
        }
    }

    /// The text as written.
    fn raw(&self) -> &'a [u8] {
        match self {
            Self::Plain(value) | Self::Quoted(value) => value,
        }
    }

    /// The text without escapes.
    fn unescaped(self) -> Cow<'a, [u8]> {
        match self {
            Self::Quoted(value) if value.contains(&b'\\') => {
                let mut escaped = false;
                let stays = |it: &u8| {
                    escaped = *it == b'\\' && !escaped;
                    !escaped
                };
                Cow::Owned(value.iter().copied().filter(stays).collect())
            }
            Self::Plain(value) | Self::Quoted(value) => Cow::Borrowed(value),
        }
    }
}

/// Where the quoted value at the start ends. A backslash escapes the next character.
fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = quoted.iter().position(|&it| match it {
        _ if it.is_ascii_control() => true,
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        // Distinguished names have their semicolons escaped (RFC 4514 §2.4), and PEM has none. An
        // unescaped one reveals that a quote, opened by the client in its own header and closed by
        // a SAN in its certificate, has swallowed an element of the proxy.
        b'"' | b';' => true,
        _ => false,
    })?;
    (quoted.get(end) == Some(&b'"')).then_some(end)
}

/// Whether a value without quotes may contain it. Envoy does not escape SANs.
fn is_plain(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'"' | b',' | b';')
}
