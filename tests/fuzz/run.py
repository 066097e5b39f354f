#!/usr/bin/env python3
"""Runs each fuzz target for some time, and says what it found.

    tests/fuzz/run.py [TARGET…]

FUZZ_SECONDS says for how long each runs: 60 if it is not given. Without a TARGET, all run.

The targets are built with LLVM's coverage counters, which stable Rust can write, and with libFuzzer,
which libfuzzer-sys compiles: no nightly Rust and no clang are needed, but a compiler for C++.
What is interesting stays in target/fuzz/corpus for the next run; an input that fails is put into
target/fuzz/artifacts. It fails when a target found something.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLACE = ROOT / "target/fuzz"
# As cargo-fuzz has them, but for the sanitizers, which are nightly Rust's alone.
COVERAGE = [
    "-Cpasses=sancov-module",
    *(
        f"-Cllvm-args=-sanitizer-coverage-{it}"
        for it in ("level=4", "inline-8bit-counters", "pc-table", "trace-compares")
    ),
]
# Files of bytes that generators draw from. One without seeds begins with an empty input, and takes
# long to come upon inputs that are long enough.
SEEDS, SEED_BYTES = 64, 1024


def main():
    targets = sorted(it.stem for it in (HERE / "fuzz_targets").glob("*.rs"))
    wanted = sys.argv[1:] or targets
    if strange := set(wanted) - set(targets):
        sys.exit(f"no such target: {' '.join(sorted(strange))}; there are: {' '.join(targets)}")
    seconds = int(os.environ.get("FUZZ_SECONDS", "60"))
    binaries = built(wanted)
    found = [fuzz(target, binaries / target, seconds) for target in wanted]
    if any(found):
        sys.exit(1)


def built(targets):
    """The folder of the binaries."""
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    triple = re.search("^host: (.*)$", version, re.M)[1]
    # With a target, the flags are not for build scripts, which have nobody to count for.
    command = ["cargo", "build", "--target", triple, "--target-dir", str(PLACE)]
    command += [it for target in targets for it in ("--bin", target)]
    subprocess.run(command, cwd=HERE, check=True, env=os.environ | {"RUSTFLAGS": " ".join(COVERAGE)})
    return PLACE / triple / "debug"


def fuzz(target, binary, seconds):
    """Runs a target, tells how that went, and returns whether it found something."""
    corpus, artifacts = PLACE / "corpus" / target, PLACE / "artifacts" / target
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    sow(target, corpus)
    command = [binary, corpus, f"-artifact_prefix={artifacts}/", f"-max_total_time={seconds}"]
    command += ["-print_final_stats=1", "-timeout=10", "-len_control=0", "-max_len=8192"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    log = run.stderr
    executions = last(r"(?:number_of_executed_units:\s+|#)(\d+)", log)
    edges = last(r"cov: (\d+)", log)
    print(f"{target:12} {executions:>10} executions {edges:>7} edges ", end="", flush=True)
    if run.returncode == 0:
        print("  nothing found")
        return False
    artifact = re.search(r"Test unit written to (\S+)", log)
    kept = Path(artifact[1] if artifact else corpus).relative_to(ROOT)
    print(f"  FOUND {kept}\n")
    panic = log.find("panicked at")
    print(log[panic:].split("stack backtrace:")[0][:4000] if 0 <= panic else log[-4000:])
    print(f"Once more: {binary.relative_to(ROOT)} {kept}\n")
    return True


def last(pattern, text):
    return (re.findall(pattern, text) or ["?"])[-1]


def sow(target, corpus):
    """Puts seeds into a corpus: captured messages, or bytes for a generator."""
    if target == "wire_bytes":
        for seed in (ROOT / "tests/vectors/envoy").glob("*.pb"):
            shutil.copy(seed, corpus / seed.name)
        return
    dice = random.Random(target)
    for number in range(SEEDS):
        (corpus / f"seed-{number}").write_bytes(dice.randbytes(SEED_BYTES))


if __name__ == "__main__":
    main()
