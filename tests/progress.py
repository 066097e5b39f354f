#!/usr/bin/env python3
"""Runs a command, and says what it does and how far it is, so that it is never silent for long.

    tests/progress.py WHAT [--tests] COMMAND...

WHAT is said at the beginning, and again with the time so far whenever the command has written nothing for
ten seconds. With --tests the command is one of `cargo test`: it is built first, and then the line says
which of the test programs runs, and how many of its tests are done. All this goes to standard error, in plain
lines. What the command writes goes where it would go anyway, and its status is ours.
"""

import os
import re
import subprocess
import sys
import threading
import time

# Seconds of silence, at most.
SILENCE = float(os.environ.get("PROGRESS_SILENCE", "9"))


def say(line):
    print(line, file=sys.stderr, flush=True)


def span(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class Heartbeat:
    """Says `what` and the time so far while nothing else is written. For a `with`."""

    def __init__(self, what, detail=lambda: ""):
        self.what, self.detail = what, detail
        self.begun = self.last = time.monotonic()
        self.over = threading.Event()

    def heard(self):
        self.last = time.monotonic()

    def __enter__(self):
        threading.Thread(target=self.beat, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()

    def beat(self):
        while not self.over.wait(max(0.01, self.last + SILENCE - time.monotonic())):
            if time.monotonic() - self.last >= SILENCE:
                detail = self.detail()
                detail = f"; {detail}" if detail else ""
                say(f"-- {self.what}: {span(time.monotonic() - self.begun)} so far{detail}")
                self.heard()


class Tests:
    """How far a run of `cargo test` is, by what it writes."""

    def __init__(self, programs=0):
        self.programs, self.program, self.name = programs, 0, ""
        self.tests = self.done = 0

    def see(self, line):
        if re.match(r"\s*Executable ", line):
            self.programs += 1
        elif found := re.match(r"\s*(?:Running|Doc-tests) (.*?)(?: \(.*\))?$", line):
            self.program, self.name = self.program + 1, found[1]
        elif found := re.match(r"running (\d+) tests?$", line):
            # Not above, for that comes by the other pipe, perhaps later than it was written.
            self.tests, self.done = int(found[1]), 0
        elif re.match(r"test .* \.\.\. ", line):
            self.done += 1

    def detail(self):
        if not self.name:
            return ""
        place = f", {self.program} of {self.programs}" if self.program <= self.programs else ""
        return f"{self.name}{place}: {self.done} of {self.tests} tests are done"


def run(what, command, tests):
    """Runs `command` and returns its status. `tests` sees each line."""
    say(f"== {what}: {' '.join(command)}")
    environment = dict(os.environ)
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        environment.setdefault("CARGO_TERM_COLOR", "always")
    try:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as why:
        say(f"-- {what}: {command[0]}: {why.strerror}")
        return 127
    with Heartbeat(what, tests.detail) as heartbeat:
        pipes = [(child.stdout, sys.stdout.fileno()), (child.stderr, sys.stderr.fileno())]
        copying = [
            threading.Thread(target=copy, args=(source, to, heartbeat, tests))
            for source, to in pipes
        ]
        for it in copying:
            it.start()
        while True:
            try:
                for it in copying:
                    it.join()
                status = child.wait()
                break
            except KeyboardInterrupt:
                # It has been interrupted, too, and ends as it sees fit.
                continue
    if status:
        say(f"-- {what}: failed after {span(time.monotonic() - heartbeat.begun)}")
    return 128 - status if status < 0 else status


def copy(source, to, heartbeat, tests):
    begun = b""
    try:
        while piece := os.read(source.fileno(), 65536):
            write(to, piece)
            heartbeat.heard()
            *lines, begun = (begun + piece).split(b"\n")
            for line in lines:
                tests.see(without_colours(line.decode(errors="replace")))
    except BrokenPipeError:
        pass
    finally:
        # Who writes more finds that nobody reads it.
        source.close()


def write(to, piece):
    while piece:
        piece = piece[os.write(to, piece):]


def without_colours(line):
    return re.sub("\x1b\\[[0-9;]*m", "", line)


def main():
    what, *command = sys.argv[1:] or [""]
    of_tests = command[:1] == ["--tests"]
    command = command[1:] if of_tests else command
    if not what or not command:
        sys.exit(f"usage: {sys.argv[0]} WHAT [--tests] COMMAND...")
    tests = Tests()
    if of_tests:
        building = f"{what}: building, which takes minutes the first time"
        status = run(building, [*command, "--no-run"], tests)
        if status:
            sys.exit(status)
        tests = Tests(tests.programs)
    sys.exit(run(what, command, tests))


if __name__ == "__main__":
    main()
