//! How releases are made: the workflows, the steps that they take, and the page that tells of both.

use super::root;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

const CHANGELOG: &str = include_str!("../../CHANGELOG.md");
const CHART: &str = include_str!("../../deploy/helm/keybound/Chart.yaml");
const PAGE: &str = include_str!("../../docs/releases.md");
const WORKFLOW: &str = include_str!("../../.github/workflows/release.yml");

/// The workflows: their names and texts.
fn workflows() -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join(".github/workflows")).unwrap();
    let read = |it: PathBuf| {
        let name = it.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(it).unwrap())
    };
    entries.map(|it| read(it.unwrap().path())).collect()
}

#[test]
fn each_action_is_pinned_by_its_commit_and_says_which_version_that_is() {
    let mut judged = 0;
    for (name, text) in workflows() {
        for line in text.lines().filter_map(|it| it.trim().split_once("uses: ")) {
            let (action, version) = line.1.split_once(" # v").unwrap_or((line.1, ""));
            let commit = action.split_once('@').unwrap().1;
            let pinned = commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit());
            assert!(pinned && !version.is_empty(), "{name}: {action}");
            judged += 1;
        }
    }
    assert!(10 <= judged, "{judged} actions");
}

#[test]
fn no_job_may_write_but_those_that_publish() {
    for (name, text) in workflows() {
        let (before, jobs) = text.split_once("\njobs:\n").unwrap();
        let usual = ["permissions: {}\n", "permissions:\n  contents: read\n"];
        assert!(usual.iter().any(|it| before.contains(it)), "{name}");
        let writing = jobs.matches(": write").count();
        assert_eq!(writing, if name == "release.yml" { 6 } else { 0 }, "{name}");
    }
    for (name, job) in jobs() {
        let publishes = name == "images" || name == "draft";
        assert_eq!(job.contains(": write"), publishes, "{name}");
        assert!(job.contains("persist-credentials: false"), "{name}");
        // What is built by code of others has been built before anything may be written.
        assert!(!publishes || !job.contains("cargo "), "{name}");
    }
}

/// The jobs of the release: their names and texts.
fn jobs() -> Vec<(&'static str, &'static str)> {
    let jobs = WORKFLOW.split_once("\njobs:\n").unwrap().1;
    let is_name = |it: &&str| it.starts_with("  ") && !it.starts_with("   ") && it.ends_with(':');
    let names: Vec<_> = jobs.lines().filter(is_name).collect();
    let job = |name: &&'static str| {
        let rest = jobs.split_once(&format!("{name}\n")).unwrap().1;
        (name.trim().trim_end_matches(':'), rest.split("\n\n").next().unwrap())
    };
    names.iter().map(job).collect()
}

#[test]
fn the_page_says_of_each_job_what_of_it_has_run() {
    let table = PAGE.split("\n| job |").nth(1).unwrap().split("\n\n").next().unwrap();
    let told: Vec<_> = table.lines().skip(2).map(|it| it.split('`').nth(1).unwrap()).collect();
    let there: Vec<_> = jobs().iter().map(|it| it.0).collect();
    assert_eq!(told, there);
}

#[test]
fn the_page_names_each_file_that_is_released() {
    let folder = Steps::new();
    let built = folder.built();
    let out = folder.path("files");
    let output = folder.step(&["files", built.to_str().unwrap(), out.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let files: Vec<_> = fs::read_dir(&out).unwrap().map(|it| it.unwrap().path()).collect();
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap().replace("arm64", "amd64");
        assert!(PAGE.contains(&name), "{name}");
    }
    assert_eq!(files.len(), 10, "{files:?}");
    let mut check = Command::new("sha256sum");
    assert!(
        check.args(["--check", "SHA256SUMS"]).current_dir(&out).output().unwrap().status.success()
    );
    let program = fs::read_to_string(out.join("keybound-linux-arm64")).unwrap();
    assert_eq!(program, "built-arm64 keybound");
}

#[test]
fn a_tag_is_released_if_the_files_say_the_same_version() {
    let released = CHANGELOG.replace(
        "## [Unreleased]\n",
        "## [Unreleased]\n\n## [0.1.0] - 2026-12-01\n\nThe first.\n\n## [0.0.9] - 2026-11-01\n",
    );
    for (tag, changelog, told) in [
        ("v0.1.0", &*released, ""),
        ("v0.1.0", CHANGELOG, "CHANGELOG.md has no heading `## [0.1.0] - DATE`"),
        ("v0.0.9", &released, "Cargo.toml says 0.1.0, the tag 0.0.9"),
        ("v0.0.9", &released, "Chart.yaml (appVersion) says 0.1.0, the tag 0.0.9"),
        ("0.1.0", &released, "0.1.0 is not v and a version"),
        ("v0.1.0-rc.1", &released, "v0.1.0-rc.1 is not v and a version"),
    ] {
        let folder = Steps::new();
        fs::write(folder.path("CHANGELOG.md"), changelog).unwrap();
        let output = folder.step(&["check", tag]);
        let problems = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), told.is_empty(), "{tag}: {problems}");
        assert!(problems.contains(told), "{tag}: {problems}");
        if told.is_empty() {
            let notes = folder.step(&["notes", tag]).stdout;
            assert_eq!(String::from_utf8(notes).unwrap(), "The first.\n");
        }
    }
}

#[test]
fn the_changelog_has_the_form_that_it_says_it_has() {
    let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let mut of_version = HashSet::new();
    for line in CHANGELOG.lines() {
        if let Some(version) = line.strip_prefix("## ") {
            of_version.clear();
            let dated =
                version.split_once("] - ").is_some_and(|it| it.1.len() == "2026-12-01".len());
            assert!(version == "[Unreleased]" || (version.starts_with('[') && dated), "{line}");
        } else if let Some(kind) = line.strip_prefix("### ") {
            assert!(kinds.contains(&kind) && of_version.insert(kind), "{line}");
        }
    }
}

#[test]
fn the_chart_is_released_with_the_image_beside_it_and_what_a_catalogue_reads() {
    let folder = Steps::new();
    let out = folder.path("chart");
    let place = "registry.example.com/somebody";
    let output = folder.step(&["chart", out.to_str().unwrap(), place]);
    assert!(output.status.success(), "{output:?}");
    let values = fs::read_to_string(out.join("values.yaml")).unwrap();
    assert!(values.contains("\n  repository: registry.example.com/somebody/keybound "), "{values}");
    let chart = fs::read_to_string(out.join("Chart.yaml")).unwrap();
    assert!(chart.contains("image: registry.example.com/somebody/keybound:0.1.0\n"), "{chart}");
    assert!(!chart.contains("\nhome:"), "{chart}");
    assert_eq!(fs::read_to_string(out.join(".helmignore")).unwrap(), "ci/\nREADME.md\n");
    // The categories and kinds that Artifact Hub knows, of which others are ignored in silence.
    assert!(CHART.contains("  artifacthub.io/category: security\n"));
    let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
    let told: Vec<_> = CHART.lines().filter_map(|it| it.trim().strip_prefix("- kind: ")).collect();
    assert!(!told.is_empty() && told.iter().all(|it| kinds.contains(it)), "{told:?}");
}

#[test]
fn a_catalogue_is_told_where_the_chart_is_from_and_its_page_leads_there() {
    let folder = Steps::new();
    let out = folder.path("chart");
    let mut step = Command::new(folder.path(".ci/release"));
    step.args(["chart", out.to_str().unwrap(), "registry.example.com/somebody"]);
    step.env("GITHUB_SERVER_URL", "https://git.example.com");
    step.env("GITHUB_REPOSITORY", "somebody/keybound").env("GITHUB_REF_NAME", "v0.1.0");
    assert!(step.status().unwrap().success());
    let text = |it: &str| fs::read_to_string(out.join(it)).unwrap();
    let home = "https://git.example.com/somebody/keybound";
    let chart = text("Chart.yaml");
    assert!(chart.contains(&format!("\nhome: {home}\nsources: [{home}]\n")), "{chart}");
    assert_eq!(text(".helmignore"), "ci/\n");
    let page = text("README.md");
    for link in page.split("](").skip(1) {
        assert!(["https://", "#"].iter().any(|it| link.starts_with(it)), "{link}");
    }
    for there in
        ["docs/configuration.md)", "deploy/helm/keybound/ci/node-values.yaml)", "docs/alerts.md)"]
    {
        assert!(page.contains(&format!("]({home}/blob/v0.1.0/{there}")), "{page}");
    }
}

#[test]
fn security_and_versions_say_of_the_same_versions_that_they_are_supported() {
    let policy = include_str!("../../.github/SECURITY.md");
    let versions = include_str!("../../docs/versions.md");
    let supported = policy.split("\n## Supported versions\n").nth(1).unwrap();
    assert!(
        supported.contains("the newest minor version and, for three months, the one before it")
    );
    assert!(supported.contains("(../docs/versions.md)"));
    for line in [
        "| the newest minor version | faults and security |",
        "| the one before it | security, for three months after the newest came out |",
    ] {
        assert!(versions.contains(line), "{line}");
    }
    // Whom to tell, without everybody hearing of it, and by when there is what.
    assert!(policy.contains("*Security → Report a vulnerability*"));
    let times = policy.split("| what you can expect | within |\n|---|---|\n").nth(1).unwrap();
    assert!(5 <= times.lines().take_while(|it| it.starts_with('|')).count(), "{times}");
}

#[test]
fn what_is_written_down_is_what_is_linked_and_nothing_may_be_missing() {
    for (linked, missing) in [
        ("keybound v0.1.0 (somewhere)\nserde v1.0.0", None),
        ("keybound v0.1.0\nserde v1.0.0\nring v0.17.0", Some("[('ring', '0.17.0')]")),
        ("keybound v0.1.0\nserde v2.0.0", Some("[('serde', '2.0.0')]")),
    ] {
        let folder = Steps::new();
        let component =
            |name: &str, version| json!({"bom-ref": name, "name": name, "version": version});
        let mut about = component("keybound", "0.1.0");
        about["purl"] = format!("file://{}#keybound", folder.path("").display()).into();
        let told = json!({
            "metadata": {"component": about},
            "components": [component("serde", "1.0.0"), component("syn", "3.0.0")],
            "dependencies": [
                {"ref": "keybound", "dependsOn": ["serde", "syn"]}, {"ref": "serde"}, {"ref": "syn"},
            ],
        });
        fs::write(folder.path("told.json"), told.to_string()).unwrap();
        fs::create_dir_all(folder.path("src/envoy")).unwrap();
        folder.program("cargo", &format!("echo '{linked}'"));
        folder.program("cyclonedx", "cp told.json bom.json; cp told.json src/envoy/bom.json");
        let out = folder.path("out");
        let step = Command::new(folder.path(".ci/release"))
            .args(["sbom", out.to_str().unwrap()])
            .env("PATH", folder.programs_first())
            .env("CARGO_CYCLONEDX_BIN", folder.path("cyclonedx"))
            .output()
            .unwrap();
        let problems = String::from_utf8_lossy(&step.stderr);
        assert_eq!(step.status.success(), missing.is_none(), "{linked}: {problems}");
        assert!(problems.contains(missing.unwrap_or_default()), "{linked}: {problems}");
        for product in missing.is_none().then_some(PRODUCTS).into_iter().flatten() {
            let text = fs::read_to_string(out.join(format!("{product}.cdx.json"))).unwrap();
            assert!(!text.contains(&*folder.path("").to_string_lossy()), "{text}");
            let written: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(written["components"], json!([component("serde", "1.0.0")]));
            let depends = json!([
                {"ref": "keybound", "dependsOn": ["serde"]}, {"ref": "serde", "dependsOn": []},
            ]);
            assert_eq!(written["dependencies"], depends);
        }
    }
}

#[test]
fn two_builds_of_which_one_byte_differs_are_refused() {
    for (product, file, builder) in [
        ("program", "*-unknown-linux-gnu/release/keybound", "cargo"),
        ("module", "module/libkeybound_envoy.so", "deploy/envoy-module/build.py"),
    ] {
        for (built, told) in [
            ("echo the same", None),
            ("pwd | wc -c", Some("two builds differ, first at byte ")),
            ("case $PWD in */a/*) echo 1 ;; *) echo 1 more ;; esac", Some("first at byte 1;")),
            ("pwd", Some(" names ")),
            ("exit 1", Some("it does not build")),
        ] {
            let folder = Steps::new();
            let place = file.replace('*', std::env::consts::ARCH);
            fs::create_dir_all(folder.path("deploy/envoy-module")).unwrap();
            folder.program(
                builder,
                &format!(
                    "it=$CARGO_TARGET_DIR/{place}; mkdir -p \"${{it%/*}}\"; ({built}) > \"$it\"",
                ),
            );
            let output = folder.twice(product);
            let problems = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), told.is_none(), "{product}, {built}: {problems}");
            assert!(problems.contains(told.unwrap_or_default()), "{product}, {built}: {problems}");
            let kept = folder.path("out").join(file.rsplit_once('/').unwrap().1);
            assert_eq!(kept.exists(), told.is_none(), "{product}, {built}");
        }
    }
}

/// What a release says the composition of.
const PRODUCTS: [&str; 3] = ["keybound", "keybound-fips", "libkeybound_envoy"];

/// The steps of a release, in a copy of what they read.
struct Steps {
    folder: tempfile::TempDir,
}

impl Steps {
    fn new() -> Self {
        let steps = Self { folder: tempfile::tempdir().unwrap() };
        let chart = "deploy/helm/keybound";
        fs::create_dir_all(steps.path(chart)).unwrap();
        fs::create_dir_all(steps.path(".ci")).unwrap();
        for file in [".ci/release", "Cargo.toml", "CHANGELOG.md"] {
            fs::copy(root().join(file), steps.path(file)).unwrap();
        }
        for file in ["Chart.yaml", "README.md", "values.yaml", ".helmignore"] {
            fs::copy(root().join(chart).join(file), steps.path(chart).join(file)).unwrap();
        }
        fs::set_permissions(steps.path(".ci/release"), fs::Permissions::from_mode(0o755)).unwrap();
        steps
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `.ci/reproducible` on `product`, with the programs that are here instead of others.
    fn twice(&self, product: &str) -> Output {
        fs::copy(root().join(".ci/reproducible"), self.path(".ci/reproducible")).unwrap();
        for arguments in [&["init", "--quiet"][..], &["add", "."]] {
            let mut git = Command::new("git");
            assert!(git.args(arguments).current_dir(self.path("")).status().unwrap().success());
        }
        fs::create_dir(self.path("scratch")).unwrap();
        fs::create_dir(self.path("tests")).unwrap();
        self.program("tests/provision.py", "exit 1");
        Command::new(self.path(".ci/reproducible"))
            .args(["--out", self.path("out").to_str().unwrap(), product])
            .env("PATH", self.programs_first())
            .env("TMPDIR", self.path("scratch"))
            .env("KEYBOUND_REVISION", "unknown")
            .output()
            .unwrap()
    }

    /// Where programs are looked for: here at first.
    fn programs_first(&self) -> OsString {
        let usual = std::env::var_os("PATH").unwrap();
        let here = [self.path("")].into_iter();
        std::env::join_paths(here.chain(std::env::split_paths(&usual))).unwrap()
    }

    fn step(&self, arguments: &[&str]) -> Output {
        let mut step = Command::new(self.path(".ci/release"));
        // A workflow's own tests are no release.
        step.args(arguments).env_remove("GITHUB_REPOSITORY").output().unwrap()
    }

    /// What the jobs leave, each file with the name of its job in it.
    fn built(&self) -> PathBuf {
        let built = self.path("built");
        let write = |job: &str, file: &str| {
            fs::create_dir_all(built.join(job)).unwrap();
            fs::write(built.join(job).join(file), format!("{job} {file}")).unwrap();
        };
        for architecture in ["amd64", "arm64"] {
            write(&format!("built-{architecture}"), "keybound");
            write(&format!("built-{architecture}"), "libkeybound_envoy.so");
            write(&format!("fips-{architecture}"), "keybound-fips");
        }
        for product in PRODUCTS {
            write("about", &format!("{product}.cdx.json"));
        }
        built
    }

    /// Has `name` be a program of the shell that does this.
    fn program(&self, name: &str, does: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
