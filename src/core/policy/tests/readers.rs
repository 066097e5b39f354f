//! Small models of servers and proxies, each written after the real one and independently of the
//! code under test.

/// The key by which a server finds its handler: the segments of a path, and whether case matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Served {
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) any_case: bool,
}

pub(super) type Reader = (&'static str, fn(&[u8]) -> Option<Served>);
pub(super) type Proxy = (&'static str, fn(&[u8]) -> Option<Vec<u8>>);

pub(super) const SERVERS: &[Reader] = &[
    ("as it is written", |it| served(exact_segments(it))),
    ("servlet container", |it| served(split(&servlet(it, false)?))),
    ("servlet container that decodes all", |it| served(split(&servlet(it, true)?))),
    ("Spring's path patterns", |it| served(without_parameters(it))),
    ("Express", |it| folded(exact_segments(it))),
    ("ASP.NET Core", |it| folded(kestrel(it))),
    ("IIS", |it| folded(iis(it))),
    ("Rails", |it| served(rails(it))),
    ("PHP", |it| served(split(&decoded(it)))),
    ("Laravel", |it| served(split(&[b"/", trim_slashes(&decoded(it))].concat()))),
    ("Go", |it| served(split(&go_clean(&decoded(it))))),
    ("C", |it| served(split(until(&decoded(it), 0)))),
    ("URL parser", |it| served(exact_segments(&whatwg(it)))),
    ("URL parser that leaves dots", |it| served(exact_segments(&without_host(it)))),
    ("last line break", |it| served(split(without_newline(&decoded(it))))),
    ("old decoder", |it| served(resolved(split(&slashes_merged(&backslashes_turned(&old(it))))))),
];

/// Servers with one normalisation each. In a chain, several apply.
pub(super) const PARTS: &[Reader] = &[
    ("parameters cut, once decoded", |it| served(cut(&exact_segments(it)))),
    ("backslashes turned", |it| served(split(&backslashes_turned(it)))),
    ("encoded backslashes turned", |it| served(split(&backslashes_turned(&decoded(it))))),
    ("dots resolved", |it| served(kestrel(it))),
    ("blanks stripped, and dots resolved", |it| served(resolved(stripped(&decoded(it))))),
    ("names of files of Windows", |it| served(windows(&exact_segments(it)))),
    ("old decoding", |it| served(split(&old(it)))),
    ("old decoding, and dots resolved", |it| served(resolved(split(&old(it))))),
    ("old decoding of segments", |it| served(split(it).iter().map(|it| old(it)).collect())),
    ("ends at #", |it| served(exact_segments(until(it, b'#')))),
    ("control characters dropped", |it| served(exact_segments(&without_controls(it)))),
];

pub(super) const PROXIES: &[Proxy] = &[
    ("none", |it| Some(it.to_vec())),
    ("Envoy", |it| Some(joined(&envoy_segments(it)))),
    ("Envoy that merges", |it| Some(slashes_merged(&joined(&envoy_segments(it))))),
    ("nginx", |it| Some(reencoded(&nginx(it)?))),
    ("nginx with $uri", |it| Some(until(&nginx(it)?, b'?').to_vec())),
    ("one that decodes", |it| Some(until(&decoded(it), b'?').to_vec())),
    ("one that decodes as of old", |it| Some(until(&old(it), b'?').to_vec())),
    ("IIS", |it| Some(reencoded(&joined(&iis_resolved(it))))),
];

#[expect(clippy::unnecessary_wraps, reason = "as a reader returns it")]
fn served(segments: Vec<Vec<u8>>) -> Option<Served> {
    Some(Served { segments, any_case: false })
}

#[expect(clippy::unnecessary_wraps, reason = "as a reader returns it")]
fn folded(segments: Vec<Vec<u8>>) -> Option<Served> {
    Some(Served { segments, any_case: true })
}

/// The path that a server would forward if it were a proxy.
pub(super) fn handed_on(served: &Served) -> Vec<u8> {
    let mut path = vec![];
    for segment in &served.segments {
        path.push(b'/');
        for octet in segment {
            match octet {
                b'%' | b'/' | b'?' | b'#' => path.extend(format!("%{octet:02X}").bytes()),
                other => path.push(*other),
            }
        }
    }
    path
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|it| *it == b'/').skip(1).map(<[u8]>::to_vec).collect()
}

fn joined(segments: &[Vec<u8>]) -> Vec<u8> {
    segments.iter().flat_map(|it| [b"/".to_vec(), it.clone()].concat()).collect()
}

fn until(path: &[u8], end: u8) -> &[u8] {
    path.split(|it| *it == end).next().unwrap()
}

fn hex(digits: Option<&[u8]>) -> Option<u32> {
    let digits = digits.filter(|it| it.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).ok()
}

fn decoded(path: &[u8]) -> Vec<u8> {
    percent_decoded(path, false)
}

fn old(path: &[u8]) -> Vec<u8> {
    percent_decoded(path, true)
}

/// Decodes each `%xx`; with `old`, also `%uxxxx` and overlong UTF-8 of ASCII characters.
fn percent_decoded(path: &[u8], old: bool) -> Vec<u8> {
    let mut octets = vec![];
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        let code = |digits: std::ops::Range<usize>| {
            hex(rest.get(digits)).and_then(|it| u8::try_from(it).ok())
        };
        let of_unicode = old && matches!(rest, [b'%', b'u' | b'U', ..]);
        let old_code = if of_unicode { code(2..6).filter(u8::is_ascii) } else { None };
        (octets, rest) = match (first, old_code, code(1..3)) {
            (b'%', Some(octet), _) => ([&octets[..], &[octet]].concat(), &rest[6..]),
            (b'%', None, Some(octet)) => ([&octets[..], &[octet]].concat(), &rest[3..]),
            _ => ([&octets[..], &[*first]].concat(), behind),
        };
    }
    if !old {
        return octets;
    }
    let mut found = vec![];
    let mut rest = &octets[..];
    while let [first, behind @ ..] = rest {
        match (first, behind) {
            (0xc0 | 0xc1, [next @ 0x80..=0xbf, more @ ..]) => {
                found.push((first & 1) << 6 | next & 0x3f);
                rest = more;
            }
            (0xe0, [high @ 0x80..=0x81, low @ 0x80..=0xbf, more @ ..]) => {
                found.push((high & 1) << 6 | low & 0x3f);
                rest = more;
            }
            _ => {
                found.push(*first);
                rest = behind;
            }
        }
    }
    found
}

/// Split first, and then decoded.
fn exact_segments(path: &[u8]) -> Vec<Vec<u8>> {
    split(path).iter().map(|it| decoded(it)).collect()
}

fn without_parameters(path: &[u8]) -> Vec<Vec<u8>> {
    split(path).iter().map(|it| decoded(until(it, b';'))).collect()
}

fn cut(segments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    segments.iter().map(|it| until(it, b';').to_vec()).collect()
}

fn without_controls(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|it| !it.is_ascii_control()).collect()
}

/// As `CoyoteAdapter` does it: parameters, decoding, and then `normalize`.
fn servlet(path: &[u8], decodes_all: bool) -> Option<Vec<u8>> {
    let mut plain = vec![];
    let mut skips = false;
    for octet in path {
        skips = match octet {
            b';' => true,
            b'/' => false,
            _ => skips,
        };
        if !skips {
            plain.push(*octet);
        }
    }
    let lower = plain.to_ascii_lowercase();
    let holds = |it: &[u8]| lower.windows(it.len()).any(|window| window == it);
    if !decodes_all && (holds(b"%2f") || holds(b"%5c") || holds(b"\\") || holds(b"%00")) {
        return None;
    }
    let decoded = decoded(&plain);
    let turned = if decodes_all { backslashes_turned(&decoded) } else { decoded };
    Some(dots_removed(&slashes_merged(&turned)))
}

fn backslashes_turned(path: &[u8]) -> Vec<u8> {
    path.iter().map(|it| if *it == b'\\' { b'/' } else { *it }).collect()
}

fn slashes_merged(path: &[u8]) -> Vec<u8> {
    let mut found: Vec<u8> = vec![];
    for octet in path {
        if *octet != b'/' || found.last() != Some(&b'/') {
            found.push(*octet);
        }
    }
    found
}

fn dots_removed(path: &[u8]) -> Vec<u8> {
    joined(&resolved(split(path)))
}

fn resolved(segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = vec![];
    for segment in segments {
        match segment.as_slice() {
            b"." => (),
            b".." => drop(found.pop()),
            _ => found.push(segment),
        }
    }
    found
}

/// Kestrel leaves `%2F`, and removes dot segments.
fn kestrel(path: &[u8]) -> Vec<Vec<u8>> {
    resolved(exact_segments(path))
}

fn iis_resolved(path: &[u8]) -> Vec<Vec<u8>> {
    let turned = backslashes_turned(&decoded(path));
    resolved(split(&slashes_merged(&turned)))
}

fn iis(path: &[u8]) -> Vec<Vec<u8>> {
    windows(&iis_resolved(path))
}

/// File names on Windows do not end with a dot or a space.
fn windows(segments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let trim = |it: &Vec<u8>| {
        let kept =
            it.iter().rposition(|it| !b". ".contains(it)).map_or(0, |it| it.saturating_add(1));
        if [&b"."[..], b".."].contains(&&**it) { it.clone() } else { it[..kept].to_vec() }
    };
    segments.iter().map(trim).collect()
}

/// `Journey::Router::Utils.normalize_path`, then each segment unescaped.
fn rails(path: &[u8]) -> Vec<Vec<u8>> {
    exact_segments(&slashes_merged(path))
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let begin = path.iter().position(|it| *it != b'/').unwrap_or(path.len());
    &path[begin..]
}

/// `path.Clean`.
fn go_clean(path: &[u8]) -> Vec<u8> {
    dots_removed(&slashes_merged(path))
}

fn without_newline(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"\n").unwrap_or(path)
}

fn stripped(path: &[u8]) -> Vec<Vec<u8>> {
    split(path).iter().map(|it| it.trim_ascii_end().to_vec()).collect()
}

fn is_dot(segment: &[u8]) -> bool {
    decoded(segment) == b"."
}

fn is_double_dot(segment: &[u8]) -> bool {
    decoded(segment) == b".."
}

/// Backslashes turned, dots resolved, escapes left as they are.
fn envoy_segments(path: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = vec![];
    for segment in split(&backslashes_turned(path)) {
        if is_double_dot(&segment) {
            found.pop();
        } else if !is_dot(&segment) {
            found.push(segment);
        }
    }
    found
}

/// `new URL(path, base).pathname`.
fn whatwg(path: &[u8]) -> Vec<u8> {
    let kept: Vec<u8> = path.iter().copied().filter(|it| !b"\t\n\r".contains(it)).collect();
    joined(&envoy_segments(&behind_slashes(&backslashes_turned(until(&kept, b'#')))))
}

/// Behind two slashes and any number of more there is a host.
fn behind_slashes(path: &[u8]) -> Vec<u8> {
    let mut path = path;
    while path.starts_with(b"///") {
        path = &path[1..];
    }
    without_host(path)
}

/// `//host/path` is a reference to another host.
fn without_host(path: &[u8]) -> Vec<u8> {
    let Some(behind) = path.strip_prefix(b"//") else { return path.to_vec() };
    let end = behind.iter().position(|it| *it == b'/').unwrap_or(behind.len());
    behind[end..].to_vec()
}

/// Decoded with `%2f`, merged, resolved; 400 for NUL, or for what leaves the root.
fn nginx(path: &[u8]) -> Option<Vec<u8>> {
    let decoded = decoded(until(path, b'#'));
    if decoded.contains(&0) {
        return None;
    }
    Some(dots_removed(&slashes_merged(&decoded)))
}

fn reencoded(path: &[u8]) -> Vec<u8> {
    let mut found = vec![];
    for octet in path {
        match octet {
            b'%' | b'?' | b'#' | b' ' | 0..=0x1f | 0x7f.. => {
                found.extend(format!("%{octet:02X}").bytes());
            }
            other => found.push(*other),
        }
    }
    found
}
