//! The images, built from our own recipes and run as a cautious engine would.

use crate::container::static_program;
use crate::tokens::Signer;
use crate::workshop::{Container, Image, Mount, Workshop};
use crate::{deploy, skipped};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes that the image of a released program may take, compressed.
const LARGEST: u64 = 10_000_000;
/// The same with a program for tests, which has all its symbols.
const LARGEST_FOR_TESTS: u64 = 40_000_000;

/// The image's user.
const NOBODY: u32 = 65532;

/// What the stage `build` would leave: the program, and the authorities.
fn built(workshop: &Workshop, program: &Path) -> PathBuf {
    let folder = workshop.path("build");
    fs::create_dir_all(folder.join("etc/ssl/certs")).unwrap();
    fs::copy(program, folder.join("keybound")).unwrap();
    fs::write(folder.join("etc/ssl/certs/ca-certificates.crt"), "authorities").unwrap();
    folder
}

/// Builds and runs the image of `released`, or of a program for tests.
pub(crate) async fn is_built_and_runs(workshop: &Workshop, released: Option<&Path>) {
    let program = released.map_or_else(static_program, Path::to_owned);
    let context = format!("build={}", built(workshop, &program).display());
    let recipe = deploy("container/Containerfile");
    let root = env!("CARGO_MANIFEST_DIR");
    let options = ["--build-context", &context, "--file", recipe.to_str().unwrap(), root];
    for name in ["keybound:once", "keybound:again"] {
        workshop.build(name, &options);
    }
    let image = workshop.image("keybound:once");
    assert_eq!(workshop.image("keybound:again").digest, image.digest);
    holds_the_program_alone(&image, if released.is_some() { LARGEST } else { LARGEST_FOR_TESTS });

    let files = tempfile::tempdir().unwrap();
    let etc = files.path().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("keybound.yaml"), CONFIGURATION).unwrap();
    fs::write(etc.join("jwks.json"), keys()).unwrap();
    let run = owned_by_nobody(files.path().join("run"));
    let etc = Mount { from: &etc, at: "/etc/keybound", writable: false };
    let checked = workshop.run(&image, &[etc], &["check-config", "/etc/keybound/keybound.yaml"]);
    assert!(checked.contains("unix:/run/keybound/ext_authz.sock"), "{checked}");
    let etc = Mount { from: &files.path().join("etc"), at: "/etc/keybound", writable: false };
    let run = Mount { from: &run, at: "/run/keybound", writable: true };
    let mut service = workshop.start("service", &image, &[etc, run], None);
    serves_as_nobody(&mut service).await;
    are_released(workshop, &program, &image);
}

/// What the release makes of the files that are built: here of the same ones for each architecture.
fn are_released(workshop: &Workshop, program: &Path, alone: &Image) {
    let built = workshop.path("built");
    for architecture in ["amd64", "arm64"] {
        let folder = built.join(format!("built-{architecture}"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(program, folder.join("keybound")).unwrap();
        fs::write(folder.join("libkeybound_envoy.so"), architecture).unwrap();
    }
    let images = workshop.released(&built);
    let names: Vec<_> = images.iter().map(|it| &*it.0).collect();
    assert_eq!(names, ["keybound", "keybound-module"]);
    for (name, images) in &images {
        let found: Vec<_> = images.iter().map(|it| it.config["architecture"].as_str()).collect();
        assert_eq!(found, [Some("amd64"), Some("arm64")], "{name}");
    }
    for (program, module) in images[0].1.iter().zip(&images[1].1) {
        assert_eq!(program.config["User"], alone.config["User"]);
        assert_eq!(program.files(), alone.files());
        assert_eq!(module.files(), ["libkeybound_envoy.so"]);
        let root = tempfile::tempdir().unwrap();
        module.unpack(root.path());
        let text = fs::read_to_string(root.path().join("libkeybound_envoy.so")).unwrap();
        assert_eq!(module.config["architecture"], text);
    }
}

fn holds_the_program_alone(image: &Image, largest: u64) {
    let mut files = image.files();
    files.sort_unstable();
    assert_eq!(files, ["etc/ssl/certs/ca-certificates.crt", "keybound"]);
    let config = &image.config;
    assert_eq!(config["User"], format!("{NOBODY}:{NOBODY}"));
    assert_eq!(config["Entrypoint"], json!(["/keybound"]));
    assert_eq!(config["Cmd"], json!(["serve", "--config", "/etc/keybound/keybound.yaml"]));
    tell(&format!("the image {} has {} bytes, compressed", image.digest, image.size));
    assert!(image.size < largest, "{} bytes, of {largest}", image.size);
}

async fn serves_as_nobody(service: &mut Container<'_>) {
    let healthcheck = ["/keybound", "healthcheck"];
    service.until("ready", |it| it.succeeds(&healthcheck).then_some(())).await;
    assert!(service.succeeds(&["/keybound", "healthcheck", "--live"]));
    // It is the health that is told, and not that the program runs.
    assert!(!service.succeeds(&["/keybound", "healthcheck", "--address", "127.0.0.1:9004"]));
    for (name, expected) in [
        ("Uid", "65532\t65532\t65532\t65532"),
        ("Gid", "65532\t65532\t65532\t65532"),
        ("Groups", ""),
        ("CapPrm", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(service.status(name), expected, "{name}");
    }
    assert_eq!(service.stop().await, Some(0), "{}", service.log());
    assert!(service.log().contains("\"drained\""), "{}", service.log());
}

/// Builds the image of the module, and Envoy's with it on an image that stands in for Envoy's own.
#[tokio::test]
async fn an_envoy_with_the_module_in_its_image_checks_requests() {
    let module = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("module");
    if std::env::var_os("KEYBOUND_TEST_CONTAINER").is_none() {
        return skipped("the module's image: set KEYBOUND_TEST_CONTAINER");
    } else if !module.join("libkeybound_envoy.so").exists() {
        return skipped("the module's image, for there is no module: make module");
    }
    let Some(workshop) = Workshop::open() else { return };
    // Everything else that is built there is not asked for.
    let context = workshop.path("module");
    fs::create_dir(&context).unwrap();
    let file = "libkeybound_envoy.so";
    fs::copy(module.join(file), context.join(file)).unwrap();
    let context = context.to_str().unwrap();
    let recipe = deploy("envoy-module/Containerfile");
    let recipe = recipe.to_str().unwrap();

    workshop.build("module", &["--target", "module", "--file", recipe, context]);
    let image = workshop.image("module");
    assert_eq!(image.files(), [file]);
    tell(&format!("the module's image has {} bytes, compressed", image.size));
    assert!(image.size < LARGEST, "{} bytes, of {LARGEST}", image.size);

    stand_in(&workshop, recipe);
    workshop.build("envoy-keybound", &["--file", recipe, context]);
    let image = workshop.image("envoy-keybound");
    let found = image.files();
    assert!(found.contains(&format!("usr/local/lib/envoy/{file}")), "{found:?}");
    let files = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("envoy.json", envoy().to_string()),
        ("keybound.yaml", INSIDE.to_owned()),
        ("jwks.json", keys()),
    ] {
        fs::write(files.path().join(name), text).unwrap();
    }
    let run = owned_by_nobody(files.path().join("run"));
    let etc = Mount { from: files.path(), at: "/etc/envoy", writable: false };
    let mount = Mount { from: &run, at: "/run/envoy", writable: true };
    let arguments = ["-c", "/etc/envoy/envoy.json", "--concurrency", "1"];
    let mut envoy = workshop.start("envoy", &image, &[etc, mount], Some(&arguments));
    let socket = run.join("http");
    let answer = envoy.until("answering", |_| ask(&socket).ok()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}\n{}", envoy.log());
    assert!(answer.contains("www-authenticate: DPoP"), "{answer}");
    assert_eq!(envoy.stop().await, Some(0), "{}", envoy.log());
}

/// An image under the name of that which the recipe begins with: the same program, and what it needs of the machine.
fn stand_in(workshop: &Workshop, recipe: &str) {
    let text = fs::read_to_string(recipe).unwrap();
    let version = text.lines().find_map(|it| it.strip_prefix("ARG ENVOY=")).unwrap();
    let program = crate::programs::provisioned("envoy");
    let root = workshop.path("stand-in");
    let place = |from: &Path, at: &Path| {
        let at = root.join(at.strip_prefix("/").unwrap());
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::copy(from, at).unwrap();
    };
    place(&program, Path::new("/usr/local/bin/envoy"));
    let needed = crate::succeeds(Command::new("ldd").arg(&program)).stdout;
    for library in String::from_utf8(needed).unwrap().split_whitespace() {
        if library.starts_with('/') {
            place(Path::new(library), Path::new(library));
        }
    }
    let recipe = workshop.path("stand-in.Containerfile");
    let lines = format!(
        "FROM scratch\nCOPY . /\nUSER {NOBODY}:{NOBODY}\nENTRYPOINT [\"/usr/local/bin/envoy\"]\n"
    );
    fs::write(&recipe, lines).unwrap();
    let name = format!("docker.io/envoyproxy/envoy:{version}");
    workshop.build(&name, &["--file", recipe.to_str().unwrap(), root.to_str().unwrap()]);
}

/// A plain request, and the answer to it.
fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    // Until the keys are there, it is another one.
    if answer.contains(" 503 ") { Err(io::ErrorKind::NotConnected.into()) } else { Ok(answer) }
}

fn owned_by_nobody(folder: PathBuf) -> PathBuf {
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    // Below what is its owner's alone, nobody would find it.
    let parent = folder.parent().unwrap();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn keys() -> String {
    json!({"keys": [Signer::new(Algorithm::ES256, "test").jwk()]}).to_string()
}

fn tell(what: &str) {
    // Not by a print macro: the harness would swallow the line.
    io::stderr().write_all(format!("{what}\n").as_bytes()).unwrap();
}

/// The program that is to be in the image, if that is one which is there already.
pub(crate) fn released(wanted: &OsStr) -> Option<PathBuf> {
    (wanted != "yes").then(|| PathBuf::from(wanted))
}

const CONFIGURATION: &str = "\
listen: {ext_authz: 'unix:/run/keybound/ext_authz.sock'}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    keys: {jwks_file: /etc/keybound/jwks.json}
policies:
  - name: api
    sender_constraint: certificate
";

const INSIDE: &str = "\
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    keys: {jwks_file: /etc/envoy/jwks.json}
policies:
  - name: api
    origin: https://api.example.com
    sender_constraint: dpop
";

/// A listener with the module, and nothing behind it.
fn envoy() -> Value {
    let kind = |it: &str| format!("type.googleapis.com/{it}");
    let filters = "envoy.extensions.filters.http";
    let module = json!({
        "@type": kind(&format!("{filters}.dynamic_modules.v3.DynamicModuleFilter")),
        "dynamic_module_config": {"name": "keybound_envoy", "do_not_close": true},
        "filter_name": "keybound",
        "filter_config": {
            "@type": kind("google.protobuf.StringValue"), "value": "/etc/envoy/keybound.yaml",
        },
    });
    let router = json!({"@type": kind(&format!("{filters}.router.v3.Router"))});
    let hosts = json!([{
        "name": "api", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
    }]);
    let manager =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let manager = json!({
        "@type": kind(manager),
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [
            {"name": "keybound", "typed_config": module},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    });
    json!({"static_resources": {"listeners": [{
        "name": "http",
        "address": {"pipe": {"path": "/run/envoy/http", "mode": 0o666}},
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}],
    }]}})
}
