#!/usr/bin/env python3
"""Knows how many instructions a check takes, and fails when it has become more.

    tests/bench/instructions.py [--renew]

Callgrind counts them, whatever else the machine is doing. Each figure is the difference of two
runs of the real server, one twice as long as the other, so that its start drops out. They are held
against instructions.json, which --renew writes. Compilers differ: under another one, or on other
hardware, the figures are told and nothing fails.
"""

import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

from servers import PLACE, Server, Workshop, provisioned

BASELINE = Path(__file__).with_name("instructions.json")
# Of the baseline; what is nearer to it than this may be chance.
TOLERANCE = 0.05
COUNT = 2000

CASES = {
    "cached": ("keybound.yaml", "cached", "ok"),
    "new": ("forgetful.yaml", "cached", "ok"),
    "dpop": ("keybound.yaml", "dpop", "ok"),
    # In a second there is a line for so many denials and no more: each has its line here.
    "denied": ("keybound.yaml", "wrong-certificate", "denied 401", "--rate", 400),
}


def main():
    PLACE.mkdir(parents=True, exist_ok=True)
    # What asks need not be fast.
    workshop, valgrind = Workshop(harness_profile=()), provisioned("valgrind")
    found = {name: per_check(workshop, valgrind, *case) for name, case in CASES.items()}
    now = {"compiler": compiler(), "instructions": found}
    if "--renew" in sys.argv[1:]:
        BASELINE.write_text(json.dumps(now, indent=1) + "\n")
        return
    sys.exit(verdict(json.loads(BASELINE.read_text()), now))


def per_check(workshop, valgrind, file, corpus, verdict, *pace):
    workshop.renew()
    counts = (COUNT, 2 * COUNT)
    short, long = (total(workshop, valgrind, file, corpus, verdict, pace, it) for it in counts)
    return round((long - short) / COUNT)


def total(workshop, valgrind, file, corpus, verdict, pace, count):
    """The instructions of one run of the server. All tokens are seen once before `count` begins."""
    log = PLACE / "callgrind.log"
    service = workshop.service(file)

    def command(port):
        return [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}",
                *service(port)]

    with Server(command) as server:
        # One at a time would count the kernel's batches, which are a matter of chance.
        shape = ["--connections", 1, "--in-flight", 8, "--count", 2000 + count, *pace]
        workshop.load(server, corpus, verdict, shape)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
    return int(re.search(r"Collected : (\d+)", log.read_text())[1])


def compiler():
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    return f"{rustc.stdout.split()[1]} {platform.machine()}"


def verdict(baseline, now):
    """Nothing when all is well, else what to say at the end."""
    same = baseline["compiler"] == now["compiler"]
    worse = []
    for name, instructions in now["instructions"].items():
        before = baseline["instructions"][name]
        ratio = instructions / before
        print(f"{name:8} {instructions:>9,} instructions a check, {ratio:.3f} of {before:,}")
        if ratio > 1 + TOLERANCE:
            worse.append(f"{name} takes {ratio - 1:.1%} more instructions than it did")
        elif ratio < 1 - TOLERANCE:
            print(f"{name} has become better: tests/bench/instructions.py --renew")
    if worse and not same:
        print(f"not judged: the baseline is of {baseline['compiler']}, this is {now['compiler']}")
        return None
    return "; ".join(worse) or None


if __name__ == "__main__":
    main()
