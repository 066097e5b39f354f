#!/usr/bin/env python3
"""Builds for arm64 on a machine of another kind what is released, and has qemu run it: docs/platforms.md.

    arm64.py [SUITE...]

First the program's own commands, then its demo with the module inside an Envoy for arm64, then tests: unit tests,
tests/serve, which asks the running program over gRPC and HTTP, and the SUITEs of tests/ that are named.

The program is static and the module for an old glibc, as they are released. To take minutes and not half an hour,
the program is that of tests (profile `dev`), and the module is not optimized as a whole. Rust's library for arm64 is
needed: rustup target add aarch64-unknown-linux-gnu. RUSTC names another compiler that has one. What cannot be had is
skipped, and a line says so.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINE = "aarch64"
TRIPLE = f"{MACHINE}-unknown-linux-gnu"
# Apart from what is built for this machine.
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "arm64"

# Tests that show what qemu is, and not what arm64 is.
SKIPPED = (
    # 150 ms for a fetch and two signatures, which a program that is emulated and not optimized does not make.
    "told_by_issuer::a_status_is_looked_up_and_the_place_of_the_token_is_explained",
    # /proc/self/stat is qemu's own, without the memory.
    "telemetry::process::tests::each_is_there_where_the_system_tells",
)

# What provision.py ends with where a program cannot be had here, as against a failure.
UNAVAILABLE = (69, 75)


def main():
    if platform.machine() == MACHINE:
        sys.exit("this machine is one: make test")
    qemu = provisioned("arm64-tools")
    if not qemu or not library():
        return
    program, tests = built(["serve", *sys.argv[1:]], qemu)
    # Tests start the program by its path. Cargo has links to the file, which must stay as it is.
    real = program.with_name("keybound-arm64")
    real.unlink(missing_ok=True)
    stand_in(program, program.rename(real), qemu)
    outcomes = {
        "--version": runs(program, "--version"),
        "check-config": runs(program, "check-config", ROOT / "deploy/envoy/keybound.yaml"),
        "module": inside_envoy(program, qemu),
        # One after the other: a check has its time, whatever else is emulated.
        **{it.name: runs(qemu, it, "--test-threads=1", *(f"--skip={name}" for name in SKIPPED)) for it in tests},
    }
    failed = [name for name, good in outcomes.items() if not good]
    sys.exit(f"test-arm64: failed: {', '.join(failed)}" if failed else 0)


def provisioned(name):
    """The path of a program, or nothing where it cannot be had."""
    command = ROOT / "tests/provision.py", name
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode in UNAVAILABLE:
        return skipped(f"there is no {name}")
    return Path(done.stdout.strip()) if done.returncode == 0 else sys.exit(done.returncode)


def library():
    """Whether the compiler has Rust's library for arm64."""
    command = os.environ.get("RUSTC", "rustc"), "--print", "target-libdir", "--target", TRIPLE
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return Path(told).is_dir() or skipped(f"the compiler has no library for it (rustup target add {TRIPLE})")


def skipped(why):
    print(f"test-arm64: skipped: {why}", file=sys.stderr, flush=True)


def built(suites, qemu):
    """The program, and the tests that cargo makes."""
    command = (
        "cargo", "test", "--locked", "--no-run", "--message-format", "json-render-diagnostics", "--target", TRIPLE,
        "--package", "keybound", "--package", "keybound-core", "--lib", *(f"--test={it}" for it in suites),
    )
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(TARGET),
        f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}_LINKER": "aarch64-linux-gnu-gcc",
        "PATH": os.pathsep.join([str(qemu.parent / "bin"), os.environ["PATH"]]),
        "RUSTFLAGS": "-C target-feature=+crt-static",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    made = [it for it in map(json.loads, done.stdout.splitlines()) if it.get("executable")]
    tests = [Path(it["executable"]) for it in made if it["profile"]["test"]]
    (program,) = (Path(it["executable"]) for it in made if not it["profile"]["test"])
    return program, tests


def stand_in(place, program, qemu):
    """Makes `place` what has qemu run `program`."""
    place.unlink(missing_ok=True)
    place.write_text(f'#!/bin/sh\nexec {qemu} {program} "$@"\n')
    place.chmod(0o755)


def runs(*command, environment=None):
    print("test-arm64:", *command, file=sys.stderr, flush=True)
    return subprocess.run(command, cwd=ROOT, env=os.environ | (environment or {}), check=False).returncode == 0


def inside_envoy(program, qemu):
    """Whether the module builds, and passes the demo where there is an Envoy for arm64."""
    zig = provisioned("cargo-zigbuild")
    if not zig:
        return True
    lighter = {
        "CARGO_TARGET_DIR": str(TARGET), "CARGO_ZIGBUILD_BIN": str(zig),
        "CARGO_PROFILE_MODULE_LTO": "false", "CARGO_PROFILE_MODULE_CODEGEN_UNITS": "16",
    }
    if not runs(ROOT / "deploy/envoy-module/build.py", "--machine", MACHINE, environment=lighter):
        return False
    envoy, started = provisioned("envoy-arm64"), TARGET / "envoy"
    if not envoy:
        return True
    stand_in(started, envoy, qemu)
    module = TARGET / "module" / MACHINE / "libkeybound_envoy.so"
    return runs(program, "demo", "--envoy", started, "--module", module)


if __name__ == "__main__":
    main()
