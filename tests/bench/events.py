#!/usr/bin/env python3
"""A flood of security events by push, while checks go on.

    tests/bench/events.py [COUNT]

In each of three rounds, COUNT (30,000) requests come on 64 connections: of ten, six are new events, two have come
before, one is forged, and one does not show the secret. Meanwhile another client asks for 1,000 checks a second.
The server has one core for all of it, and keeps its events in a file. It fails when an answer is wrong; when an
event is not in force, or not any more once the server was killed and started again; when the memory or the log
grows by more than the events are; and when the last round is slower than half the first.
"""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request

from servers import ALONE, PLACE, Server, Workshop, free_port, pinned

ROUNDS = 3
NEW, AGAIN, FORGED, STRANGE = 6, 2, 1, 1
# Bytes of memory of an event, with what a growing table reserves.
EACH = 300
# What the process has besides: buffers of connections.
SLACK = 32 * 2**20
# Lines of the log in a second, of all kinds.
LINES = 40


def main():
    count = int(sys.argv[1]) if sys.argv[1:] else 30_000
    assert count % 10 == 0
    workshop = Workshop()
    with Flood(workshop, count) as flood:
        with flood.server() as server:
            flood.measure(server)
            server.process.kill()
            server.process.wait()
        with flood.server() as server:
            flood.is_in_force(server, "after it was killed")


class Flood:
    """The program that floods a server, and what it is held to."""

    def __init__(self, workshop, count):
        self.workshop, self.count = workshop, count
        self.folder, self.events = PLACE / "flood", free_port()
        self.folder.mkdir(exist_ok=True)
        (self.folder / "kept").unlink(missing_ok=True)
        shape = ["--connections", 64, "--count", count]
        pipe = subprocess.PIPE
        command = pinned(1, [workshop.harness, "flood", self.folder, *shape])
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def server(self):
        def command(port):
            file = self.folder / "keybound.yaml"
            listen = f"ext_authz: '127.0.0.1:{port}', admin: '127.0.0.1:0', events: {{address: '127.0.0.1:{self.events}'}}"
            file.write_text(f"listen: {{{listen}}}\n" + (self.folder / "rules.yaml").read_text())
            return [self.workshop.keybound, "serve", "--config", file, *ALONE]
        return Server(command)

    def measure(self, server):
        self.checks(server, 1)
        before = server.resident()
        quiet = self.checks(server, 5)
        rates = []
        for turn in range(ROUNDS):
            lines, began = self.lines(server), time.monotonic()
            flooded, told = self.with_checks(server)
            seconds, lines = time.monotonic() - began, self.lines(server) - lines
            self.judge(told)
            rates.append(told["rate"])
            print(f"round {turn + 1}: {told['rate']:,.0f} requests a second, answered in {told['p50'] / 1e3:.1f} ms "
                  f"(p99 {told['p99'] / 1e3:.1f} ms); {lines} lines in {seconds:.1f} s")
            for name in ("p50", "p99"):
                print(f"  checks, {name}: {flooded[name]:,.0f} µs, {flooded[name] / quiet[name]:.2f} × "
                      f"{quiet[name]:,.0f} µs without")
            if LINES * (seconds + 1) < lines:
                sys.exit(f"{lines} lines in {seconds:.1f} s")
        self.is_in_force(server, "in force")
        grown = (server.resident() - before) * 2**20
        print(f"memory: {grown / self.kept():.0f} bytes for each of {self.kept():,} events")
        if EACH * self.kept() + SLACK < grown:
            sys.exit(f"it grew by {grown / 2**20:.0f} MiB")
        if rates[-1] < rates[0] / 2:
            sys.exit("the more are kept, the slower it is")

    def with_checks(self, server):
        """The figures of checks while one round of the flood is under way, and those of the flood."""
        told = {}

        def read():
            told.update(json.loads(self.process.stdout.readline()))
        reading = threading.Thread(target=read)
        reading.start()
        self.process.stdin.write(f"127.0.0.1:{self.events}\n")
        self.process.stdin.flush()
        checks = self.checks(server, self.count / 6000)
        reading.join()
        return checks, told

    def judge(self, told):
        """Whether each request had its answer."""
        of_ten = {"new 202": NEW, "again 202": AGAIN, "forged 400": FORGED, "unauthenticated 401": STRANGE}
        expected = {name: self.count // 10 * it for name, it in of_ten.items()}
        if told["errors"] or told["verdicts"] != expected:
            sys.exit(f"wrong answers: {told}")

    def checks(self, server, seconds):
        """The figures of checks of tokens that no event is about."""
        shape = ["--connections", 4, "--in-flight", 4, "--rate", 1000, "--seconds", seconds, "--warm", 0.3]
        return self.asked(server, "good", "ok", shape)

    def asked(self, server, file, verdict, shape):
        command = [self.workshop.harness, "load", "--to", f"127.0.0.1:{server.port}",
                   "--file", self.folder / f"{file}.grpc", "--pid", server.process.pid, *shape]
        told = json.loads(subprocess.run(
            pinned(1, command), stdout=subprocess.PIPE, text=True, check=True).stdout)
        if told["errors"] or list(told["verdicts"]) != [verdict]:
            sys.exit(f"{file}: wrong answers: {told}")
        return told

    def kept(self):
        return ROUNDS * self.count * NEW // 10

    def is_in_force(self, server, when):
        self.asked(server, "revoked", "denied 401", ["--count", 1000])
        entries = self.metric(server, "keybound_events_entries")
        print(f"{entries:,} events {when}")
        if entries != self.kept():
            sys.exit(f"not {self.kept():,}")

    def metric(self, server, name):
        admin = next(it["admin"] for it in self.log(server) if it.get("message") == "listening")
        with urllib.request.urlopen(f"http://{admin}/metrics") as page:
            text = page.read().decode()
        return int(re.search(rf"^{name}{{.*}} (\d+)$", text, re.MULTILINE)[1])

    def log(self, server):
        return map(json.loads, server.log.read_text().splitlines())

    def lines(self, server):
        return len(server.log.read_text().splitlines())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main()
