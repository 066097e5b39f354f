#!/usr/bin/env python3
"""Writes src/envoy/MACHINE-RELEASE.profdata: what the compiler is told of how cached checks run inside Envoy.

    tests/bench/train.py        (once: rustup component add llvm-tools)

A cached check runs through some 200 functions once, and what it does not need of them lies between: a processor whose
cache is full of Envoy waits for each line of it. So a module that counts serves cached checks here, and the
compiler that knows the counts puts what they need together and the rest aside. It knows functions by names that differ from
release to release of Rust and from machine to machine: deploy/envoy-module/build.py takes the profile of its own, if there is
one. A function that has changed since is compiled as if there were none.

Nothing but speed depends on it. Renew it when the path of a check has changed, or Rust, and then src/envoy/order.ld.
"""

import subprocess
import sys
from pathlib import Path

from envoy import Envoy, dynamic_module
from module import TIMES, bring_all_tokens, configured
from proxy import must_refuse
from servers import PLACE, ROOT, Workshop

sys.path.insert(0, str(ROOT / "deploy/envoy-module"))
import build  # noqa: E402

COUNTS, SCRATCH = PLACE / "counts", PLACE / "trained.profdata"


def main():
    tool()
    workshop = Workshop()
    module = counting()
    configuration = configured(workshop)
    with Envoy(workshop, {"train": [dynamic_module(module, configuration)]}) as envoy:
        port = envoy.ports["train"]
        must_refuse(workshop, "train", port)
        bring_all_tokens(workshop, "train", port)
    checks = TIMES * len((workshop.corpus / "tokens.txt").read_text().splitlines())
    profile(checks, build.counts(build.platform.machine()))


def counting():
    """The module that counts."""
    for old in COUNTS.glob("*.profraw"):
        old.unlink()
    zig, machine = build.provisioned(), build.platform.machine()
    if not zig:
        sys.exit("without zig, with which modules are built, functions have other names")
    # As for a module that is kept, but zig cannot link what counts.
    flags = [f"-Cprofile-generate={COUNTS}", "-Clinker=cc"]
    return build.by_zig(zig, "module", machine, flags, PLACE / "train")


def profile(checks, file):
    """Writes what was counted of functions that run in each check: of others too little to go by."""
    merged("--sparse", "-o", SCRATCH, *COUNTS.glob("*.profraw"))
    head, functions = merged("--text", "-o", "-", SCRATCH).split(":ir\n")
    functions = [it for it in functions.strip().split("\n\n") if checks <= most(it)]
    text = SCRATCH.with_suffix(".txt")
    text.write_text(head + ":ir\n" + "\n\n".join(functions) + "\n")
    merged("-o", file, text)
    print(f"{len(functions)} functions of a check: {file}")


def most(function):
    """The largest of a function's counts."""
    _, counts = function.split("# Counter Values:\n")
    numbers = counts.split("\n#")[0].split()
    return max(map(int, numbers))


def merged(*arguments):
    """What `llvm-profdata merge` prints."""
    return subprocess.run([tool(), "merge", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def tool():
    """The `llvm-profdata` of this Rust."""
    libraries = subprocess.run(["rustc", "--print", "target-libdir"], stdout=subprocess.PIPE, text=True, check=True)
    program = Path(libraries.stdout.strip()).parent / "bin/llvm-profdata"
    if not program.exists():
        sys.exit(f"there is no {program}: rustup component add llvm-tools")
    return program


if __name__ == "__main__":
    main()
