//! What `deploy/` has for Kubernetes, put to a real API server, as users put it there.

mod chart;
mod cluster;

use crate::at_hand;
pub(crate) use cluster::Cluster;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file or folder `path` of the repository.
fn ours(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The YAML files below `folder`, but for the chart's.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("helm") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|it| it == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Those with objects of Kubernetes in them.
fn manifests() -> Vec<PathBuf> {
    let is_manifest = |it: &PathBuf| {
        let text = fs::read_to_string(it).unwrap();
        text.lines().any(|it| it.starts_with("apiVersion: "))
    };
    files(&ours("deploy")).into_iter().filter(is_manifest).collect()
}

#[tokio::test]
async fn the_programs_of_kubernetes_are_those_that_are_pinned() {
    let Some(cluster) = Cluster::shared().await else { return };
    let pinned = |name: &str| {
        let script = ours("tests/provision.py");
        let output = Command::new(script).args(["--version", name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let told = cluster.kubectl(&["version", "--output=json"], "").unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    for side in ["clientVersion", "serverVersion"] {
        assert_eq!(told[side]["gitVersion"], pinned("kube-apiserver"), "{side}");
    }
    let told = cluster.helm(&["version", "--template={{.Version}}"]).unwrap();
    assert_eq!(told, pinned("helm"));
    let etcd = Command::new(at_hand("etcd").unwrap()).arg("--version").output().unwrap();
    let told = String::from_utf8(etcd.stdout).unwrap();
    let version = pinned("etcd").replace('v', "etcd Version: ");
    assert!(told.starts_with(&version), "{told}");
}

#[tokio::test]
async fn every_manifest_is_taken_without_a_warning_and_is_there_afterwards() {
    let Some(cluster) = Cluster::shared().await else { return };
    let manifests = manifests();
    assert!(10 <= manifests.len(), "{manifests:?}");
    for path in manifests {
        let file = path.to_str().unwrap();
        cluster.apply(&["--dry-run=server", "-f", file], "").unwrap();
        cluster.apply(&["-f", file], "").unwrap();
        for mut object in cluster.objects(&["-f", file], "") {
            object["spec"]["typo"] = json!(true);
            let replace = ["replace", "--dry-run=server", "--validate=strict", "-f", "-"];
            let refusal = cluster.kubectl(&replace, &object.to_string()).unwrap_err();
            assert!(refusal.contains(r#"unknown field "spec.typo""#), "{file}: {refusal}");
        }
    }
}

/// What a schema cannot say, the kinds have rules for, and the API server keeps them.
#[tokio::test]
async fn rules_of_a_kind_that_are_in_no_schema_are_kept() {
    let Some(cluster) = Cluster::shared().await else { return };
    let listener = json!({"name": "https", "port": 8443, "protocol": "HTTP"});
    for (file, object, path, value, complaint) in [
        (
            "deploy/istio/gateway.yaml",
            ["authorizationpolicies.security.istio.io", "-n=istio-system", "keybound"],
            "/spec/targetRefs",
            json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "api"}]),
            "only one of targetRefs or selector can be set",
        ),
        (
            "deploy/envoy-gateway/authorization.yaml",
            ["securitypolicies.gateway.envoyproxy.io", "-n=default", "keybound"],
            "/spec/targetRefs/0/kind",
            json!("Service"),
            "this policy can only have a targetRefs[*].kind of",
        ),
        (
            "deploy/envoy-gateway/gateway.yaml",
            ["gateways.gateway.networking.k8s.io", "-n=default", "api"],
            "/spec/listeners/-",
            listener,
            "Listener name must be unique within the Gateway",
        ),
    ] {
        cluster.apply(&["-f", ours(file).to_str().unwrap()], "").unwrap();
        let patch = json!([{"op": "add", "path": path, "value": value}]).to_string();
        let change = ["--dry-run=server", "--type=json", "--patch", &patch];
        let refusal = cluster.kubectl(&[&["patch"], &object[..], &change].concat(), "");
        let refusal = refusal.unwrap_err();
        assert!(refusal.contains(complaint), "{refusal}");
    }
}

#[tokio::test]
async fn what_a_page_has_users_ask_of_the_kinds_is_answered() {
    let Some(cluster) = Cluster::shared().await else { return };
    let folder = ours("deploy/envoy-gateway");
    let page = fs::read_to_string(folder.join("README.md")).unwrap();
    cluster.apply(&["-f", folder.join("authorization.yaml").to_str().unwrap()], "").unwrap();
    let lines = page.lines().map(|it| it.split('#').next().unwrap());
    let asked: Vec<_> = lines.filter_map(|it| it.strip_prefix("kubectl get ")).collect();
    assert!(!asked.is_empty(), "{page}");
    for kinds in asked {
        let command: Vec<_> = ["get"].into_iter().chain(kinds.split_whitespace()).collect();
        cluster.kubectl(&command, "").unwrap();
    }
}

/// A pod as a controller would make it of the workload.
fn pod_of(workload: &Value) -> Value {
    let template = &workload["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
    });
    for part in ["name", "namespace"] {
        pod["metadata"][part] = workload["metadata"][part].clone();
    }
    pod
}
