#!/usr/bin/env python3
"""Has the platforms that keybound is used on, and runs the tests on them.

    tests/platforms/run.py [PROGRAM...] [-- COMMAND...]

Each program, of PLATFORMS in tests/provision.py if none is named, is fetched and built, which takes minutes each,
and stays in target/tools. Then the command runs, which is that of the tests if none is given. With PLATFORM_MINUTES=25 there is no more time than that for all of it, the tests included: what
is at hand is run, what does not fit is named at the end, and the next run goes on where this one was.

What could not be downloaded is left out, and so is what lacks a toolchain (Go, for example). With CI=true the
latter is a failure, unless KEYBOUND_TOOLCHAINS=optional.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import provision  # noqa: E402

TESTS = [
    ROOT / "tests/progress.py", "test-platforms", "--tests",
    "cargo", "test", "--locked", "--test", "platforms",
]

# Seconds that the tests may take, in which nothing is built.
FOR_TESTS = 300


def main():
    minutes = os.environ.get("PLATFORM_MINUTES")
    ends = time.monotonic() + float(minutes) * 60 - FOR_TESTS if minutes else None
    names, command = arguments()
    there, left_out, failed = [], {}, {}
    # First what costs nothing.
    for name in sorted(names, key=lambda it: not at_hand(it)):
        status, why = had(name, ends)
        if status == 0:
            there.append(name)
        elif status in excused():
            left_out[name] = why
        else:
            failed[name] = why
    environment = os.environ | {"KEYBOUND_TEST_PLATFORMS": " ".join(there)}
    tested = subprocess.run(command, cwd=ROOT, env=environment).returncode
    for name in there:
        say(f"{name}: at hand, version {provision.VERSIONS[name]}")
    for name, why in left_out.items():
        say(f"{name}: LEFT OUT: {why} (tests/provision.py {name})")
    for name, why in failed.items():
        say(f"{name}: FAILED: {why}")
    sys.exit(tested or bool(failed))


def at_hand(name):
    try:
        return provision.path_of(name, cached=True)
    except provision.Unavailable:
        return None


TIME_IS_UP = -1


def had(name, ends):
    """The status of provisioning it, and why, if that is not 0."""
    if at_hand(name):
        return 0, ""
    patience = None if ends is None else ends - time.monotonic()
    if patience is not None and patience <= 0:
        return TIME_IS_UP, "no time was left"
    # A group of its own, which is ended as one.
    child = subprocess.Popen(
        [ROOT / "tests/provision.py", name], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        status = child.wait(patience)
        return status, f"tests/provision.py {name} ended with status {status}, as said above"
    except subprocess.TimeoutExpired:
        for it in (signal.SIGINT, signal.SIGKILL):
            os.killpg(child.pid, it)
            try:
                child.wait(30)
                break
            except subprocess.TimeoutExpired:
                continue
        return TIME_IS_UP, "it was not built in time"


def excused():
    toolchains = os.environ.get("KEYBOUND_TOOLCHAINS") == "optional"
    optional = os.environ.get("CI") != "true" or toolchains
    missing = [provision.ToolchainMissing.status] * optional
    return [TIME_IS_UP, provision.NotDownloaded.status, *missing]


def arguments():
    """The programs, and the command."""
    names = sys.argv[1:]
    command = TESTS
    if "--" in names:
        at = names.index("--")
        names, command = names[:at], names[at + 1:]
    unknown = [it for it in names if it not in provision.PLATFORMS]
    if unknown or not command:
        sys.exit(f"usage: {sys.argv[0]} [{'|'.join(provision.PLATFORMS)}]... [-- COMMAND...]")
    return names or provision.PLATFORMS, command


def say(line):
    print(f"-- test-platforms: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
