//! Images and containers without an engine or a registry: buildah makes them, runc runs them.

use crate::program::provisioned;
use crate::{is_there, succeeds};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

/// Whatever hangs, the test does not.
const LONG: Duration = Duration::from_secs(60);

/// What makes and runs them, with a storage of its own.
pub(crate) struct Workshop {
    buildah: PathBuf,
    runc: PathBuf,
    folder: TempDir,
}

/// An image, in the layout of OCI.
pub(crate) struct Image {
    /// That of its manifest.
    pub(crate) digest: String,
    /// Bytes of its layers, compressed.
    pub(crate) size: u64,
    /// Its user, its entry point and so on.
    pub(crate) config: Value,
    layers: Vec<PathBuf>,
}

/// What a container sees of the machine's files.
pub(crate) struct Mount<'p> {
    pub(crate) from: &'p Path,
    pub(crate) at: &'static str,
    pub(crate) writable: bool,
}

/// A container that runs. It ends with this.
pub(crate) struct Container<'w> {
    workshop: &'w Workshop,
    name: &'static str,
    process: Child,
    log: PathBuf,
}

impl Workshop {
    /// None where it cannot be had, and a line that says why.
    pub(crate) fn open() -> Option<Self> {
        let may =
            Command::new("unshare").args(["--mount", "--pid", "--fork", "--net", "true"]).output();
        if !may.is_ok_and(|it| it.status.success()) {
            crate::skipped("the image by buildah and runc, which may make no namespaces here");
            return None;
        }
        let (buildah, runc) = (provisioned("buildah")?, provisioned("runc")?);
        let readable = [&buildah, &runc].map(|it| it.to_str().unwrap().to_owned());
        if !readable.iter().all(|it| is_there(it, "--version", "the image by buildah and runc")) {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir_all(folder.path().join(".config/containers")).unwrap();
        file(
            ".config/containers/policy.json",
            r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
        );
        file("registries.conf", "");
        let at = folder.path().display();
        let storage = format!("driver = 'vfs'\nrunroot = '{at}/run'\ngraphroot = '{at}/graph'\n");
        file("storage.conf", &format!("[storage]\n{storage}"));
        Some(Self { buildah, runc, folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `program`, with the storage of the workshop.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.folder.path()).env("BUILDAH", &self.buildah);
        command.env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"));
        command.env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"));
        command
    }

    /// `buildah`, which never asks a registry.
    pub(crate) fn build(&self, name: &str, options: &[&str]) {
        let mut build = self.command(&self.buildah);
        build.args([
            "bud",
            "--isolation",
            "chroot",
            "--pull-never",
            "--no-cache",
            "--timestamp",
            "0",
        ]);
        succeeds(build.args(["--tag", name]).args(options));
    }

    /// The image that was built under `name`.
    pub(crate) fn image(&self, name: &str) -> Image {
        let layout = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let to = format!("oci:{}:it", layout.display());
        succeeds(self.command(&self.buildah).args(["push", "--quiet", name, &to]));
        let digest = digest_in(&layout);
        Image::read(&layout, digest)
    }

    /// What `.ci/release images` makes of `built`: under each name an image for each architecture.
    pub(crate) fn released(&self, built: &Path) -> Vec<(String, Vec<Image>)> {
        let out = self.path("released");
        let mut release = self.command(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/release"));
        let told = succeeds(release.arg("images").arg(built).arg(&out)).stdout;
        let told = String::from_utf8(told).unwrap();
        let images = told.lines().map(|line| {
            let (name, digest) = line.split_once(' ').unwrap();
            (name.to_owned(), Image::list(&out.join(name), digest))
        });
        images.collect()
    }

    /// Runs `image` until it ends by itself, with `arguments` in place of its own, and returns its output.
    pub(crate) fn run(&self, image: &Image, mounts: &[Mount<'_>], arguments: &[&str]) -> String {
        let bundle = self.bundle(image, mounts, Some(arguments));
        let output = succeeds(self.runc(&["run", "--bundle"]).arg(bundle).arg("once"));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `image` as it is meant to be.
    pub(crate) fn start(
        &self,
        name: &'static str,
        image: &Image,
        mounts: &[Mount<'_>],
        arguments: Option<&[&str]>,
    ) -> Container<'_> {
        let bundle = self.bundle(image, mounts, arguments);
        let log = bundle.join("log");
        let file = fs::File::create(&log).unwrap();
        let mut run = self.runc(&["run", "--bundle"]);
        run.arg(bundle).arg(name).stdin(Stdio::null());
        run.stdout(file.try_clone().unwrap()).stderr(file);
        let process = tokio::process::Command::from(run).kill_on_drop(true).spawn().unwrap();
        Container { workshop: self, name, process, log }
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut runc = self.command(&self.runc);
        runc.arg("--root").arg(self.path("containers")).args(arguments);
        runc
    }

    /// The image unpacked, with what a cautious engine allows: a root that cannot be written, no
    /// capability, no new ones, no network but its own loopback.
    fn bundle(&self, image: &Image, mounts: &[Mount<'_>], arguments: Option<&[&str]>) -> PathBuf {
        let bundle = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        image.unpack(&bundle.join("rootfs"));
        let config = &image.config;
        let user = config["User"].as_str().unwrap();
        let (uid, gid) = user.split_once(':').unwrap();
        let list = |it: &Value| it.as_array().cloned().unwrap_or_default();
        let arguments = arguments.map_or_else(|| list(&config["Cmd"]), |it| list(&json!(it)));
        let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|it| json!({"type": it}));
        let system = [
            ("/proc", "proc", json!([])),
            ("/dev", "tmpfs", json!(["nosuid", "mode=755", "size=64k"])),
            ("/dev/shm", "tmpfs", json!(["nosuid", "noexec", "nodev", "mode=1777", "size=64m"])),
        ];
        let system = system.map(|(at, kind, options)| {
            json!({"destination": at, "type": kind, "source": kind, "options": options})
        });
        let mounts: Vec<_> = system.into_iter().chain(mounts.iter().map(Mount::for_runc)).collect();
        let command = [list(&config["Entrypoint"]), arguments].concat();
        let specification = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": uid.parse::<u32>().unwrap(), "gid": gid.parse::<u32>().unwrap()},
                "args": command,
                "env": config["Env"],
                "cwd": "/",
                "capabilities": {},
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": mounts,
            "linux": {"namespaces": namespaces},
        });
        fs::write(bundle.join("config.json"), specification.to_string()).unwrap();
        bundle
    }
}

impl Mount<'_> {
    fn for_runc(&self) -> Value {
        let may = if self.writable { "rw" } else { "ro" };
        json!({"destination": self.at, "source": self.from, "options": ["bind", may]})
    }
}

impl Image {
    fn read(layout: &Path, digest: String) -> Self {
        let json = |digest: &str| -> Value {
            serde_json::from_slice(&fs::read(blob(layout, digest)).unwrap()).unwrap()
        };
        let manifest = json(&digest);
        let config = json(manifest["config"]["digest"].as_str().unwrap());
        let layers = manifest["layers"].as_array().unwrap();
        let size = layers.iter().map(|it| it["size"].as_u64().unwrap()).sum();
        let layers = layers.iter().map(|it| blob(layout, it["digest"].as_str().unwrap())).collect();
        let mut settings = config["config"].clone();
        settings["architecture"] = config["architecture"].clone();
        Self { digest, size, config: settings, layers }
    }

    /// Those of the list `digest`, which must be all that `layout` has.
    fn list(layout: &Path, digest: &str) -> Vec<Self> {
        assert_eq!(digest, digest_in(layout));
        let index = fs::read(blob(layout, digest)).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let digests = index["manifests"].as_array().unwrap().iter();
        digests.map(|it| Self::read(layout, it["digest"].as_str().unwrap().to_owned())).collect()
    }

    /// Lays its files into `folder`.
    pub(crate) fn unpack(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for layer in &self.layers {
            succeeds(Command::new("tar").arg("-xzf").arg(layer).arg("-C").arg(folder));
        }
    }

    /// The names of its files.
    pub(crate) fn files(&self) -> Vec<String> {
        let list = |it| succeeds(Command::new("tar").arg("-tzf").arg(it)).stdout;
        let list = self.layers.iter().map(|it| String::from_utf8(list(it)).unwrap());
        let lines = list.collect::<String>();
        lines.lines().filter(|it| !it.ends_with('/')).map(str::to_owned).collect()
    }
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// The digest of the one image, or list of images, in `layout`.
fn digest_in(layout: &Path) -> String {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

impl Container<'_> {
    /// What the result of `look` is, as soon as there is one. The container must not end before.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let ended = self.process.try_wait().unwrap();
            assert_eq!(ended, None, "{}", self.log());
            assert!(began.elapsed() < LONG, "not {what} within {LONG:?}: {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether `arguments` succeed inside it.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> bool {
        let mut exec = self.workshop.runc(&["exec", self.name]);
        exec.args(arguments).output().unwrap().status.success()
    }

    /// What the system says of its first process, by name.
    pub(crate) fn status(&self, name: &str) -> String {
        let state = succeeds(&mut self.workshop.runc(&["state", self.name])).stdout;
        let state: Value = serde_json::from_slice(&state).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", state["pid"])).unwrap();
        let mut lines = status.lines().filter_map(|it| it.split_once(':'));
        lines.find(|(it, _)| *it == name).unwrap().1.trim().to_owned()
    }

    /// Ends it as an engine does, and returns its exit status.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        succeeds(&mut self.workshop.runc(&["kill", self.name, "TERM"]));
        let ended = timeout(LONG, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("SIGTERM: {}", self.log())).unwrap().code()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // An error means that it is gone already.
        drop(self.workshop.runc(&["delete", "--force", self.name]).output());
    }
}
