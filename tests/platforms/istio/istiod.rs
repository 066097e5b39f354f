//! Istiod itself, installed by its own charts on an API server of Kubernetes of its own, with a process in place of
//! the pod.

use super::mesh::{FEATURES, Plan, istio};
use super::proxy::Workload;
use crate::kubernetes::Cluster;
use crate::program::Running;
use crate::{at_hand, deploy, documents};
use keybound_core::Denial;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tokio::sync::OnceCell;

const NAMESPACE: &str = "istio-system";
/// What its deployment says of it: which revision of a mesh it is, and who it is.
const PLACE: [(&str, &str); 4] = [
    ("REVISION", "default"),
    ("POD_NAME", "istiod-1"),
    ("POD_NAMESPACE", NAMESPACE),
    // A name for the certificate of its webhooks beside those of its Service, which leads nowhere here.
    ("ISTIOD_CUSTOM_HOST", "127.0.0.1"),
];

/// What istiod says of each `EnvoyFilter`, and nothing else.
const ADVICE: &str = "Warning: EnvoyFilter exposes internal implementation details that may change at any time. \
                      Prefer other APIs if possible, and exercise extreme caution, especially around \
                      upgrades.\nerror: 1 warning received";

/// A running istiod, with what it reads.
pub(crate) struct Istiod {
    cluster: Cluster,
    charts: PathBuf,
    /// Where proxies ask it.
    discovery: String,
    process: Running,
}

impl Istiod {
    /// The one that all tests share; nothing, and a line that says why, where there is none.
    pub(crate) async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Istiod>> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await.as_ref()
    }

    async fn start() -> Option<Self> {
        let program = at_hand("pilot-discovery")?;
        let charts = program.parent().unwrap().to_owned();
        let cluster = Cluster::without_kinds().await?;
        // Without what asks a webhook, as long as nobody knows where that is.
        install(&cluster, &charts.join("base"), &["--set=defaultRevision="]);
        cluster.knows_its_kinds().await;
        configure(&cluster, &charts, &json!({}));
        for object in gateway_account() {
            cluster.create(&object).unwrap();
        }

        let any = "127.0.0.1:0";
        let config = cluster.kubeconfig();
        let options = [
            ("kubeconfig", config.to_str().unwrap()),
            ("namespace", NAMESPACE),
            ("secureGRPCAddr", any),
            ("httpsAddr", any),
            ("grpcAddr", any),
            ("httpAddr", any),
            ("monitoringAddr", ""),
            ("ctrlz_port", "0"),
        ];
        let options = options.map(|(name, value)| format!("--{name}={value}"));
        let arguments = [&["discovery".to_owned()][..], &options].concat();
        let found = Mutex::new([None, None]);
        let listens = move |line: &str| {
            let mut found = found.lock().unwrap();
            let told =
                ["starting secure gRPC discovery service at ", "starting webhook service at "];
            for (told, found) in told.iter().zip(found.iter_mut()) {
                *found = line.split_once(told).map(|it| it.1.to_owned()).or_else(|| found.take());
            }
            found.clone().into_iter().collect::<Option<Vec<_>>>()
        };
        let features = [&FEATURES[..], &PLACE].concat();
        let (process, listens) = Running::start(&program, &arguments, &features, listens).await;

        let url = format!("--set=base.validationURL=https://{}/validate", listens[1]);
        // As at a first installation: istiod has it fail closed once it has seen that it refuses.
        let open = "--set=base.validationFailurePolicy=Ignore";
        install(&cluster, &charts.join("base"), &[&url, open]);
        let it = Self { cluster, charts, discovery: listens[0].clone(), process };
        it.waits_for(
            "validatingwebhookconfiguration/istiod-default-validator",
            "{.webhooks[0].failurePolicy}=Fail",
        );
        Some(it)
    }

    /// Has it generate by these, as users do: `mesh` by its chart, the rest by kubectl. What a proxy of the gateway
    /// needs to ask it.
    pub(crate) fn apply(&self, mesh: &Value, objects: &[Value], secret: &Value) -> Value {
        configure(&self.cluster, &self.charts, mesh);
        for object in objects.iter().chain([secret]) {
            self.keeps(&[], object).unwrap_or_else(|why| self.ends(&why));
        }
        let roots = "istio-ca-root-cert";
        self.waits("--for=create", &format!("configmap/{roots}"));
        let root = self.cluster.objects(&["-n", NAMESPACE, "configmap", roots], "").remove(0);
        let account = Workload::Gateway.account();
        let token = ["create", "token", "-n", NAMESPACE, account, "--audience=istio-ca"];
        let token = self.cluster.kubectl(&token, "").unwrap();
        json!({
            "discovery": self.discovery,
            "root": root["data"]["root-cert.pem"], "token": token.trim(),
        })
    }

    /// What API server and webhook say to an object, which they keep unless the options say otherwise.
    fn keeps(&self, options: &[&str], object: &Value) -> Result<(), String> {
        let told = self.cluster.apply(&[options, &["-f", "-"]].concat(), &object.to_string());
        match told {
            // Warnings are errors but for this one.
            Err(why) if object["kind"] == "EnvoyFilter" && why.contains(ADVICE) => Ok(()),
            told => told.map(drop),
        }
    }

    /// Waits until a value of an object is this.
    fn waits_for(&self, object: &str, value: &str) {
        self.waits(&format!("--for=jsonpath={value}"), object);
    }

    fn waits(&self, what: &str, object: &str) {
        let wait = ["wait", "-n", NAMESPACE, what, object, "--timeout=120s"];
        self.cluster.kubectl(&wait, "").unwrap_or_else(|why| self.ends(&why));
    }

    fn ends(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.log())
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// Installs a chart, or the same with other values.
fn install(cluster: &Cluster, chart: &Path, values: &[&str]) {
    let name = chart.file_name().unwrap().to_str().unwrap();
    let install = ["upgrade", "--install", "-n", NAMESPACE, name, chart.to_str().unwrap()];
    cluster.helm(&[&install[..], values].concat()).unwrap();
}

/// Installs istiod with this below `meshConfig`.
fn configure(cluster: &Cluster, charts: &Path, mesh: &Value) {
    let mesh = format!("--set-json=meshConfig={mesh}");
    // Envoy's own build lacks the filter of Istio's metrics.
    let metrics = "--set=telemetry.enabled=false";
    install(cluster, &charts.join("istio-discovery"), &[&mesh, metrics]);
}

/// The account of the gateway, which may read the Secrets beside it, as Istio's chart of a gateway has it.
fn gateway_account() -> [Value; 3] {
    let name = Workload::Gateway.account();
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let rbac = "rbac.authorization.k8s.io";
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        }),
    ]
}

#[test]
fn istiod_is_the_one_that_is_pinned() {
    let Some(program) = at_hand("pilot-discovery") else { return };
    let told = Command::new(program).args(["version", "--short"]).output().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/provision.py");
    let pinned = Command::new(script).args(["--version", "pilot-discovery"]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let pinned = String::from_utf8(pinned.stdout).unwrap();
    assert_eq!(told, format!("client version: {pinned}"));
}

#[tokio::test]
async fn by_istiod_itself_a_token_is_good_with_its_certificate_alone() {
    let Some(istiod) = Istiod::shared().await else { return };
    let Some(mut it) = Plan::at_the_gateway().start_by(istiod).await else { return };
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let token = it.bearer(&client, "payments");
    let forged = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [("authorization", token.as_str()), ("x-forwarded-client-cert", &forged)];
    for path in ["/docs", "/payments"] {
        let seen = it.passes(&client, path, &headers).await;
        assert_eq!(seen["x-auth-subject"], json!(["alice"]), "{seen}");
        it.refuses(Denial::CertificateMismatch, &thief, path, &headers).await;
    }
    it.refuses(Denial::CredentialsMissing, &client, "/docs", &[]).await;
    assert!(it.answer(None, "/docs", &headers).await.is_err(), "no certificate, no connection");
    it.service = None;
    assert_eq!(it.get(&client, "/docs", &headers).await.0, 503, "as statusOnError says");
}

/// Asks, and has nothing kept.
const ASKED: &[&str] = &["--dry-run=server"];

#[tokio::test]
async fn istiods_webhook_takes_every_file_and_refuses_what_its_pages_say() {
    let Some(istiod) = Istiod::shared().await else { return };
    for file in [
        istio("gateway.yaml"),
        istio("browsers.yaml"),
        istio("streams.yaml"),
        istio("keybound-access.yaml"),
        istio("sidecar/authorization.yaml"),
        deploy("envoy-module/istio/gateway.yaml"),
    ] {
        let mut objects = documents(&file);
        objects.retain(|it| it["apiVersion"].as_str().unwrap().contains(".istio.io/"));
        assert!(!objects.is_empty(), "{}", file.display());
        for object in objects {
            istiod.keeps(ASKED, &object).unwrap_or_else(|why| istiod.ends(&why));
        }
    }
    for (kind, place, value, told) in [
        (
            "AuthorizationPolicy",
            "/metadata/annotations",
            json!({"istio.io/dry-run": "true"}),
            "istio.io/dry-run currently only supports action ALLOW/DENY",
        ),
        (
            "AuthorizationPolicy",
            "/spec/provider/name",
            json!(""),
            "`provider.name` must not be empty",
        ),
        ("Gateway", "/spec/servers/0/tls/credentialName", json!(""), "MUTUAL TLS requires"),
    ] {
        let mut object = Plan::at_the_gateway().object(kind).clone();
        let (above, last) = place.rsplit_once('/').unwrap();
        object.pointer_mut(above).unwrap()[last] = value;
        let refusal = istiod.keeps(ASKED, &object).unwrap_err();
        assert!(refusal.contains(r#"webhook "validation.istio.io" denied"#), "{refusal}");
        assert!(refusal.contains(told), "{refusal}");
    }
}
