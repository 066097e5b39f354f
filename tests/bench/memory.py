"""What is kept in memory, and what it costs: verified tokens, used proofs, idle connections."""

import json
import subprocess
import sys
import time

from servers import PLACE, Server, pinned, ALONE

MANY = 1_000_000
# As many as the service keeps, and no more.
CONNECTIONS = 10_000

# More memory than a million tokens take, so that all are kept; and far less.
ROOM = "limits: {check_deadline: 60s, token_cache_entries: 2000000, token_cache_bytes: 2147483648}\n"
NO_ROOM = "limits: {check_deadline: 60s, token_cache_bytes: 33554432}\n"


def measure(workshop, share=1.0):
    """Bytes of resident memory: for each of a million, and of all in a flood."""
    many = int(MANY * share)
    tokens, all_kept = filled(workshop, "tokens", ROOM, many)
    _, flooded = filled(workshop, "tokens", NO_ROOM, many)
    proofs, _ = filled(workshop, "proofs", ROOM, many)
    connections, _ = idle(workshop, int(CONNECTIONS * share))
    return {
        "many": many, "connections": int(CONNECTIONS * share),
        "per token": tokens / many, "all tokens": all_kept, "flooded": flooded,
        "per proof": proofs / many, "per connection": connections / int(CONNECTIONS * share),
    }


def filled(workshop, what, limits, count):
    """How much a server grew when it was filled, and what it came to."""
    print(f"memory: {count:,} {what}", file=sys.stderr)
    with Filling(workshop, what, ["--count", count, "--connections", 4]) as filling:
        with Server(filling.service(limits)) as server:
            before = server.resident() * 2**20
            filling.tell(f"127.0.0.1:{server.port}")
            told = json.loads(filling.read())
            if told["errors"] or told["verdicts"] != {"ok": count}:
                sys.exit(f"{what}: wrong answers: {told}")
            after = server.resident() * 2**20
            return after - before, after


def idle(workshop, count):
    """How much a server grew by connections that have nothing to say."""
    print(f"memory: {count:,} connections", file=sys.stderr)
    with Filling(workshop, "connections", ["--connections", count]) as filling:
        with Server(filling.service(ROOM)) as server:
            before, sockets = server.resident() * 2**20, server.sockets()
            filling.tell(f"127.0.0.1:{server.port}")
            assert filling.read() == "open"
            hold(server, sockets + count)
            after = server.resident() * 2**20
            filling.end()
            return after - before, after


def hold(server, sockets):
    """Waits until the server has them open: what it refused costs nothing."""
    deadline = time.monotonic() + 30
    while (found := server.sockets()) < sockets:
        if deadline < time.monotonic():
            sys.exit(f"connections: the server has {found:,} sockets open, not {sockets:,}")
        time.sleep(0.05)
    # It has yet to answer the last of them.
    time.sleep(1)


class Filling:
    """The program that fills a server, and the keys that it made."""

    def __init__(self, workshop, what, more):
        self.folder, self.keybound = PLACE / "filling", workshop.keybound
        command = pinned(1, [workshop.harness, "fill", self.folder, "--with", what, *more])
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self.read() == "ready"

    def service(self, limits):
        def command(port):
            file = self.folder / "keybound.yaml"
            listen = f"listen: {{ext_authz: '127.0.0.1:{port}', admin: '127.0.0.1:0'}}\n"
            file.write_text(listen + (self.folder / "rules.yaml").read_text() + limits)
            return [self.keybound, "serve", "--config", file, *ALONE]
        return command

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self):
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
