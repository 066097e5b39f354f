//! The access token and DPoP proof of a request (RFC 6750 §2, RFC 9449 §7.1).

use crate::denial::Denial;
use crate::jose::thumbprint::Thumbprint;
use crate::percent;
use crate::policy::SenderConstraint;
use crate::request::{Field, Request};
use memchr::{memchr, memchr_iter};
use std::fmt;
use std::sync::OnceLock;

/// The credentials of a request: exactly one token, at most one proof.
#[derive(Debug)]
pub struct Credentials<'a> {
    /// The authentication scheme of the token.
    pub scheme: Scheme,
    /// The access token.
    pub token: Token<'a>,
    /// The DPoP proof.
    pub proof: Option<Proof<'a>>,
    token_hash: OnceLock<Thumbprint>,
}

/// An authentication scheme for access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449 §7.1.
    Dpop,
    /// Microsoft's for tokens that are bound to a client certificate (`token_type=mtls_pop`). Only
    /// who used it is asked for it, since RFC 8705 has such tokens sent as `Bearer`.
    MtlsPop,
}

/// An access token as received: a secret, redacted in `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a>(&'a [u8]);

/// A DPoP proof as received: a secret while it is valid, redacted in `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof<'a>(&'a [u8]);

impl<'a> Credentials<'a> {
    /// Reads the credentials of a request.
    pub fn read(request: &Request<'a>) -> Result<Self, Denial> {
        let (scheme, token) = authorization(request.authorization)?;
        // RFC 6750 §2: the token may be sent in one way only.
        if request.target.query().is_some_and(holds_access_token) {
            return Err(Denial::CredentialsAmbiguous);
        }
        let proof = match request.proof {
            Field::Absent => None,
            Field::One(proof) if !has_comma(proof) => Some(Proof(proof)),
            Field::One(_) | Field::Many => return Err(Denial::CredentialsAmbiguous),
        };
        Ok(Self { scheme, token, proof, token_hash: OnceLock::new() })
    }

    /// The SHA-256 of the token: the `ath` of a proof (RFC 9449 §4.2), and what an answer about an opaque
    /// token is cached by. Computed once, since for a long token it would be the larger part of a check.
    pub fn token_hash(&self) -> Thumbprint {
        *self.token_hash.get_or_init(|| Thumbprint::of(self.token.as_bytes()))
    }
}

/// A scheme, spaces, and a token.
fn authorization(field: Field<'_>) -> Result<(Scheme, Token<'_>), Denial> {
    let value = match field {
        Field::Absent => return Err(Denial::CredentialsMissing),
        Field::One(value) => value.trim_ascii(),
        Field::Many => return Err(Denial::CredentialsAmbiguous),
    };
    if value.is_empty() {
        return Err(Denial::CredentialsMissing);
    }
    // Envoy joins repeated headers with a comma, which a token cannot contain.
    scheme_and_token(value)
        .map_err(|it| if has_comma(value) { Denial::CredentialsAmbiguous } else { it })
}

fn scheme_and_token(value: &[u8]) -> Result<(Scheme, Token<'_>), Denial> {
    let end = value.iter().position(|it| *it == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end).ok_or(Denial::Internal)?;
    let scheme = Scheme::named(scheme).ok_or(Denial::SchemeUnsupported)?;
    let blanks = rest.iter().take_while(|it| **it == b' ').count();
    let token = rest.get(blanks..).unwrap_or_default();
    if is_token(token) { Ok((scheme, Token(token))) } else { Err(Denial::TokenMalformed) }
}

fn has_comma(text: &[u8]) -> bool {
    memchr(b',', text).is_some()
}

/// Whether a text may be a token. RFC 6750 §2.1 has `token68`; issuers of opaque tokens keep to no
/// grammar, and some write `!`.
///
/// It must mean the same to everybody who reads the header, so it has visible characters only, and none
/// that ends, joins or quotes a part of a header for some reader: Envoy joins header lines with a
/// comma, Rails splits at `,` and `;` and reads `token=…`, and `\` escapes what follows it. So `=`
/// stands at the end only, as in `token68`.
fn is_token(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|it| **it == b'=').count();
    let body = text.get(..text.len().saturating_sub(padding)).unwrap_or_default();
    !body.is_empty() && (none(body, may_be_odd) || none(body, is_odd))
}

/// Whether no byte is `odd`, which is 0 for those that are not.
fn none(bytes: &[u8], odd: impl Fn(u8) -> u8) -> bool {
    // No early exit and no branch, and a place of its own for each byte of a block, so that the loop vectorises.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut found = [0; 32];
    for block in blocks {
        for (found, byte) in found.iter_mut().zip(block) {
            *found |= odd(*byte);
        }
    }
    found == [0; 32] && rest.iter().all(|it| odd(*it) == 0)
}

/// Whether a byte may not stand in a token: 0 if it may.
fn is_odd(byte: u8) -> u8 {
    let is = |odd| u8::from(byte == odd);
    let hidden = u8::from(byte < b'!') | u8::from(b'~' < byte);
    let quotes = is(b'"') | is(b'\'') | is(b'\\');
    let joins = is(b',') | is(b';') | is(b'=');
    hidden | quotes | joins
}

/// The same with half the work, and not 0 for some that may, none of which is in a JWT.
fn may_be_odd(byte: u8) -> u8 {
    let is = |odd| u8::from(byte == odd);
    // As a signed number, it is below this one also if its highest bit is set.
    let low = u8::from(i8::from_ne_bytes([byte]) < 0x2d);
    low | is(b';') | is(b'=') | is(b'\\') | is(0x7f)
}

/// Whether a query carries a token (RFC 6750 §2.3).
pub(crate) fn holds_access_token(query: &str) -> bool {
    query.split(['&', ';', '#']).any(|it| is_access_token(it.split('=').next().unwrap_or_default()))
}

/// Whether a query parameter of this name would carry a token (RFC 6750 §2.3), in any spelling that
/// an upstream may accept:
///
/// - percent-encoded, possibly twice, since a proxy may decode as well, or as `%uXXXX` (ASP.NET);
/// - in any case (ASP.NET);
/// - with a space, a `.` or an open `[` for the `_`, with leading spaces, or cut at a NUL (PHP);
/// - as the name of a list or a map, `access_token[]` or `[access_token]` (PHP, Rack, Express).
pub fn is_access_token(name: &str) -> bool {
    percent::may_name(name, "access_token")
}

impl Scheme {
    /// The name. Schemes are case-insensitive (RFC 9110 §11.1).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
            Self::MtlsPop => "MTLS_POP",
        }
    }

    /// The scheme with this name, in any case.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Bearer, Self::Dpop, Self::MtlsPop]
            .into_iter()
            .find(|it| name.eq_ignore_ascii_case(it.name().as_bytes()))
    }
}

impl SenderConstraint {
    /// Whether a client that sends tokens with this scheme is told to go on with it.
    pub const fn accepts(self, scheme: Scheme) -> bool {
        match self {
            Self::Certificate => matches!(scheme, Scheme::Bearer | Scheme::MtlsPop),
            Self::Dpop => matches!(scheme, Scheme::Dpop),
            Self::Either | Self::IfBound => true,
            Self::None => matches!(scheme, Scheme::Bearer),
        }
    }
}

impl<'a> Token<'a> {
    /// The characters, all of them ASCII.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether the token has the form of a signed JWT: three parts in base64url. Any other token is
    /// opaque.
    pub fn looks_like_jwt(self) -> bool {
        let allowed = |it: &u8| it.is_ascii_alphanumeric() | matches!(it, b'-' | b'_' | b'.');
        memchr_iter(b'.', self.0).count() == 2
            && self.0.iter().fold(true, |all, it| all & allowed(it))
    }
}

impl<'a> Proof<'a> {
    /// The bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Proof<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Target;

    #[track_caller]
    fn check(authorization: Field<'_>, expected: Result<(Scheme, &str), Denial>) {
        let request = Request { authorization, ..Request::default() };
        let found = Credentials::read(&request).map(|it| (it.scheme, it.token.as_bytes()));
        assert_eq!(found, expected.map(|(scheme, token)| (scheme, token.as_bytes())));
    }

    #[test]
    fn what_looks_harmless_at_a_glance_is() {
        for byte in 0..=u8::MAX {
            assert!(is_odd(byte) == 0 || may_be_odd(byte) != 0, "{byte}");
            let in_a_jwt = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            assert!(!in_a_jwt || may_be_odd(byte) == 0, "{byte}");
        }
    }

    #[test]
    fn reads_one_token_and_its_scheme() {
        check(Field::One(b"Bearer a.b.c"), Ok((Scheme::Bearer, "a.b.c")));
        check(Field::One(b"DPoP a.b.c"), Ok((Scheme::Dpop, "a.b.c")));
        check(Field::One(b"bEARER a"), Ok((Scheme::Bearer, "a")));
        check(Field::One(b"dpop   a"), Ok((Scheme::Dpop, "a")));
        check(Field::One(b"MTLS_POP a.b.c"), Ok((Scheme::MtlsPop, "a.b.c")));
        check(Field::One(b"mtls_pop a"), Ok((Scheme::MtlsPop, "a")));
        check(Field::One(b"Bearer -._~+/09=="), Ok((Scheme::Bearer, "-._~+/09==")));
    }

    #[test]
    fn says_what_is_wrong_with_others() {
        check(Field::Absent, Err(Denial::CredentialsMissing));
        check(Field::One(b""), Err(Denial::CredentialsMissing));
        check(Field::One(b"  "), Err(Denial::CredentialsMissing));
        check(Field::Many, Err(Denial::CredentialsAmbiguous));
        check(Field::One(b"Bearer a,DPoP b"), Err(Denial::CredentialsAmbiguous));
        check(Field::One(b"Basic dXNlcg=="), Err(Denial::SchemeUnsupported));
        check(Field::One(b"Bearerer a"), Err(Denial::SchemeUnsupported));
        check(Field::One(b"a.b.c"), Err(Denial::SchemeUnsupported));
        for odd in [
            &b"Bearer"[..],
            b"Bearer =",
            b"Bearer a=b",
            b"Bearer a b",
            b"Bearer \ta",
            b"Bearer a\xffb",
            b"Bearer a\0",
            b"Bearer \xc2\xa0a",
            b"Bearer \"a\"",
        ] {
            check(Field::One(odd), Err(Denial::TokenMalformed));
        }
    }

    #[test]
    fn a_token_of_no_grammar_means_the_same_to_every_reader_of_the_header() {
        const ALLOWED: &[u8] = b"!#$%&()*+-./:<>?@[]^_`{|}~";
        for byte in 0..=u8::MAX {
            let authorization = [b"Bearer a", &[byte][..], b"a!"].concat();
            let authorization = Field::One(&authorization);
            let request = Request { authorization, ..Request::default() };
            let found = Credentials::read(&request).map(drop);
            let expected = match byte {
                b',' => Err(Denial::CredentialsAmbiguous),
                it if it.is_ascii_alphanumeric() || ALLOWED.contains(&it) => Ok(()),
                _ => Err(Denial::TokenMalformed),
            };
            assert_eq!(found, expected, "{byte:#x}");
        }
        for (token, expected) in [
            (&b"00D5g0!AQEAQ.zX_1"[..], Ok((Scheme::Bearer, "00D5g0!AQEAQ.zX_1"))),
            (b"!==", Ok((Scheme::Bearer, "!=="))),
            (b"!", Ok((Scheme::Bearer, "!"))),
            (b"a!,DPoP b", Err(Denial::CredentialsAmbiguous)),
            (b"a! Bearer b", Err(Denial::TokenMalformed)),
            (b"a!;token=b", Err(Denial::TokenMalformed)),
            (b"token=!", Err(Denial::TokenMalformed)),
        ] {
            check(Field::One(&[b"Bearer ", token].concat()), expected);
        }
        let target = Target { path: "/a?access_token=t", ..Target::default() };
        let authorization = Field::One(&b"Bearer a!"[..]);
        let request = Request { target, authorization, ..Request::default() };
        assert_eq!(Credentials::read(&request).err(), Some(Denial::CredentialsAmbiguous));
    }

    #[test]
    fn no_part_of_a_token_is_left_unread() {
        for length in 1..=100 {
            let token = vec![b'a'; length];
            let found = |token: &[u8]| {
                let authorization = [b"Bearer ", token].concat();
                let authorization = Field::One(&authorization);
                Credentials::read(&Request { authorization, ..Request::default() }).map(drop)
            };
            assert_eq!(found(&token), Ok(()), "{length}");
            for place in 0..length {
                for odd in [b'"', b'\\', b';', 0x1f, 0x7f, 0x80, 0xff] {
                    let mut token = token.clone();
                    token[place] = odd;
                    assert_eq!(
                        found(&token),
                        Err(Denial::TokenMalformed),
                        "{odd} at {place} of {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn three_parts_in_base64url_look_like_a_jwt() {
        for (token, expected) in [
            ("a.b.c", true),
            ("a..", true),
            ("-_.09.Az", true),
            ("a.b", false),
            ("a.b.c.d", false),
            ("a!.b.c", false),
            ("a.b/.c", false),
            ("a.b.c=", false),
        ] {
            assert_eq!(Token(token.as_bytes()).looks_like_jwt(), expected, "{token}");
        }
    }

    #[test]
    fn two_proofs_are_ambiguous() {
        let with = |proof| {
            let authorization = Field::One(&b"DPoP a"[..]);
            let request = Request { authorization, proof, ..Request::default() };
            Credentials::read(&request).map(|it| it.proof.map(Proof::as_bytes))
        };
        assert_eq!(with(Field::Absent), Ok(None));
        assert_eq!(with(Field::One(b"p")), Ok(Some(&b"p"[..])));
        assert_eq!(with(Field::One(b"p,q")), Err(Denial::CredentialsAmbiguous));
        assert_eq!(with(Field::Many), Err(Denial::CredentialsAmbiguous));
    }

    #[test]
    fn a_second_token_in_the_query_is_ambiguous() {
        let with = |path| {
            let target = Target { path, ..Target::default() };
            let authorization = Field::One(&b"Bearer a"[..]);
            Credentials::read(&Request { target, authorization, ..Request::default() }).err()
        };
        assert_eq!(with("/a?x=access_token"), None);
        assert_eq!(with("/access_token=1"), None);
        assert_eq!(with("/a?my_access_token=1"), None);
        assert_eq!(with("/a?x=1&access_token=t"), Some(Denial::CredentialsAmbiguous));
        for path in ["/a?access_token", "/a?x;access_token=t", "/a?&access_token="] {
            assert_eq!(with(path), Some(Denial::CredentialsAmbiguous), "{path}");
        }
    }

    #[test]
    fn the_name_of_a_token_in_the_query_is_known_in_every_spelling_of_an_upstream() {
        for name in [
            "access_token",
            "access%5ftoken",
            "%61ccess_token",
            "access%255ftoken",
            "access%25%35ftoken",
            "access%u005ftoken",
            "%U0061ccess_token",
            "ACCESS_TOKEN",
            "Access_Token",
            "%41ccess_token",
            "acce%C5%BFs_token",
            "access_to%E2%84%AAen",
            "access.token",
            "access%2Etoken",
            "access%20token",
            "access+token",
            "access%2Btoken",
            "access[token",
            "access%5Btoken",
            "+access_token",
            "%20%20access_token",
            "access_token%00x",
            "access_token[]",
            "access_token%5b%5d",
            "access_token[0]",
            "access_token[a][b]",
            "access_token[",
            "[access_token]",
            "access.token[]",
        ] {
            assert!(is_access_token(name), "{name}");
        }
        for name in [
            "",
            "access",
            "token",
            "accesstoken",
            "accessToken",
            "access-token",
            "access__token",
            "my_access_token",
            "my.access.token",
            "x[access_token]",
            "access_token_type",
            "access_tokens",
            "access%5token",
            "access%u00token",
            "access%25255ftoken",
            "access_token%",
            "a%00access_token",
            "refresh_token",
            "authorization_details",
        ] {
            assert!(!is_access_token(name), "{name}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let authorization = Field::One(&b"DPoP secret"[..]);
        let proof = Field::One(&b"secret"[..]);
        let request = Request { authorization, proof, ..Request::default() };
        assert!(!format!("{:?}", Credentials::read(&request)).contains("secret"));
        assert!(!format!("{request:?}").contains("115"), "the bytes of the header");
    }
}
