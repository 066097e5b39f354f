//! Random paths, under random policies, for many server models: no server handles a request under a
//! stricter policy than the one that was selected, and a request is refused only if some server
//! would.

use super::readers::{PARTS, PROXIES, SERVERS, Served, handed_on};
use crate::denial::Denial;
use crate::policy::examples::{policies, set_of};
use crate::policy::{Mode, Policy, PolicySet};
use crate::request::{Request, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A reproducible pseudo-random generator (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.draw().checked_rem(u64::try_from(end).unwrap()).unwrap()).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const PLAIN: &[&str] = &["a", "b", "x", "a", "b", "7"];

const ODD: &[&str] = &[
    "A",
    "B",
    "a;p",
    ";",
    ";p=1",
    "a%3bp",
    "..",
    ".",
    "",
    "..;",
    ".;x",
    "%2e%2e",
    ".%2e",
    "..%3b",
    "%252e%252e",
    "a.",
    "b%20",
    "a%0a",
    "a%00",
    "b%00c",
    "%61",
    "%2561",
    "a%2fb",
    "%2fa",
    "..%2fa",
    "a%5cb",
    "a\\b",
    "..\\a",
    "a%23",
    "a#c",
    "a%3fc",
    "%c0%ae%c0%ae",
    "a%c0%afb",
    "%u0061",
    "a%252fb",
    "a%25",
    "a%zz",
    "..%20",
    "a.;p",
    "B;p",
    "B.",
    "%2e",
    "\\a",
    "c.json",
    "%e0%80%afa",
];

fn path(dice: &mut Dice) -> String {
    let mut path = String::new();
    for _ in 0..=dice.below(5) {
        let odd = dice.below(3) == 0;
        path.push('/');
        path.push_str(dice.one(if odd { ODD } else { PLAIN }));
    }
    path
}

/// Two to four policies, some stricter than others in some respect.
fn some_policies(dice: &mut Dice) -> Vec<Arc<Policy>> {
    const PREFIXES: &[&str] = &["/a", "/b", "/a/b", "/b/a", "/a/a", "/x", "/x/b"];
    const DEMANDS: &[&str] = &["1", "1,2", "2", "1,2,3", "report", "3"];
    let mut rows: Vec<_> = (0..=dice.below(3))
        .map(|place| format!("p{place} * {} * {}", dice.one(PREFIXES), dice.one(DEMANDS)))
        .collect();
    if dice.below(3) != 0 {
        rows.push(format!("rest * * * {}", dice.one(DEMANDS)));
    }
    policies(&rows.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The policy for the path that a server handles.
fn is_for<'a>(policies: &'a [Arc<Policy>], served: &Served) -> Option<&'a Arc<Policy>> {
    let fold = |it: &[u8]| if served.any_case { it.to_ascii_lowercase() } else { it.to_vec() };
    let segments: Vec<_> = served.segments.iter().map(|it| fold(it)).collect();
    policies.iter().find(|it| {
        let prefix: Vec<_> = it.matches.path_prefix.iter().map(|it| fold(it)).collect();
        segments.starts_with(&prefix)
    })
}

/// Whether the handled path falls under a stricter policy than this one.
fn asks_more(policies: &[Arc<Policy>], served: &Served, judged: &Policy) -> bool {
    match is_for(policies, served) {
        Some(other) => !judged.asks_at_least(other),
        // It would be denied.
        None => policies.iter().any(|it| it.mode == Mode::Enforce),
    }
}

fn judge<'a>(set: &'a PolicySet, path: &'a str) -> Result<&'a Arc<Policy>, Denial> {
    let target = Target { method: "GET", scheme: "https", authority: "x", path };
    set.policy(&Request { target, ..Request::default() })
}

/// The paths that the servers handle, each with its server's name, alone or behind a proxy.
fn served(path: &str) -> BTreeMap<Served, String> {
    let mut found = BTreeMap::new();
    for (proxy, hand_on) in PROXIES {
        let Some(handed) = hand_on(path.as_bytes()) else { continue };
        for (server, read) in SERVERS {
            if let Some(served) = read(&handed) {
                found.entry(served).or_insert_with(|| format!("{server} behind {proxy}"));
            }
        }
    }
    found
}

/// The paths that chains of servers handle, the shortest chains first.
struct Rows {
    handed_on: BTreeSet<(Vec<u8>, bool)>,
    served: Vec<BTreeSet<Served>>,
}

impl Rows {
    const LONGEST: usize = 4;

    fn of(path: &str) -> Self {
        let handed = PROXIES.iter().filter_map(|(_, proxy)| proxy(path.as_bytes()));
        Self { handed_on: handed.map(|it| (it, false)).collect(), served: vec![] }
    }

    fn any(&mut self, is_it: impl Fn(&Served) -> bool) -> bool {
        (0..Self::LONGEST).any(|length| {
            if length == self.served.len() {
                self.lengthen();
            }
            self.served[length].iter().any(&is_it)
        })
    }

    fn lengthen(&mut self) {
        let mut found = BTreeSet::new();
        for (path, any_case) in std::mem::take(&mut self.handed_on) {
            for served in SERVERS.iter().chain(PARTS).filter_map(|(_, read)| read(&path)) {
                let any_case = any_case || served.any_case;
                self.handed_on.insert((handed_on(&served), any_case));
                found.insert(Served { any_case, ..served });
            }
        }
        self.served.push(found);
    }
}

#[test]
fn no_server_serves_under_a_policy_that_asks_for_more_and_no_refusal_is_without_one() {
    const PATHS: usize = 2_500;
    const SETS: usize = 20;
    let mut dice = Dice(7);
    let (mut refused, mut passed) = (0, 0);
    for _ in 0..PATHS {
        let path = path(&mut dice);
        let served = served(&path);
        let mut rows = Rows::of(&path);
        for _ in 0..SETS {
            let set = set_of(some_policies(&mut dice));
            let asks_more = |it: &Served, judged| asks_more(&set.policies, it, judged);
            let plain = SERVERS[0].1(path.as_bytes()).unwrap();
            let found = is_for(&set.policies, &plain);
            let told = || format!("{path} under {}", told(&set.policies));
            match (judge(&set, &path), found) {
                (Err(Denial::PolicyUnknown), None) => (),
                (Ok(judged), Some(found)) => {
                    passed += 1;
                    assert_eq!(judged.name, found.name, "{}", told());
                    let stricter = served.iter().find(|(it, _)| asks_more(it, judged));
                    assert!(stricter.is_none(), "{}: {stricter:?}", told());
                }
                (Err(Denial::RequestMalformed), Some(found)) => {
                    refused += 1;
                    assert!(rows.any(|it| asks_more(it, found)), "{}", told());
                }
                (judged, found) => panic!("{}: {judged:?} {found:?}", told()),
            }
        }
    }
    // Both outcomes occur.
    assert!(2_000 < refused && 10_000 < passed, "{refused} refused, {passed} passed");
}

fn told(policies: &[Arc<Policy>]) -> String {
    let prefix = |it: &Policy| String::from_utf8(it.matches.path_prefix.join(&b'/')).unwrap();
    let each = policies.iter().map(|it| format!("/{} {:?}", prefix(it), it.scopes));
    each.collect::<Vec<_>>().join(", ")
}
