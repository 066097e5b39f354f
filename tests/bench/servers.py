"""Builds, starts, loads and ends the programs of a benchmark: what serves on
one core, what loads on another."""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Of a thousand requests, ten make a p99, and what disturbs one moment decides it. So where it is told
# how long requests take at a steady rate, a round takes so many times as long.
LONGER = 3

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PLACE = TARGET / "bench"

# The service in one process per core, and that is what is measured.
ALONE = ["--shards", "1", "--drain-delay", "0s", "--drain-deadline", "1s"]


def build(kind, name, *profile):
    """The program of this name. It is built by itself: beside tests it would have their features."""
    command = ["cargo", "build", "--locked", f"--{kind}", name, *profile, "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    told = map(json.loads, built.stdout.splitlines())
    (program,) = (it["executable"] for it in told
                  if it.get("executable") and it["target"]["name"] == name)
    return program


def provisioned(name):
    script = ROOT / "tests" / "provision.py"
    told = subprocess.run([script, name], stdout=subprocess.PIPE, text=True, check=True)
    return told.stdout.strip()


class Workshop:
    """The programs, and what is asked. There is one at a time, for it has a place to itself."""

    def __init__(self, harness_profile=("--release",), issuer=None):
        allow_many_files()
        PLACE.mkdir(parents=True, exist_ok=True)
        self.lock = open(PLACE / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.keybound = build("bin", "keybound", "--release")
        self.harness = build("bench", "harness", *harness_profile)
        self.corpus = PLACE / "corpus"
        self.served_at = ["--served-at", issuer.url(self.corpus)] if issuer else []
        self.renew()

    def renew(self):
        """Proofs are good for minutes."""
        shutil.rmtree(self.corpus, ignore_errors=True)
        subprocess.run([self.harness, "corpus", self.corpus, *self.served_at], check=True)

    def noop(self, decode):
        """The command of a server that answers OK to everything."""
        return lambda port: [self.harness, "noop", "--listen", f"127.0.0.1:{port}", "--decode", decode]

    def service(self, file="keybound.yaml", http=None):
        """The command of the service, as an operator runs it, on one core."""
        def command(port):
            configuration = self.corpus / f"{port}.yaml"
            listen = f"ext_authz: '127.0.0.1:{port}', admin: '127.0.0.1:0'"
            if http:
                listen += f", forward_auth: '127.0.0.1:{http}'"
            configuration.write_text(f"listen: {{{listen}}}\n" + (self.corpus / file).read_text())
            return [self.keybound, "serve", "--config", configuration, *ALONE]
        return command

    def load(self, server, corpus, verdict, more):
        """The figures of `server` under load."""
        return figures(corpus, verdict, ran(self.asking(server, corpus, more)))

    def asking(self, server, corpus, more):
        file = self.corpus / f"{corpus}.grpc"
        return [self.harness, "load", "--to", f"127.0.0.1:{server.port}", "--file", file,
                "--pid", server.process.pid, *more]


class Issuer(ThreadingHTTPServer):
    """Serves the files of a folder, and has no events to tell of."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=given[-1].folder)

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"sets": {}}')

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Issuer.Handler)
        self.folder = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, folder):
        """Where `folder` is served from now on."""
        self.folder = folder
        return f"http://127.0.0.1:{self.server_port}"


def ran(command):
    """What a program that loads printed."""
    command = pinned(1, command)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def figures(name, verdict, printed):
    told = json.loads(printed)
    if told["errors"] or list(told["verdicts"]) != [verdict]:
        sys.exit(f"{name}: wrong answers: {told}")
    return {key: told[key] for key in ("rate", "p50", "p99", "cpu", "cpu_of_each")}


class Server:
    """A server on a core and a port of its own, from its start to its end; where `core` is None, on any core."""

    def __init__(self, command, port=None, core=0):
        self.port = port or free_port()
        command = command(self.port)
        self.log = PLACE / f"server-{self.port}.log"
        with open(self.log, "w") as out:
            began = time.monotonic()
            self.process = subprocess.Popen(pinned(core, command), stdout=out, stderr=out)
        while self.process.poll() is None and time.monotonic() < began + 60:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.0005)
        else:
            self.process.kill()
            self.process.wait()
            sys.exit(f"{command[0]} does not listen:\n{self.log.read_text()}")
        self.start = (time.monotonic() - began) * 1e3
        time.sleep(0.2)

    def resident(self):
        """Mebibytes of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def sockets(self):
        """How many it has open."""
        files = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return sum(kind(it).startswith("socket:") for it in files)

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if failure is None:
            self.log.unlink()


def kind(file):
    """What a file of a process is; nothing when it is closed already."""
    try:
        return os.readlink(file)
    except FileNotFoundError:
        return ""


def in_turn(everybody, turn):
    """All of them, in the order of this round. Another is first each time, and every other round goes
    backwards, so that nobody always comes after the same."""
    place = turn % len(everybody)
    order = everybody[place:] + everybody[:place]
    return order[::-1] if turn % 2 else order


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def allow_many_files():
    """As many connections as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def can_pin():
    return len(os.sched_getaffinity(0)) >= 2 and shutil.which("taskset") is not None


def pinned(place, command):
    """The command on the first or the second core that we may use, or where `place` is None on any."""
    command = [str(it) for it in command]
    if place is None or not can_pin():
        return command
    core = sorted(os.sched_getaffinity(0))[place]
    return ["taskset", "-c", str(core), *command]
