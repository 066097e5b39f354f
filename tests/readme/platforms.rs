//! The page on platforms: each row names tests that there are, and versions that they run with.

use super::{code, root, tests};
use std::process::Command;

const PLATFORMS: &str = include_str!("../../docs/platforms.md");

/// The rows of its first table: the platform, what was run, the versions, the tests.
fn rows() -> Vec<[&'static str; 4]> {
    let table = PLATFORMS.split("\n| platform |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().skip(2);
    let cells = |row: &'static str| row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>();
    rows.map(|row| cells(row).try_into().unwrap()).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_test_of_a_platform_is_in_a_row_and_each_row_names_some() {
    // Of the stores, not every test needs to be named.
    let stores = ["tests/replay.rs", "tests/replicas.rs"]
        .map(|it| std::fs::read_to_string(root().join(it)).unwrap());
    let stores = stores.concat() + &code(&["tests/replicas"]);
    let platforms = code(&["tests/platforms", "tests/replay"]);
    let mut there: Vec<_> = tests(&platforms).into_iter().collect();
    let mut named: Vec<_> = rows().iter().flat_map(|it| quoted(it[3])).collect();
    named.retain(|it| !tests(&stores).contains(it));
    for [platform, what, _, tests] in rows() {
        assert!(quoted(tests).next().is_some() && !what.is_empty(), "{platform}: {what}");
    }
    there.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, there);
}

#[test]
fn pages_name_the_versions_that_their_platforms_ran_with() {
    for (page, told) in [(
        include_str!("../../deploy/helm/keybound/README.md"),
        [("helm", "Helm VERSION"), ("kube-apiserver", "Kubernetes VERSION")],
    )] {
        for (name, told) in told {
            let told = told.replace("VERSION", pinned(name).trim_start_matches('v'));
            assert!(page.contains(&told), "{told}");
        }
    }
}

#[test]
fn its_versions_are_those_that_are_provisioned() {
    for [platform, _, versions, _] in rows() {
        assert!(!versions.is_empty(), "{platform}");
        for told in versions.split(", ") {
            let name = quoted(told).next().unwrap();
            assert_eq!(told, format!("`{name}` {}", pinned(name)), "{platform}");
        }
    }
}

#[test]
fn no_page_leaves_it_to_its_reader_whether_a_version_can_do_what_it_says() {
    let words = [
        "if your version",
        "your version has",
        "depending on your version",
        "should work with",
        "may work with",
    ];
    let mut files = vec![root().join("README.md"), root().join("docs"), root().join("deploy")];
    let mut judged = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|it| it.unwrap().path()));
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        judged += 1;
        assert_eq!(words.iter().find(|it| text.contains(**it)), None, "{}", path.display());
    }
    assert!(100 <= judged, "{judged} files");
}

/// The version of `name` that is provisioned.
fn pinned(name: &str) -> String {
    let script = root().join("tests/provision.py");
    let output = Command::new(script).args(["--version", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
