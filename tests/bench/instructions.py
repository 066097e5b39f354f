#!/usr/bin/env python3
"""Counts the instructions of a check, and fails when they have become more.

    tests/bench/instructions.py [--renew]

Callgrind counts them, whatever else the machine is doing. Each figure is the difference of two
runs of the real server, one twice as long as the other, so that its start drops out. They are held
against instructions.json, which --renew writes. They depend on the compilers of Rust and C, on the
kind of machine and on Valgrind: where one of them is another, the figures are told and nothing fails.
"""

import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

from servers import PLACE, Issuer, Server, Workshop, can_pin, provisioned

BASELINE = Path(__file__).with_name("instructions.json")
# Of the baseline; what is nearer to it than this may be chance.
TOLERANCE = 0.05
# The most of a check that may go into what could revoke its token.
REVOCABLE = 0.03
COUNT = 2000

CASES = {
    "cached": ("keybound.yaml", "cached", "ok"),
    # Tokens that name a status list, which nobody looks at.
    "listed": ("keybound.yaml", "listed", "ok"),
    # The same, which a denylist, that list and events could revoke.
    "revocation": ("revoking.yaml", "listed", "ok"),
    "new": ("forgetful.yaml", "cached", "ok"),
    "dpop": ("keybound.yaml", "dpop", "ok"),
    # In a second there is a line for so many denials and no more: each has its line here.
    "denied": ("keybound.yaml", "wrong-certificate", "denied 401", "--rate", 400),
}


def main():
    if not can_pin():
        print("without two cores and taskset, what asks and what answers share what there is")
    # What asks need not be fast.
    workshop, valgrind = Workshop(harness_profile=(), issuer=Issuer()), provisioned("valgrind")
    found = {name: per_check(workshop, valgrind, *case) for name, case in CASES.items()}
    now = {"made by": made_by(valgrind), "instructions": found}
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


def made_by(valgrind):
    """What decides the figures besides the sources."""
    programs = {"rustc": "rustc", "cc": "cc", "valgrind": valgrind}
    return {"machine": platform.machine()} | {it: version(at) for it, at in programs.items()}


def version(program):
    """The last version in the first line: before it stands that of the distribution's package."""
    told = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True)
    return re.findall(r"\d+(?:\.\d+)+", told.stdout.splitlines()[0])[-1]


def verdict(baseline, now):
    """Nothing when all is well, else what to say at the end."""
    counted = now["instructions"]
    # Both are of this run, so that this counts whatever the baseline was made by.
    faults = revocable(counted["revocation"] / counted["listed"] - 1)
    worse = []
    for name, instructions in counted.items():
        before = baseline["instructions"].get(name)
        if before is None:
            print(f"{name:10} {instructions:>9,} instructions a check: none before, tests/bench/instructions.py --renew")
            continue
        ratio = instructions / before
        print(f"{name:10} {instructions:>9,} instructions a check, {ratio:.3f} of {before:,}")
        if ratio > 1 + TOLERANCE:
            worse.append(f"{name} takes {ratio - 1:.1%} more instructions than it did")
        elif ratio < 1 - TOLERANCE:
            print(f"{name} has become better: tests/bench/instructions.py --renew")
    if baseline["made by"] == now["made by"]:
        faults += worse
    else:
        print(f"not judged by the baseline: that is of {told(baseline)}, this is of {told(now)}")
    return "; ".join(faults) or None


def revocable(more):
    """What is wrong when so much more of a check goes into what could revoke its token."""
    told = f"a denylist, a status list and events take {more:.1%} of a check of a cached token"
    print(told)
    return [f"{told}, more than {REVOCABLE:.0%}"] if more > REVOCABLE else []


def told(figures):
    return ", ".join(f"{name} {value}" for name, value in figures["made by"].items())


if __name__ == "__main__":
    main()
