//! Reserved request headers: those that keybound sets, strips or relies on, and all names that an
//! upstream could confuse with one of them.
//!
//! CGI, and after it WSGI, Rack and PHP, pass `x-auth-subject` to the application as
//! `HTTP_X_AUTH_SUBJECT` (RFC 3875 §4.1.18), and some pass `x_auth_subject`, `X-Auth_Subject` and
//! `x.auth.subject` as the same. So an alias of a name is any other spelling with the same letters
//! and digits and any separators between them.

use super::PolicySet;
use crate::request::{is_separator, reads_as};
use std::sync::Arc;

/// The reserved names of a configuration.
#[derive(Clone, Debug)]
pub struct ReservedHeaders {
    names: Vec<Name>,
    /// Prefixes of the names to strip, in lower case.
    beginnings: Vec<Arc<str>>,
    /// The lengths of all names that have aliases, as bits.
    lengths: u64,
    /// Their first characters, as bits.
    firsts: u32,
    spellings: Vec<String>,
    list: String,
    all_are_listed: bool,
}

#[derive(Clone, Debug)]
struct Name {
    text: Arc<str>,
    /// Whether the configuration treats this exact name.
    is_told: bool,
}

impl ReservedHeaders {
    /// The maximum length of [`Self::list`] in bytes, for the sake of its recipient: Envoy accepts
    /// 60 KiB of headers.
    pub const LIST_BYTES: usize = 32 * 1024;

    /// The names that `policies` set, strip or rely on.
    pub fn of(policies: &PolicySet) -> Self {
        let upstream = &policies.upstream;
        let told = upstream.headers.iter().map(|it| &it.name).chain(&upstream.remove);
        let mut names: Vec<Name> =
            told.map(|it| Name { text: Arc::clone(it), is_told: true }).collect();
        let certificate = policies.client_certificate.header();
        let usual = ["authorization", "dpop", "x-forwarded-client-cert"].into_iter();
        let relied_on = upstream.relied_on.iter().map(|it| &**it);
        for text in usual.chain(certificate).chain(relied_on) {
            if !names.iter().any(|it| *it.text == *text) {
                names.push(Name { text: text.into(), is_told: false });
            }
        }
        Self::new(names, upstream.remove_beginning.clone())
    }

    fn new(mut names: Vec<Name>, beginnings: Vec<Arc<str>>) -> Self {
        let (spellings, all_are_listed) = spellings(&names);
        let list = spellings.join(",");
        let all_are_listed = all_are_listed && list.len() <= Self::LIST_BYTES;
        // Header names are tokens, which need no other treatment. A name without separators has no
        // alias.
        names.retain(|it| !beginnings.is_empty() || it.text.bytes().any(is_separator));
        let lengths = names.iter().fold(0, |all, it| all | length(it.text.as_bytes()));
        let firsts = names.iter().fold(0, |all, it| all | first(it.text.as_bytes()));
        let (lengths, firsts) =
            if beginnings.is_empty() { (lengths, firsts) } else { (u64::MAX, u32::MAX) };
        Self { names, beginnings, lengths, firsts, spellings, list, all_are_listed }
    }

    /// Whether a header of this name, in any case, must be removed although its exact name is not
    /// configured: it is an alias, or has a prefix of `upstream.remove`.
    #[inline]
    pub fn must_go(&self, name: &[u8]) -> bool {
        // Fast path: most headers have another length or first letter than the reserved ones.
        self.lengths & length(name) != 0
            && self.firsts & first(name) != 0
            && self.are_read_into(name)
    }

    fn are_read_into(&self, name: &[u8]) -> bool {
        let mut is_alias = false;
        for own in self.names.iter().filter(|it| reads_as(name, it.text.as_bytes())) {
            if name.eq_ignore_ascii_case(own.text.as_bytes()) {
                return !own.is_told && self.begin(name);
            }
            is_alias = true;
        }
        is_alias || self.begin(name)
    }

    fn begin(&self, name: &[u8]) -> bool {
        self.beginnings.iter().map(|it| it.as_bytes()).any(|beginning| {
            name.split_at_checked(beginning.len()).is_some_and(|(it, _)| reads_as(it, beginning))
        })
    }

    /// The usual aliases, to remove from requests whose headers were not read: with `_` and `.`,
    /// which upstreams are known to treat as `-`. In lower case.
    pub fn spellings(&self) -> &[String] {
        &self.spellings
    }

    /// [`Self::spellings`], separated by commas.
    pub fn list(&self) -> &str {
        &self.list
    }

    /// Whether [`Self::spellings`] is complete, and [`Self::list`] within its limit.
    pub const fn are_all_listed(&self) -> bool {
        self.all_are_listed
    }
}

/// The length of a name as a bit. Very long names share one.
fn length(name: &[u8]) -> u64 {
    u32::try_from(name.len()).map_or(1 << 63, |it| 1_u64.checked_shl(it).unwrap_or(1 << 63))
}

/// The first character of a name as a bit, ignoring case. A separator sets all bits, since any
/// other may replace it.
fn first(name: &[u8]) -> u32 {
    match name.first() {
        Some(first) if is_separator(*first) => u32::MAX,
        Some(first) => 1 << (first & 0x1f),
        None => 0,
    }
}

/// The spellings of `names` with the usual separators, and whether they are complete: for a name
/// with very many separators, only those with one kind of them.
fn spellings(names: &[Name]) -> (Vec<String>, bool) {
    const SEPARATORS: [char; 3] = ['-', '_', '.'];
    /// 3^6 spellings of one name are enough.
    const MOST: usize = 6;
    let (mut found, mut whole) = (vec![], true);
    for Name { text, .. } in names {
        let pieces: Vec<&str> = text.split(|it: char| !it.is_ascii_alphanumeric()).collect();
        if pieces.len() <= MOST.saturating_add(1) {
            let mut spelled = vec![String::new()];
            for (index, piece) in pieces.iter().enumerate() {
                let between: &[char] = if index == 0 { &[] } else { &SEPARATORS };
                let longer = |it: String| match between {
                    [] => vec![it + piece],
                    _ => {
                        between.iter().map(|separator| format!("{it}{separator}{piece}")).collect()
                    }
                };
                spelled = spelled.into_iter().flat_map(longer).collect();
            }
            found.extend(spelled);
        } else {
            whole = false;
            found.extend(SEPARATORS.map(|it| pieces.join(it.encode_utf8(&mut [0; 4]))));
        }
    }
    found.retain(|it| !names.iter().any(|name| *name.text == **it));
    found.sort_unstable();
    found.dedup();
    (found, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(told: &[&str], relied_on: &[&str], beginnings: &[&str]) -> ReservedHeaders {
        let name = |it: &&str, is_told| Name { text: (*it).into(), is_told };
        let told = told.iter().map(|it| name(it, true));
        let names = told.chain(relied_on.iter().map(|it| name(it, false))).collect();
        ReservedHeaders::new(names, beginnings.iter().map(|it| (*it).into()).collect())
    }

    #[test]
    fn an_alias_has_the_letters_and_digits_and_is_not_spelled_so() {
        let it = reserved(&["x-auth-client-id", "x-auth-h2"], &["authorization", "dpop"], &[]);
        for alias in [
            "x_auth_client_id",
            "x-auth-client_id",
            "X.Auth.Client.Id",
            "x-auth_client-id",
            "X~AUTH!CLIENT|ID",
            "x auth client id",
            "x\u{0}auth-client-id",
            "X-Auth_H2",
        ] {
            assert!(it.must_go(alias.as_bytes()), "{alias}");
        }
        for other in [
            "x-auth-client-id",
            "X-Auth-Client-ID",
            "x-auth-client-ids",
            "x_auth_client_i",
            "x--auth-client-id",
            "xaauth-client-id",
            "x-auth-client-1d",
            "x-auth-h3",
            "author-ization",
            "authorization",
            "Authorization",
            "DPoP",
            "d-op",
            "",
            "accept",
        ] {
            assert!(!it.must_go(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_name_that_has_another_separator_itself_has_the_dash_for_an_alias() {
        let it = reserved(&["x_user", "x.user"], &[], &[]);
        assert!(it.must_go(b"x-user") && it.must_go(b"x!user"));
        assert!(!it.must_go(b"X_User") && !it.must_go(b"x.user"), "each is told by its own name");
        assert_eq!(it.spellings(), ["x-user"]);
    }

    #[test]
    fn names_of_every_length_have_aliases() {
        for length in [2_usize, 61, 62, 63, 64, 65, 300] {
            let name = format!("x-{}", "a".repeat(length));
            let it = reserved(&[&name], &[], &[]);
            assert!(it.must_go(name.replace('-', "_").as_bytes()), "{length}");
            assert!(!it.must_go(name.as_bytes()));
            assert!(!it.must_go(format!("{name}a").replace('-', "_").as_bytes()));
        }
    }

    #[test]
    fn what_begins_as_is_stripped_goes_in_every_spelling_but_for_what_is_told_by_name() {
        let told = ["x-auth-subject", "x-auth"];
        let it = reserved(&told, &["x-auth-certificate", "dpop"], &["x-auth-", "dp"]);
        for gone in
            ["x-auth-other", "X_AUTH_OTHER", "x-auth-", "x.auth.", "x-auth_subject", "x_auth"]
        {
            assert!(it.must_go(gone.as_bytes()), "{gone}");
        }
        for gone in ["x-auth-certificate", "x_auth_certificate", "dpop", "DP", "x-auth-subject2"] {
            assert!(it.must_go(gone.as_bytes()), "{gone}");
        }
        for kept in ["x-auth-subject", "X-Auth-Subject", "x-auth", "x-aut", "d", "y-auth-other"] {
            assert!(!it.must_go(kept.as_bytes()), "{kept}");
        }
    }

    #[test]
    fn all_usual_spellings_are_listed() {
        let it = reserved(&["x-a"], &["dpop", "a-b-c"], &[]);
        let expected =
            ["a-b.c", "a-b_c", "a.b-c", "a.b.c", "a.b_c", "a_b-c", "a_b.c", "a_b_c", "x.a", "x_a"];
        assert_eq!(it.spellings(), expected);
        assert_eq!(it.list(), expected.join(","));
        assert!(it.spellings().iter().all(|spelling| it.must_go(spelling.as_bytes())));
        assert!(it.are_all_listed());
        assert_eq!(reserved(&["dpop"], &[], &[]).list(), "");
    }

    #[test]
    fn a_list_has_an_end() {
        let of = |separators: usize| "x-".repeat(separators) + "x";
        let (longest, longer) = (of(6), of(7));
        let it = reserved(&[&longest], &[], &[]);
        assert_eq!((it.spellings().len(), it.are_all_listed()), (728, true));
        let it = reserved(&[&longer], &[], &[]);
        assert!(!it.are_all_listed());
        assert_eq!(it.spellings(), ["x.x.x.x.x.x.x.x", "x_x_x_x_x_x_x_x"]);
        let many: Vec<_> = (0..5).map(|it| format!("{longest}{it}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(!reserved(&many, &[], &[]).are_all_listed());
    }
}
