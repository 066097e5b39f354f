#!/usr/bin/env python3
"""Clients of all kinds, for a long time, through Envoy: every other request by ext_authz, and the others by the
module. Meanwhile configurations, keys, certificates and listeners are replaced, and Redis and the issuer crash.

    make module && SOAK_MINUTES=60 SOAK_RATE=2000 tests/bench/soak.py

It fails when an answer is not what it must be just then, when something that was done had no effect, or when
memory, files or threads grow. It never fails because something was slow: the deadlines are far longer than an
operator's. With SOAK_DEADLINES=usual they are those of an operator who sets none.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from servers import PLACE, Workshop
from stage import Stage

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
RATE = float(os.environ.get("SOAK_RATE", "2000"))
USUAL = os.environ.get("SOAK_DEADLINES") == "usual"

# Seconds from one thing that is done to the next.
APART = 18
# Seconds from one look at the processes to the next.
LOOK = 5
# Connections of clients through each way.
CONNECTIONS = 24
WAYS = ("ext_authz", "module")

# What must have been answered, or what was done had no effect.
SEEN = (
    "Known: allowed", "New: allowed", "Proof: allowed", "Proof: replay_unavailable",
    "Replay: proof_replayed", "WrongCertificate: certificate_mismatch", "WrongKey: proof_key_mismatch",
    "Expired: token_expired", "Forged: token_signature_invalid", "NoToken: credentials_missing",
    "Former: allowed", "Former: token_key_unknown", "Stolen: allowed", "Stolen: token_key_unknown",
    "Revoked: token_revoked", "Stranger: token_key_unknown",
)

# By how much the median of the last quarter may exceed that of the second: the first is for filling caches.
GROWTH = {"MiB": lambda before: 0.1 * before + 8, "files": lambda _: 16, "threads": lambda _: 4}


def main():
    if MINUTES * 60 < APART * (len(Stage.TIMETABLE) + 1):
        sys.exit(f"SOAK_MINUTES: at least {APART * (len(Stage.TIMETABLE) + 1) / 60:.1f}")
    workshop = Workshop()
    folder = PLACE / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as started:
        load = started.enter_context(Load(workshop, folder))
        stage = Stage(workshop, folder, started, load.tell, USUAL)
        load.tell(" ".join(f"127.0.0.1:{stage.ports[it]}" for it in WAYS))
        done, looks = soak(stage)
        told = load.figures()
    wrong = report(told, done, looks) + stage.failures
    print("\n".join(f"WRONG: {it}" for it in wrong) or "nothing was wrong")
    sys.exit(bool(wrong))


class Load:
    """The clients, and what they are told."""

    def __init__(self, workshop, folder):
        command = [workshop.harness, "soak", folder, "--seconds", MINUTES * 60, "--rate", RATE,
                   "--connections", CONNECTIONS]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([str(it) for it in command], stdin=pipe, stdout=pipe, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("the clients do not start")

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def figures(self):
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def soak(stage):
    """Does all of the timetable again and again. How often each was done, and what the looks saw."""
    ends = time.monotonic() + MINUTES * 60
    done, looks, over = {}, [], threading.Event()
    watch = threading.Thread(target=look, args=(stage, looks, over))
    watch.start()
    for turn in range(int(MINUTES * 60 // APART) - 1):
        time.sleep(max(0, ends - MINUTES * 60 + (turn + 1) * APART - time.monotonic()))
        # The last of them has time to be seen.
        if ends < time.monotonic() + APART:
            break
        happens = stage.TIMETABLE[turn % len(stage.TIMETABLE)]
        happens(stage)
        done[happens.__name__] = done.get(happens.__name__, 0) + 1
    time.sleep(max(0, ends - time.monotonic()))
    over.set()
    watch.join()
    return done, looks


def look(stage, looks, over):
    while not over.wait(LOOK):
        looks.append({name: sizes(stage.servers[name]) for name in ("keybound", "envoy")})


def sizes(server):
    of = Path(f"/proc/{server.process.pid}")
    files, threads = (len(list((of / it).iterdir())) for it in ("fd", "task"))
    return {"MiB": server.resident(), "files": files, "threads": threads}


def report(told, done, looks):
    """Prints what was seen. What of it is wrong."""
    answers = by_way(told.pop("verdicts"))
    wrong = [f"{name.removeprefix('WRONG ')}: {first} and {second} times"
             for name, (first, second) in answers.items() if name.startswith("WRONG")]
    wrong += [f"{name}: never by {way}" for name in SEEN for place, way in enumerate(WAYS)
              if not answers.get(name, (0, 0))[place]]
    print(f"{MINUTES:g} minutes, {told['count']:,} answers, {told['rate']:.0f} a second of {RATE:.0f}, "
          f"p50 {told['p50']:,.0f} µs, p99 {told['p99']:,.0f} µs")
    print("".join(f"{it:>12}" for it in WAYS))
    for name, counts in sorted(answers.items()):
        print("".join(f"{it:>12,}" for it in counts) + f"  {name}")
    print(", ".join(f"{count} × {name}" for name, count in done.items()))
    for name in ("keybound", "envoy"):
        for what, more in GROWTH.items():
            quarters = [statistics.median(it[name][what] for it in part) for part in in_quarters(looks)]
            print(f"{name}, {what} in each quarter: " + ", ".join(f"{it:.0f}" for it in quarters))
            if quarters[1] + more(quarters[1]) < quarters[3]:
                wrong.append(f"{name} grows: {what}")
    figures = {"minutes": MINUTES, "asked": RATE, **told, "answers": answers, "done": done, "looks": looks}
    (PLACE / "soak.json").write_text(json.dumps(figures))
    return wrong


def by_way(verdicts):
    """How often each verdict came by the first way, and by the second."""
    answers = {}
    for verdict, count in verdicts.items():
        place, name = verdict.split(" ", 1)
        answers.setdefault(name, [0, 0])[int(place)] += count
    return answers


def in_quarters(looks):
    size = len(looks) // 4
    return [looks[it * size:(it + 1) * size] for it in range(4)]


if __name__ == "__main__":
    main()
