//! The chart, by a real Helm: installed, upgraded, rolled back, removed.

use super::cluster::Cluster;
use super::{files, ours, pod_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const CHART: &str = "deploy/helm/keybound";
/// The chart of the version before, as it was.
const BEFORE: &str = "tests/platforms/kubernetes/chart-0.1.0";

/// What is in each namespace.
const EMPTY: &[&str] = &["serviceaccount/default"];

/// A namespace of its own for the chart, and who works in it.
struct Release {
    cluster: &'static Cluster,
    namespace: String,
}

impl Release {
    async fn new(namespace: &str, level: &str) -> Option<Self> {
        let cluster = Cluster::shared().await?;
        cluster.namespace(namespace, level);
        Some(Self { cluster, namespace: namespace.to_owned() })
    }

    /// Helm in the namespace.
    fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        self.cluster.helm(&[arguments, &["--namespace", &self.namespace]].concat())
    }

    fn install(&self, chart: &str, values: &Path) -> Result<String, String> {
        let values = values.to_str().unwrap();
        self.helm(&["install", "keybound", ours(chart).to_str().unwrap(), "--values", values])
    }

    fn upgrade(&self, values: &Path, more: &[&str]) -> Result<String, String> {
        let (chart, values) = (ours(CHART), values.to_str().unwrap());
        let upgrade = ["upgrade", "keybound", chart.to_str().unwrap(), "--values", values];
        self.helm(&[&upgrade, more].concat())
    }

    /// The objects of the release as they are in the cluster: what was asked for, by kind and name.
    fn objects(&self) -> BTreeMap<String, Value> {
        let manifest = self.helm(&["get", "manifest", "keybound"]).unwrap();
        let namespace = ["--namespace", &self.namespace, "-f", "-"];
        let objects = self.cluster.objects(&namespace, &manifest).into_iter();
        let named = objects.map(|mut it| {
            let name = format!("{}/{}", text(&it["kind"]), text(&it["metadata"]["name"]));
            let labels = it["metadata"]["labels"].take();
            let mut annotations = it["metadata"]["annotations"].take();
            // The API server counts its changes there.
            if let Some(all) = annotations.as_object_mut() {
                all.remove("deprecated.daemonset.template.generation");
            }
            (name, [labels, annotations, it["spec"].take(), it["data"].take()].into())
        });
        named.collect()
    }

    /// The Deployment, or what there is in place of it.
    fn workload(&self) -> Value {
        let get = ["deployment,daemonset", "--namespace", &self.namespace];
        let mut found = self.cluster.objects(&get, "");
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// All that is in the namespace, except what was told of it: the API server itself writes events.
    fn all(&self) -> Vec<String> {
        let kinds = ["api-resources", "--namespaced", "--verbs=list", "--output=name"];
        let kinds = self.cluster.kubectl(&kinds, "").unwrap();
        // The first is warned of, and no more than what endpointslices show.
        let left_out = ["endpoints", "events", "events.events.k8s.io"];
        let kinds: Vec<_> = kinds.lines().filter(|it| !left_out.contains(it)).collect();
        let get = ["get", &kinds.join(","), "--namespace", &self.namespace, "--output=name"];
        let told = self.cluster.kubectl(&[&get[..], &["--ignore-not-found"]].concat(), "").unwrap();
        told.lines().map(str::to_owned).collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Every file of values there is: those that the chart is tested with, and those of the platforms.
fn values() -> Vec<(String, PathBuf)> {
    let is_for_platform = |it: &PathBuf| it.ends_with("keybound-values.yaml");
    let of_platforms = files(&ours("deploy")).into_iter().filter(is_for_platform);
    let all = files(&ours(CHART).join("ci")).into_iter().chain(of_platforms);
    let named = all.map(|it| {
        let parent = it.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let name = format!("{parent}-{}", it.file_stem().unwrap().to_str().unwrap());
        (name, it)
    });
    named.collect()
}

/// What one of the files of values has pods be more important than others by.
const PRIORITY: &str = "edge";

#[tokio::test]
async fn with_every_file_of_values_it_is_installed_its_pods_are_admitted_and_nothing_stays() {
    let Some(cluster) = Cluster::shared().await else { return };
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000,
        "metadata": {"name": PRIORITY},
    });
    cluster.create(&class).unwrap();
    let values = values();
    assert!(10 <= values.len(), "{values:?}");
    for (name, values) in values {
        // A directory of the node is more than the standard admits.
        let on_node = fs::read_to_string(&values).unwrap().contains("hostPath: /");
        let level = if on_node { "privileged" } else { "restricted" };
        let release = Release::new(&name, level).await.unwrap();
        release.install(CHART, &values).unwrap_or_else(|it| panic!("{name}: {it}"));

        // By other means than Helm's, which sends less to be judged.
        let manifest = release.helm(&["get", "manifest", "keybound"]).unwrap();
        let again = ["--dry-run=server", "--namespace", &name, "-f", "-"];
        cluster.apply(&again, &manifest).unwrap_or_else(|it| panic!("{name}: {it}"));
        cluster.create(&pod_of(&release.workload())).unwrap_or_else(|it| panic!("{name}: {it}"));
        cluster.kubectl(&["delete", "pod", "--namespace", &name, "keybound"], "").unwrap();

        release.helm(&["uninstall", "keybound"]).unwrap();
        assert_eq!(release.all(), EMPTY, "{name}");
    }
}

#[tokio::test]
async fn a_directory_of_the_node_is_refused_where_pods_must_be_restricted() {
    let values = ours(CHART).join("ci/node-socket-values.yaml");
    let Some(release) = Release::new("no-host-paths", "restricted").await else { return };
    let warning = release.install(CHART, &values).unwrap_err();
    assert!(warning.contains("restricted volume types"), "{warning}");
    let refusal = release.cluster.create(&pod_of(&release.workload())).unwrap_err();
    assert!(refusal.contains("violates PodSecurity"), "{refusal}");
}

#[tokio::test]
async fn it_follows_the_version_before_and_goes_back_to_it() {
    for name in ["deployment", "everything", "forward-auth", "node", "node-socket", "replicas"] {
        let namespace = format!("upgrade-{name}");
        let Some(release) = Release::new(&namespace, "privileged").await else { return };
        let values = ours(BEFORE).join(format!("ci/{name}.yaml"));
        release.install(BEFORE, &values).unwrap_or_else(|it| panic!("{name}: {it}"));
        let before = release.objects();

        let mut upgraded = release.upgrade(&values, &[]);
        if name == "replicas" {
            let refusal = upgraded.unwrap_err();
            assert!(refusal.contains("replicaCount"), "{refusal}");
            assert_eq!(release.objects(), before, "{name}");
            let values = ours(CHART).join(format!("ci/{name}-values.yaml"));
            upgraded = release.upgrade(&values, &[]);
        }
        upgraded.unwrap_or_else(|it| panic!("{name}: {it}"));
        assert_ne!(release.objects(), before, "{name}");

        release.helm(&["rollback", "keybound", "1"]).unwrap();
        assert_eq!(release.objects(), before, "{name}");
        release.helm(&["uninstall", "keybound"]).unwrap();
        assert_eq!(release.all(), EMPTY, "{name}");
    }
}

/// Each with each other one that goes with it.
#[tokio::test]
async fn any_two_switches_together_make_objects_that_are_taken_without_a_warning() {
    const SWITCHES: &[&str] = &[
        r#"kind="DaemonSet""#,
        "replicaCount=1",
        r#"forwardAuth={"enabled": true}"#,
        r#"address="[::]""#,
        "autoscaling.enabled=true",
        r#"podDisruptionBudget={"minAvailable": "50%"}"#,
        "podDisruptionBudget.enabled=false",
        "networkPolicy.enabled=false",
        r#"networkPolicy.egress=[{"ports": [{"port": 53, "protocol": "UDP"}]}]"#,
        "serviceMonitor.enabled=true",
        "podMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "dashboard.enabled=true",
        "runAsUser=null",
        "serviceAccount.create=false",
        "restartOnChange=true",
        r#"drain={"delay": "500ms", "deadline": "1m"}"#,
        r#"strategy={"type": "Recreate", "rollingUpdate": null}"#,
        r#"image.digest="sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855""#,
        r#"topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]"#,
    ];
    let Some(release) = Release::new("switches", "restricted").await else { return };
    let values = ours(CHART).join("ci/deployment-values.yaml");
    let monitors = r#"networkPolicy.monitors=[{"podSelector": {}}]"#;
    let mut rendered = vec![];
    for (at, one) in SWITCHES.iter().enumerate() {
        for (other, number) in SWITCHES[..at].iter().zip(0..) {
            let name = format!("fullnameOverride=\"pair-{at}-{number}\"");
            let chart = ours(CHART);
            // The oldest that the chart is for, since nobody is asked.
            let template =
                ["template", "keybound", chart.to_str().unwrap(), "--kube-version=1.29.0"];
            let settings = ["--values", values.to_str().unwrap(), "--set-json", monitors];
            let pair = ["--set-json", &name, "--set-json", other, "--set-json", one];
            match release.helm(&[&template[..], &settings, &pair].concat()) {
                Ok(told) => rendered.push(told),
                Err(told) => {
                    assert!(told.contains("autoscaling is for kind: Deployment"), "{told}");
                }
            }
        }
    }
    let apply = ["--dry-run=server", "--namespace", &release.namespace, "-f", "-"];
    release.cluster.apply(&apply, &rendered.join("\n---\n")).unwrap();
}
