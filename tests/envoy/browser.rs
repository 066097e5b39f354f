//! A page in a real browser, with a DPoP key of its own, on another origin than the API: what
//! `docs/browsers.md` shows, as it stands there.

use super::chromium::Browser;
use super::installation::{AUDIENCE, ISSUER, Way, module};
use super::programs::provisioned;
use super::tokens::Signer;
use bytes::Bytes;
use http_body_util::Full;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::envoy::Envoy;
use keybound::commands::demo::service::Service;
use keybound::commands::demo::site::{Response, Site, not_found};
use keybound::commands::demo::upstream;
use keybound_core::Denial;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};

const DOCS: &str = include_str!("../../docs/browsers.md");
/// The origin that the page says pages come from.
const ORIGIN: &str = "https://app.example.com";
const PATH: &str = "/things?page=2";

/// Tells of an answer what a page can see of it, or that it sees none.
const TOLD: &str = "
const told = async (sent) => {
  try {
    const it = await sent;
    const [nonce, challenge] = ['dpop-nonce', 'www-authenticate'].map((name) => it.headers.get(name));
    return { status: it.status, nonce, challenge, body: await it.json() };
  } catch (error) {
    return { failed: error.name };
  }
};
globalThis.isLoaded = true;
// One request, whatever the answer asks for.
const once = (url, token, proof, scheme = 'DPoP') =>
  fetch(url, { headers: { authorization: `${scheme} ${token}`, dpop: proof } });
";

/// The block of code in the documentation that begins so.
fn shown(kind: &str, begins: &str) -> &'static str {
    let blocks = DOCS.split("```").skip(1).step_by(2);
    let mut blocks = blocks.filter_map(|it| it.split_once('\n')).filter(|it| it.0 == kind);
    blocks.find(|it| it.1.starts_with(begins)).unwrap().1
}

/// Lines further to the right.
fn indented(text: &str, by: usize) -> String {
    text.lines().flat_map(|it| [" ".repeat(by).as_str(), it, "\n"].map(str::to_owned)).collect()
}

/// What stands before Envoy's router, and whether pages may see the headers of a challenge.
struct Row {
    name: &'static str,
    filters: &'static [Filter],
    exposed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    Cors,
    Authorizer,
}

const LISTENERS: [Row; 5] = [
    Row { name: "as-shown", filters: &[Filter::Cors, Filter::Authorizer], exposed: true },
    Row { name: "not-exposed", filters: &[Filter::Cors, Filter::Authorizer], exposed: false },
    Row { name: "behind", filters: &[Filter::Authorizer, Filter::Cors], exposed: true },
    Row { name: "without", filters: &[Filter::Authorizer], exposed: true },
    // As an EnvoyFilter leaves it in Istio.
    Row { name: "both", filters: &[Filter::Cors, Filter::Authorizer, Filter::Cors], exposed: true },
];

impl Row {
    fn listener(&self, authorizer: &Value, origin: &str) -> String {
        let cors = shown("yaml", "http_filters:").split_once('\n').unwrap().1;
        let filters = self.filters.iter().map(|it| match it {
            Filter::Cors => cors.to_owned(),
            Filter::Authorizer => format!("- {authorizer}\n"),
        });
        let filters = indented(&filters.collect::<String>(), 10);
        let policy = shown("yaml", "typed_per_filter_config:").replace(ORIGIN, origin);
        let exposes = |it: &&str| it.contains("expose_headers");
        assert_eq!(policy.lines().filter(exposes).count(), 1);
        let told = |it: &&str| self.exposed || !exposes(it);
        let policy = indented(&policy.lines().filter(told).collect::<Vec<_>>().join("\n"), 14);
        let policy = if self.filters.contains(&Filter::Cors) { policy } else { String::new() };
        let name = self.name;
        format!(
            "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          use_remote_address: true
          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]
{policy}"
        )
    }
}

/// All that runs: the page, the API behind Envoy, the service.
struct World {
    signer: Signer,
    envoy: Envoy,
    origin: String,
    client: Client,
    _service: Option<Service>,
    _sites: JoinSet<()>,
    _directory: TempDir,
}

impl World {
    async fn start(way: Way) -> Self {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut sites = JoinSet::new();
        let upstream = serve(&mut sites, upstream::echo()).await;
        let page = serve(&mut sites, Site::new(|it| page(it.uri().path()))).await;
        let origin = format!("http://localhost:{}", page.port());
        let signer = Signer::new(Algorithm::ES256, "test");
        fs::write(at("jwks.json"), json!({"keys": [signer.jwk()]}).to_string()).unwrap();
        let config = at("keybound.json");
        fs::write(&config, configuration(directory.path()).to_string()).unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        let mut service = None;
        let binary = match way {
            Way::Grpc | Way::Http => {
                let binary = Path::new(env!("CARGO_BIN_EXE_keybound"));
                let service = service.insert(Service::start(binary, &config).await.unwrap());
                service.ready(&client).await.unwrap();
                provisioned("envoy")
            }
            Way::Inside(envoy) => {
                symlink(module(), at("libkeybound_envoy.so")).unwrap();
                provisioned(envoy)
            }
        };
        let bootstrap = at("envoy.yaml");
        let authorizer = authorizer(way, directory.path());
        fs::write(&bootstrap, self::bootstrap(&authorizer, upstream, &origin, directory.path()))
            .unwrap();
        let envoy = Envoy::run(&binary, &bootstrap, &client).await.unwrap();
        Self {
            signer,
            envoy,
            origin,
            client,
            _service: service,
            _sites: sites,
            _directory: directory,
        }
    }

    fn url(&self, listener: &str, path: &str) -> String {
        format!("http://{}{path}", self.envoy.address(listener).unwrap())
    }

    /// A token that is bound to this key.
    fn token(&self, jkt: &Value) -> String {
        let now = SystemClock.now().as_secs();
        self.signer.sign(
            "at+jwt",
            &json!({
                "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "page",
                "iat": now, "exp": now + 300, "cnf": {"jkt": jkt},
            }),
        )
    }

    /// The status of a preflight, and the origin that it allows.
    async fn preflight(&self, url: &str) -> (u16, Option<String>) {
        let asked = self.client.request(Method::OPTIONS, url).header("origin", &self.origin);
        let asked = asked.header("access-control-request-method", "GET");
        let asked = asked.header("access-control-request-headers", "authorization,dpop");
        let answer = asked.send().await.unwrap();
        let allowed = answer.headers().get("access-control-allow-origin");
        let allowed = allowed.map(|it| it.to_str().unwrap().to_owned());
        (answer.status().as_u16(), allowed)
    }
}

async fn serve(sites: &mut JoinSet<()>, site: Site) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    sites.spawn(site.serve(listener));
    address
}

fn page(path: &str) -> Response {
    let (kind, text) = match path {
        "/" => (
            "text/html",
            "<!doctype html><title>page</title><script src=dpop.js></script>\
             <script src=told.js></script>",
        ),
        "/dpop.js" => ("text/javascript", shown("js", "")),
        "/told.js" => ("text/javascript", TOLD),
        _ => return not_found(),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert("content-type", kind.parse().unwrap());
    response
}

fn configuration(files: &Path) -> Value {
    json!({
        "listen": {
            "ext_authz": format!("unix:{}", files.join("keybound.sock").display()),
            "admin": "127.0.0.1:0",
        },
        "issuers": [{
            "issuer": ISSUER, "audiences": [AUDIENCE],
            "keys": {"jwks_file": files.join("jwks.json")},
        }],
        "dpop": {"nonce": "required"},
        "policies": [
            {"name": "health", "match": {"path_prefix": "/healthz"}, "public": true},
            {
                "name": "preflights", "public": true,
                "match": {"path_prefix": "/open", "methods": ["OPTIONS"]},
            },
            {"name": "all", "sender_constraint": "dpop"},
        ],
        "limits": {"check_deadline": "900ms"},
    })
}

fn authorizer(way: Way, files: &Path) -> Value {
    match way {
        Way::Grpc | Way::Http => json!({
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "keybound"}, "timeout": "1s"},
                "encode_raw_headers": true,
            },
        }),
        Way::Inside(_) => json!({
            "name": "keybound",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
                "dynamic_module_config": {"name": "keybound_envoy", "do_not_close": true},
                "filter_name": "keybound",
                "filter_config": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": files.join("keybound.json"),
                },
            },
        }),
    }
}

fn bootstrap(authorizer: &Value, upstream: SocketAddr, origin: &str, files: &Path) -> String {
    let listeners: String = LISTENERS.iter().map(|it| it.listener(authorizer, origin)).collect();
    let cluster = |name: &str, address: Value, options: Value| {
        json!({
            "name": name, "type": "STATIC", "typed_extension_protocol_options": options,
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        })
    };
    let upstream = json!({"address": upstream.ip(), "port_value": upstream.port()});
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let keybound = json!({"pipe": {"path": files.join("keybound.sock")}});
    let clusters = json!([
        cluster("upstream", json!({ "socket_address": upstream }), json!({})),
        cluster("keybound", keybound, http2),
    ]);
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n\
         static_resources:\n  clusters: {clusters}\n  listeners:\n{listeners}"
    )
}

/// What a page sees of an answer.
fn seen(browser: &mut Browser, sent: &str) -> Value {
    browser.value(&format!("(async () => told({sent}))()"))
}

/// The page sees this denial, with its challenge.
#[track_caller]
fn is_denied(seen: &Value, denial: Denial) {
    let error = denial.error().unwrap().code();
    assert_eq!(seen["status"], denial.status(), "{seen}");
    assert_eq!((&seen["body"]["error"]), error, "{seen}");
    assert_eq!(seen["body"]["error_description"], denial.sentence(), "{seen}");
    let challenge = seen["challenge"].as_str().unwrap();
    assert!(challenge.contains(&format!("error=\"{error}\"")), "{seen}");
}

async fn a_page_calls_the_api(way: Way) {
    let world = World::start(way).await;
    let runtime = Handle::current();
    // A thread of its own, as it waits for the browser: the sites and the clients go on here.
    spawn_blocking(move || play(&world, &runtime)).await.unwrap();
}

fn play(world: &World, runtime: &Handle) {
    let page = format!("{}/", world.origin);
    let Some(mut page) = Browser::open(&page, (800, 600), "globalThis.isLoaded === true") else {
        return;
    };
    let browser = &mut page;
    let jkt = browser.value(
        "(async () => { globalThis.client = await Dpop.create(); return client.thumbprint(); })()",
    );
    let token = json!(world.token(&jkt));
    let url = json!(world.url("as-shown", PATH));

    // The nonce challenge can be read …
    let asked =
        seen(browser, &format!("once({url}, {token}, await client.proof('GET', {url}, {token}))"));
    is_denied(&asked, Denial::NonceRequired);
    assert!(asked["nonce"].is_string(), "{asked}");
    // … and answered.
    for options in
        ["{}", "{method: 'POST', body: '{}', headers: {'content-type': 'application/json'}}"]
    {
        let answer = seen(browser, &format!("client.fetch({url}, {token}, {options})"));
        assert_eq!(answer["status"], 200, "{answer}");
        assert_eq!(answer["body"]["headers"]["x-auth-subject"], json!(["alice"]), "{answer}");
    }

    // A proof is good once.
    browser.value(&format!(
        "client.proof('GET', {url}, {token}).then((it) => {{ globalThis.proof = it; }})"
    ));
    let again = format!("once({url}, {token}, proof)");
    assert_eq!(seen(browser, &again)["status"], 200);
    is_denied(&seen(browser, &again), Denial::ProofReplayed);

    // The token is worth nothing to who has not got the key, and nobody gets it.
    browser.value("Dpop.create().then((it) => { globalThis.thief = it; })");
    is_denied(&seen(browser, &format!("thief.fetch({url}, {token})")), Denial::ProofKeyMismatch);
    let as_bearer =
        format!("once({url}, {token}, await client.proof('GET', {url}, {token}), 'Bearer')");
    let as_bearer = seen(browser, &as_bearer);
    assert_eq!(as_bearer["body"]["error_description"], Denial::SchemeMismatch.sentence());
    assert_eq!(browser.value(KEPT), "InvalidAccessError");

    // Without exposure the page sees the refusal, and nothing that helps it.
    let unseen = json!(world.url("not-exposed", PATH));
    let unseen = seen(browser, &format!("client.fetch({unseen}, {token})"));
    assert_eq!(unseen["body"]["error"], "use_dpop_nonce", "{unseen}");
    assert_eq!((&unseen["nonce"], &unseen["challenge"]), (&Value::Null, &Value::Null));

    // Where keybound is asked first, preflights are denied, unless a policy lets them through. Then what
    // is denied cannot be seen.
    for (listener, path, preflight) in
        [("without", PATH, 401), ("behind", PATH, 401), ("behind", "/open/things", 200)]
    {
        let url = world.url(listener, path);
        let (status, allowed) = runtime.block_on(world.preflight(&url));
        let origin = (status == 200).then(|| world.origin.clone());
        assert_eq!((status, allowed), (preflight, origin), "{listener} {path}");
        let failed = seen(browser, &format!("client.fetch({}, {token})", json!(url)));
        assert_eq!(failed, json!({"failed": "TypeError"}), "{listener} {path}");
    }
    let url = json!(world.url("both", PATH));
    let answer = seen(browser, &format!("client.fetch({url}, {token})"));
    assert_eq!(answer["status"], 200, "{answer}");
}

/// Tries to get at the key that a client has made.
const KEPT: &str = "(async () => {
  const { subtle } = crypto;
  const real = subtle.generateKey.bind(subtle);
  let made;
  subtle.generateKey = async (...how) => (made = await real(...how));
  await Dpop.create();
  delete subtle.generateKey;
  return subtle.exportKey('jwk', made.privateKey).then(() => 'exported', (error) => error.name);
})()";

#[tokio::test]
async fn a_page_with_a_key_of_its_own_answers_a_nonce_challenge_and_nobody_else_can() {
    a_page_calls_the_api(Way::Grpc).await;
}

#[tokio::test]
async fn a_page_does_the_same_where_keybound_is_inside_envoy() {
    a_page_calls_the_api(Way::Inside("envoy")).await;
}
