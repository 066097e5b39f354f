//! Comparison of request targets: the `htu` of a proof and the URI of the request (RFC 9449 §4.3,
//! check 9), normalised by RFC 3986 §6.2.2 and §6.2.3 and then compared exactly.
//!
//! Nothing is repaired. URI libraries made for browsers remove tabs, turn backslashes into slashes
//! and add missing parts; two texts that they consider equal may be read differently upstream.

use crate::percent;
use std::fmt::Write;
use std::net::Ipv6Addr;

/// The text is not an absolute `http` or `https` URI, or a part of it is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHttpUri;

/// Scheme, host and port, normalised: in lower case, without the default port.
///
/// A trailing dot of the host is significant: RFC 3986 does not normalise it, and a client that
/// sends it can sign it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Parses an origin from the configuration: `https://api.example.com`, with an optional final
    /// slash.
    pub fn parse(text: &str) -> Result<Self, NotHttpUri> {
        match split(text)? {
            (scheme, authority, "" | "/") => Self::new(scheme, authority),
            _ => Err(NotHttpUri),
        }
    }

    /// An origin from the scheme of a request and its `Host` or `:authority`.
    pub fn new(scheme: &str, authority: &str) -> Result<Self, NotHttpUri> {
        let (mut text, own_port) = match scheme {
            it if it.eq_ignore_ascii_case("https") => ("https://".to_owned(), 443),
            it if it.eq_ignore_ascii_case("http") => ("http://".to_owned(), 80),
            _ => return Err(NotHttpUri),
        };
        let port = push_host(&mut text, authority)?;
        if let Some(port) = port.filter(|it| *it != own_port) {
            write!(text, ":{port}").or(Err(NotHttpUri))?;
        }
        Ok(Self(text))
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An absolute `http` or `https` URI without query and fragment, normalised.
///
/// Two of them are equal if they name the same target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUri(String);

impl HttpUri {
    /// Parses an `htu`. Its query and fragment are ignored.
    pub fn parse(text: &str) -> Result<Self, NotHttpUri> {
        let (scheme, authority, path) = split(text)?;
        Self::new(&Origin::new(scheme, authority)?, path)
    }

    /// A URI from an origin and the path of a request, without its query.
    ///
    /// The path is not a URI reference: `//host/x` is a path with an empty segment. Empty segments
    /// are kept, since a server may distinguish `//` from `/`.
    pub fn new(origin: &Origin, path: &str) -> Result<Self, NotHttpUri> {
        let path = path.find(['?', '#']).and_then(|end| path.get(..end)).unwrap_or(path);
        let mut text = String::with_capacity(origin.0.len().saturating_add(path.len()));
        text.push_str(&origin.0);
        push_path(&mut text, if path.is_empty() { "/" } else { path })?;
        Ok(Self(text))
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits off scheme and authority.
fn split(text: &str) -> Result<(&str, &str, &str), NotHttpUri> {
    let (scheme, rest) = text.split_once("://").ok_or(NotHttpUri)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(NotHttpUri)?;
    Ok((scheme, authority, path))
}

/// Appends the host, and returns the port if there is one.
fn push_host(text: &mut String, authority: &str) -> Result<Option<u16>, NotHttpUri> {
    let port = if let Some(literal) = authority.strip_prefix('[') {
        let (address, port) = literal.split_once(']').ok_or(NotHttpUri)?;
        // The canonical form: an address can be written in many ways.
        let address: Ipv6Addr = address.parse().or(Err(NotHttpUri))?;
        write!(text, "[{address}]").or(Err(NotHttpUri))?;
        match port {
            "" => "",
            port => port.strip_prefix(':').ok_or(NotHttpUri)?,
        }
    } else {
        let (name, port) = authority.split_once(':').unwrap_or((authority, ""));
        // Stricter than RFC 3986 §3.2.2, which also allows names like `a,b` and `a%2eb`. A comma
        // results from two `Host` headers, and an `@` turns the host into a password.
        let is_part = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b'_');
        if name.is_empty() || !name.bytes().all(is_part) {
            return Err(NotHttpUri);
        }
        text.extend(name.chars().map(|it| it.to_ascii_lowercase()));
        port
    };
    match port {
        "" => Ok(None),
        digits if digits.bytes().all(|it| it.is_ascii_digit()) => {
            digits.parse().map(Some).or(Err(NotHttpUri))
        }
        _ => Err(NotHttpUri),
    }
}

/// Appends an absolute path, without its dot segments (RFC 3986 §5.2.4).
///
/// They are removed after decoding, since `%2e` is a dot. `%2F` is not a slash.
fn push_path(text: &mut String, path: &str) -> Result<(), NotHttpUri> {
    let root = text.len();
    let mut segments = path.strip_prefix('/').ok_or(NotHttpUri)?.split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = text.len();
        text.push('/');
        push_segment(text, segment)?;
        let up = match text.get(start..) {
            Some("/.") => start,
            Some("/..") => {
                let above = text.get(root..start).and_then(|it| it.rfind('/')).unwrap_or(0);
                root.saturating_add(above)
            }
            _ => continue,
        };
        text.truncate(up);
        // A final dot segment leaves a folder.
        if segments.peek().is_none() {
            text.push('/');
        }
    }
    Ok(())
}

/// Appends a segment: decodes the triplets of unreserved characters, and writes the others in upper
/// case.
///
/// Characters that RFC 3986 does not allow (`|`, `{`) are kept, since clients send them and servers
/// agree about them. They do not agree about a backslash.
fn push_segment(text: &mut String, segment: &str) -> Result<(), NotHttpUri> {
    let mut rest = segment.as_bytes();
    while let [octet, behind @ ..] = rest {
        rest = behind;
        match octet {
            b'%' => {
                let (octet, behind) = percent::triplet(rest).ok_or(NotHttpUri)?;
                rest = behind;
                if is_unreserved(octet) {
                    text.push(char::from(octet));
                } else {
                    write!(text, "%{octet:02X}").or(Err(NotHttpUri))?;
                }
            }
            b'\\' => return Err(NotHttpUri),
            octet if octet.is_ascii_graphic() => text.push(char::from(*octet)),
            _ => return Err(NotHttpUri),
        }
    }
    Ok(())
}

/// RFC 3986 §2.3.
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn normalises(text: &str, normal: &str) {
        let found = HttpUri::parse(text);
        assert_eq!(found.as_ref().map(HttpUri::as_str), Ok(normal), "{text}");
    }

    #[track_caller]
    fn differ(one: &str, other: &str) {
        assert_ne!(HttpUri::parse(one).unwrap(), HttpUri::parse(other).unwrap(), "{one} {other}");
    }

    #[track_caller]
    fn is_refused(text: &str) {
        assert_eq!(HttpUri::parse(text), Err(NotHttpUri), "{text:?}");
    }

    /// The URI of a request.
    fn request(scheme: &str, authority: &str, path: &str) -> Result<String, NotHttpUri> {
        Ok(HttpUri::new(&Origin::new(scheme, authority)?, path)?.as_str().to_owned())
    }

    #[test]
    fn what_is_normal_stays_as_it_is() {
        for text in [
            "https://server.example.com/token",
            "https://resource.example.org/protectedresource",
            "http://a/",
            "https://a:8443/",
            "https://a:80/",
            "http://a:443/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[2001:db8::1]:8443/x",
            "https://a/b/c/%7Bfoo%7D",
            "https://a/%2F%3F%23%25%20%00%FF",
            "https://a/b;c=d,e@f:g!$&'()*+",
            "https://a//b///",
            "https://a/...",
            "https://a/.b/..c",
            "https://xn--bcher-kva.example/",
            "https://a_b.example/",
            "https://a./",
        ] {
            normalises(text, text);
        }
    }

    #[test]
    fn case_counts_where_it_does_in_a_uri() {
        normalises("HTTPS://API.Example.COM/a", "https://api.example.com/a");
        normalises("https://[2001:DB8::A]/", "https://[2001:db8::a]/");
        differ("https://a/B", "https://a/b");
    }

    #[test]
    fn the_port_of_the_scheme_is_no_port() {
        normalises("https://api.example.com:443/a", "https://api.example.com/a");
        normalises("http://api.example.com:80/a", "http://api.example.com/a");
        normalises("https://api.example.com:/a", "https://api.example.com/a");
        normalises("https://api.example.com:0443/a", "https://api.example.com/a");
        normalises("https://[::1]:443/a", "https://[::1]/a");
        normalises("https://[::1]:/a", "https://[::1]/a");
        normalises("https://a:65535/", "https://a:65535/");
        normalises("https://a:0/", "https://a:0/");
        differ("https://a/", "https://a:80/");
        differ("https://a/", "https://a:8443/");
        differ("http://a/", "https://a/");
        differ("http://a:443/", "https://a:443/");
    }

    #[test]
    fn no_path_is_the_root() {
        normalises("https://a", "https://a/");
        normalises("https://a?b", "https://a/");
        normalises("https://a#b", "https://a/");
        normalises("https://a:443", "https://a/");
    }

    #[test]
    fn query_and_fragment_do_not_count() {
        for behind in ["?", "?x=1", "?x#y", "#", "#y", "#y?x", "?/../b", "#/../b", "??", "?\\ \t"] {
            normalises(&format!("https://a/b{behind}"), "https://a/b");
            assert_eq!(request("https", "a", &format!("/b{behind}")).as_deref(), Ok("https://a/b"));
        }
        differ("https://a/b%3Fx", "https://a/b?x");
        differ("https://a/b%23x", "https://a/b#x");
    }

    #[test]
    fn one_character_has_one_spelling() {
        normalises("https://a/%7euser/%41%2d%2E%5f%30", "https://a/~user/A-._0");
        normalises("https://a/%2f%3a%c3%bc", "https://a/%2F%3A%C3%BC");
        differ("https://a/b%2Fc", "https://a/b/c");
        differ("https://a/b%3Bc", "https://a/b;c");
        differ("https://a/b+c", "https://a/b%20c");
        // Decoded once.
        normalises("https://a/%257e", "https://a/%257e");
        normalises("https://a/%25%37%65", "https://a/%257e");
    }

    #[test]
    fn dot_segments_are_taken_out() {
        // RFC 3986 §5.2.4, §5.4 and §6.2.2.
        for (path, normal) in [
            ("/a/b/c/./../../g", "/a/g"),
            ("/a/./b/../b/%63/%7bfoo%7d", "/a/b/c/%7Bfoo%7D"),
            ("/a/../b", "/b"),
            ("/b/c/.", "/b/c/"),
            ("/b/c/./", "/b/c/"),
            ("/b/c/..", "/b/"),
            ("/b/c/../", "/b/"),
            ("/b/c/../..", "/"),
            ("/b/c/../../../g", "/g"),
            ("/.", "/"),
            ("/..", "/"),
            ("/../", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a%2f../b", "/a%2F../b"),
            ("/a/..;/b", "/a/..;/b"),
        ] {
            normalises(&format!("https://h{path}"), &format!("https://h{normal}"));
            assert_eq!(request("https", "h", path), Ok(format!("https://h{normal}")), "{path}");
        }
    }

    #[test]
    fn empty_segments_stay() {
        normalises("https://a//", "https://a//");
        normalises("https://a//b/../c", "https://a//c");
        normalises("https://a/b//../c", "https://a/b/c");
        normalises("https://a//..", "https://a/");
        differ("https://a/b//c", "https://a/b/c");
        differ("https://a/b/", "https://a/b");
    }

    #[test]
    fn the_path_of_a_request_is_never_a_uri_reference() {
        assert_eq!(request("https", "a", "//evil/x").as_deref(), Ok("https://a//evil/x"));
        assert_eq!(request("https", "a", "///x").as_deref(), Ok("https://a///x"));
        assert_eq!(request("https", "a", "/http://b/x").as_deref(), Ok("https://a/http://b/x"));
        assert_eq!(request("https", "a", "").as_deref(), Ok("https://a/"));
        for odd in ["x", "*", "https://b/x", "../x", "\\x", "a:443"] {
            assert_eq!(request("https", "a", odd), Err(NotHttpUri), "{odd}");
        }
    }

    #[test]
    fn a_request_is_normalised_as_the_proof_is() {
        assert_eq!(
            request("HTTPS", "API.example.com:443", "/%7ea?b").as_deref(),
            Ok("https://api.example.com/~a")
        );
        assert_eq!(request("http", "[0:0::1]:80", "/").as_deref(), Ok("http://[::1]/"));
        for (scheme, authority) in [
            ("", "a"),
            ("ws", "a"),
            ("https:", "a"),
            ("https", ""),
            ("https", ":443"),
            ("https", "a,b"),
            ("https", "user@a"),
            ("https", "a/b"),
            ("https", "a?b"),
            ("https", "a#b"),
        ] {
            assert_eq!(request(scheme, authority, "/"), Err(NotHttpUri), "{scheme} {authority}");
        }
    }

    #[test]
    fn a_trailing_dot_of_the_host_counts() {
        differ("https://api.example.com./a", "https://api.example.com/a");
    }

    #[test]
    fn one_address_has_one_spelling() {
        normalises("https://[0:0:0:0:0:0:0:1]/", "https://[::1]/");
        normalises("https://[2001:0db8:0::0001]/", "https://[2001:db8::1]/");
        differ("https://[::1]/", "https://127.0.0.1/");
        differ("https://127.1/", "https://127.0.0.1/");
    }

    #[test]
    fn what_is_no_absolute_http_uri_is_refused() {
        for text in [
            "",
            "a",
            "/a",
            "//a/b",
            "https",
            "https:",
            "https:/",
            "https://",
            "https:///a",
            "https:a",
            "https:/a/b",
            "https:\\\\a\\b",
            "ftp://a/",
            "wss://a/",
            "httpss://a/",
            "xhttps://a/",
            " https://a/",
            "https ://a/",
            "https://?a",
            "https://#a",
            "https://:443/",
        ] {
            is_refused(text);
        }
    }

    #[test]
    fn odd_hosts_and_ports_are_refused() {
        for authority in [
            "user@a",
            "user:password@a",
            "@a",
            "a@",
            "a b",
            "a\tb",
            "a\\b",
            "a,b",
            "a%2eb",
            "a%",
            "é",
            "a:b",
            "a:-1",
            "a:+1",
            "a: 1",
            "a:1 ",
            "a:65536",
            "a:99999999999",
            "a:1:2",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]443",
            "[::1]:x",
            "[::g]",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[127.0.0.1]",
            "a[::1]",
            "<a>",
            "a|b",
            "*",
        ] {
            is_refused(&format!("https://{authority}/"));
        }
    }

    #[test]
    fn odd_paths_are_refused_on_both_sides() {
        for odd in
            [" ", "\t", "\n", "\r", "\0", "\x7f", "\\", "é", "\u{a0}", "%", "%4", "%zz", "%u0041"]
        {
            for path in [format!("/{odd}"), format!("/a{odd}/b"), format!("/a/../{odd}")] {
                is_refused(&format!("https://a{path}"));
                assert_eq!(request("https", "a", &path), Err(NotHttpUri), "{path:?}");
            }
        }
    }

    #[test]
    fn an_origin_is_nothing_but_an_origin() {
        let parse = |text: &str| Origin::parse(text).map(|it| it.as_str().to_owned());
        for text in ["https://api.example.com", "HTTPS://API.example.com:443/"] {
            assert_eq!(parse(text).as_deref(), Ok("https://api.example.com"), "{text}");
        }
        for odd in
            ["https://a/b", "https://a//", "https://a?", "https://a#", "a", "https://", "//a"]
        {
            assert_eq!(parse(odd), Err(NotHttpUri), "{odd}");
        }
    }

    /// Pseudo-random choices (xorshift64), the same in every run.
    struct Choices(u64);

    impl Choices {
        fn of<'a>(&mut self, from: &[&'a str]) -> &'a str {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let pick = usize::try_from(self.0 >> 33).unwrap();
            from[pick.checked_rem(from.len()).unwrap()]
        }
    }

    #[test]
    fn normalising_twice_is_normalising_once() {
        let mut choices = Choices(0x9e37_79b9_7f4a_7c15);
        let pieces = [
            "/", "/", "/", ".", "..", "a", "B", "%2e", "%2F", "%7E", "%zz", "%c3", "~", "|", "%25",
            "?", "#", "%5c", "\\", ";", "=", "",
        ];
        let mut read = 0;
        for _ in 0..20_000 {
            let mut text = choices.of(&["http", "HTTPS"]).to_owned() + "://";
            text += choices.of(&["a", "A.b", "[::1]", "[0::0:1]", "a.", ""]);
            text += choices.of(&["", ":", ":80", ":443", ":8443", ":x"]);
            text += choices.of(&["/", ""]);
            for _ in 0..12 {
                text += choices.of(&pieces);
            }
            let Ok(once) = HttpUri::parse(&text) else { continue };
            read += 1;
            assert_eq!(HttpUri::parse(once.as_str()).as_ref(), Ok(&once), "{text}");
            let origin = once.as_str().split('/').take(3).collect::<Vec<_>>().join("/");
            let path = once.as_str().strip_prefix(&origin).unwrap();
            assert_eq!(HttpUri::new(&Origin::parse(&origin).unwrap(), path), Ok(once.clone()));
            assert!(!path.split('/').any(|it| it == "." || it == ".."), "{text}");
        }
        assert!(read > 2_000, "{read}");
    }
}
