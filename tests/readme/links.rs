//! Every link within the repository leads somewhere, and README leads newcomers on.

use super::{README, root};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Pages by their path below the root, and their texts.
type Pages = BTreeMap<PathBuf, String>;

/// README, CHANGELOG, and all pages under `docs/`, `deploy/` and `.github/`.
fn pages() -> Pages {
    let mut folders = ["docs", "deploy", ".github"].map(PathBuf::from).to_vec();
    let mut found: Vec<_> = ["README.md", "CHANGELOG.md"].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    found.into_iter().map(|it| (it.clone(), fs::read_to_string(root().join(it)).unwrap())).collect()
}

/// The lines that are not in a fenced block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fence && !is_fenced
    })
}

/// What the links and images of a page lead to, but for other sites.
fn targets(text: &str) -> Vec<&str> {
    let links = prose(text).flat_map(|line| line.split("](").skip(1));
    let links = links.filter_map(|it| it.split([')', ' ']).next());
    links.filter(|it| !it.starts_with("https://") && !it.starts_with("http://")).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text).filter(|it| it.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        let slug: String = kept.map(|it| if it == ' ' { '-' } else { it }).collect();
        let again = (1..).map(|it| format!("{slug}-{it}"));
        let free = [slug.clone()].into_iter().chain(again).find(|it| !found.contains(it));
        found.extend(free);
    }
    found
}

/// The file that a link of `page` leads to, below the root; and the anchor.
fn resolved(page: &Path, target: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(it, to)| (it, Some(to)));
    let mut place =
        if path.is_empty() { page.to_owned() } else { page.parent().unwrap().to_owned() };
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => drop(place.pop()),
            Component::Normal(name) => place.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => (),
        }
    }
    // A folder shows its README.
    let readme = place.join("README.md");
    let place = if root().join(&readme).exists() { readme } else { place };
    (place, anchor.map(str::to_owned))
}

/// The links of `page` that lead nowhere.
fn dead(page: &Path, text: &str, pages: &Pages) -> Vec<String> {
    let leads = |target: &&str| {
        let (place, anchor) = resolved(page, target);
        let there = pages.get(&place).map(String::as_str);
        let there = if place == page { Some(text) } else { there };
        match anchor {
            Some(anchor) => there.is_some_and(|it| anchors(it).contains(&anchor)),
            None => root().join(&place).exists(),
        }
    };
    let dead = targets(text).into_iter().filter(|it| !leads(it));
    dead.map(|it| format!("{}: {it}", page.display())).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let links: usize = pages.values().map(|it| targets(it).len()).sum();
    assert!(100 < links, "{links}");
    let dead: Vec<_> = pages.iter().flat_map(|(page, text)| dead(page, text, &pages)).collect();
    assert!(dead.is_empty(), "these lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let pages = pages();
    let page = Path::new("docs/regions.md");
    for (text, expected) in [
        ("[a](dpop.md)", 0),
        ("[a](dpop)", 1),
        ("[a](../README.md#versions)", 0),
        ("[a](../README.md#version)", 1),
        ("![a](../.github/admin.png)", 0),
        ("![a](.github/admin.png)", 1),
        ("[a](../deploy/envoy) [b](../deploy/envoys)", 1),
        ("[a](../deploy/envoy#traps)", 0),
        ("[a](../deploy/envoy#trap)", 1),
        ("[a](#b-and-c)\n# `B`, and C", 0),
        ("[a](#b-and-c)\n```text\n# B and C\n```", 1),
        ("[a](#b-1)\n# B\n## B", 0),
        ("[a](#b-2)\n# B\n## B", 1),
        ("[a](https://example.com/nothing)", 0),
        ("```text\n[a](nothing)\n```", 0),
    ] {
        assert_eq!(dead(page, text, &pages).len(), expected, "{text}");
    }
}

#[test]
fn readme_is_short() {
    let lines = README.lines().count();
    assert!(lines <= 250, "{lines} lines: details belong into docs/");
}

/// How many clicks lead from README to each page.
fn clicks() -> BTreeMap<PathBuf, usize> {
    let pages = pages();
    let start = PathBuf::from("README.md");
    let mut clicks = BTreeMap::from([(start.clone(), 0)]);
    let mut next = VecDeque::from([start]);
    while let Some(page) = next.pop_front() {
        let Some(text) = pages.get(&page) else { continue };
        let so_far = clicks[&page];
        for target in targets(text) {
            let place = resolved(&page, target).0;
            if !clicks.contains_key(&place) {
                clicks.insert(place.clone(), so_far + 1);
                next.push_back(place);
            }
        }
    }
    clicks
}

#[test]
fn every_page_is_at_most_two_clicks_from_readme() {
    let clicks = clicks();
    let far = pages().into_keys().filter(|it| clicks.get(it).is_none_or(|it| 2 < *it));
    assert_eq!(far.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn what_newcomers_look_for_is_one_click_from_readme() {
    let (clicks, pages) = (clicks(), pages());
    for (what, page, shown) in [
        ("a Keycloak block", "docs/issuers.md", "## Keycloak\n\n```yaml\nissuers:\n"),
        ("what proof_stale means", "docs/reasons.md", "| `proof_stale` |"),
        ("how to roll back", "docs/rollout.md", "\n## Back\n"),
        ("where to look at 503", "docs/troubleshooting.md", "\n## 503\n"),
    ] {
        assert_eq!(clicks.get(Path::new(page)), Some(&1), "{what}");
        assert!(pages[Path::new(page)].contains(shown), "{what}");
    }
}
