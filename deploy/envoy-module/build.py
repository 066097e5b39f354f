#!/usr/bin/env python3
"""Builds keybound as a module for Envoy, target/module/libkeybound_envoy.so, and judges it.

    build.py [--profile PROFILE]    builds it; any other profile than `module` is for tests
    build.py --machine MACHINE      builds it for another machine (aarch64, x86_64), into target/module/MACHINE
    build.py --judge FILE           judges one that is there

It needs Rust, Python 3 and a C compiler. What compiles for an old glibc is downloaded, once. Where that
cannot be, the system's own linker does it, and the module needs a glibc as new as the system's. Another machine takes
zig, and Rust's library for it: rustup target add aarch64-unknown-linux-gnu.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "module"
# Aside: what is built for the rest of the project stays as it is.
BUILD = TARGET / "build"
MODULE = "libkeybound_envoy.so"
PROVISION = ROOT / "tests/provision.py"

# The oldest that Rust itself supports. Envoy's own images have a newer one.
GLIBC = (2, 17)
# What belongs to glibc. Images without a shell have no more: no libgcc_s.so.1 above all.
LIBRARIES = re.compile(r"ld-linux.*\.so\.\d|lib(c|dl|m|pthread|rt)\.so\.\d")
# Bytes of functions of a check that must lie together (src/envoy/order.ld).
TOGETHER = 128 << 10
# Bytes of them that a check hardly ever needs, and that lie aside by what a profile says.
ASIDE = 16 << 10
HOOK = re.compile(r"\benvoy_dynamic_module_on_\w+")
CALLBACK = re.compile(r"\bfn (envoy_dynamic_module_callback_\w+)")

# What provision.py ends with where a program cannot be had here, as against a failure.
UNAVAILABLE = (69, 75)


def main():
    option, *rest = sys.argv[1:] or ["--profile", "module"]
    if option == "--profile" and len(rest) == 1:
        make(*rest, platform.machine(), TARGET)
    elif option == "--machine" and len(rest) == 1:
        make("module", *rest, TARGET / rest[0])
    elif option == "--judge" and len(rest) == 1:
        zig = provisioned("--cached")
        judge(Path(*rest), GLIBC if zig else None, stripped=False)
    else:
        sys.exit(__doc__)


def make(profile, machine, place):
    place.mkdir(parents=True, exist_ok=True)
    zig = provisioned()
    if not zig and machine != platform.machine():
        sys.exit(f"without zig there is no linker for {machine}: CARGO_ZIGBUILD_BIN names one, or build there")
    flags = trained(machine) if zig and profile == "module" else []
    built = by_zig(zig, profile, machine, flags, BUILD) if zig else by_the_system(profile)
    judge(built, GLIBC if zig else None, stripped=profile == "module")
    if flags and size(readelf(built), "split") < ASIDE:
        print("the profile is of other functions, so that a check takes longer than it could: tests/bench/train.py")
    # An Envoy that has the old one open keeps it whole.
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        shutil.copy(built, scratch)
        Path(scratch, MODULE).replace(place / MODULE)
    print(f"It is {place / MODULE}")


def provisioned(*options):
    """`cargo zigbuild`, where it is at hand or can be downloaded."""
    done = subprocess.run(
        [sys.executable, PROVISION, *options, "cargo-zigbuild"], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL if options else None, check=False,
    )
    if done.returncode == 0:
        return done.stdout.strip()
    if options or done.returncode in UNAVAILABLE:
        return None
    sys.exit(done.returncode)


def trained(machine):
    """What tells the compiler how checks run, where somebody has looked with the same compiler. It knows functions by
    names that Cargo makes otherwise where it is not called by zig."""
    file = counts(machine)
    if file.exists():
        return [f"-Cprofile-use={file}", "-Cllvm-args=-enable-split-machine-functions"]
    print(f"there is no {file.name}, so that a check takes longer than it could: tests/bench/train.py")
    return []


def counts(machine):
    told = subprocess.run(["rustc", "-vV"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    release = re.search(r"(?m)^release: (.*)$", told)[1]
    return ROOT / f"src/envoy/{machine}-{release}.profdata"


def by_zig(zig, profile, machine, flags, target):
    triple = f"{machine}-unknown-linux-gnu"
    cargo([zig, "zigbuild", *what(profile), "--target", f"{triple}.{'.'.join(map(str, GLIBC))}"], flags, target)
    return target / triple / folder(profile) / MODULE


def by_the_system(profile):
    print("zig cannot be had: the system's linker has to do", file=sys.stderr)
    # rustc asks for libgcc_s.so, and gets what unwinds without it.
    instead = TARGET / "unwinder"
    instead.mkdir(exist_ok=True)
    (instead / "libgcc_s.so").write_text("INPUT(-lgcc_eh)\n")
    cargo(["cargo", "rustc", *what(profile), "--", "-L", f"native={instead}"], [], BUILD)
    return BUILD / folder(profile) / MODULE


def what(profile):
    return "--locked", "--package", "keybound-envoy", "--profile", profile


def folder(profile):
    return "debug" if profile == "dev" else profile


def cargo(command, flags, target):
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    if flags:
        others = environment.get("CARGO_ENCODED_RUSTFLAGS", "\x1f".join(environment.get("RUSTFLAGS", "").split()))
        environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join([*filter(None, [others]), *flags])
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def judge(module, promised, stripped):
    """Ends with an error if the module needs what an image of Envoy may not have, or is not what Envoy
    expects. Without a promise, any glibc will do."""
    told = readelf(module)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", told)
    glibc = max(tuple(map(int, it.split("."))) for it in re.findall(r"Name: GLIBC_([\d.]+)", told))
    print(f"{module}: {module.stat().st_size / 1e6:.1f} MB")
    print(f"needs glibc {'.'.join(map(str, glibc))}, and of libraries: {' '.join(needed)}")
    if stripped and size(told, "often") < TOGETHER:
        print("the functions of a check lie apart, which costs memory and time: tests/bench/order.py mends it")

    interface, *_tests = (ROOT / "src/envoy/abi.rs").read_text().split("#[cfg(test)]")
    defined, undefined = symbols(told)
    problems = [f"it needs {it}" for it in needed if not LIBRARIES.fullmatch(it)]
    if promised and glibc > promised:
        problems.append(f"it needs a newer glibc than {'.'.join(map(str, promised))}")
    problems += differences("exports", defined, set(HOOK.findall(interface)))
    problems += differences("calls", undefined, set(CALLBACK.findall(interface)))
    for wanted, pattern in {
        "may be unloaded, though its threads go on": r"FLAGS_1.*NODELETE",
        "does not bind its symbols when it is loaded": r"FLAGS_1.*NOW",
        "cannot unwind: a panic would end Envoy": r"GNU_EH_FRAME",
    }.items():
        if not re.search(pattern, told):
            problems.append(f"it {wanted}")
    if stripped and re.search(r"\.symtab|\.debug_", told):
        problems.append("it is not stripped")
    if problems:
        sys.exit("\n".join(f"{module.name}: {it}" for it in problems))


def size(told, part):
    """Bytes of a part of the module's functions."""
    found = re.search(rf" \.text\.{part} +PROGBITS +\w+ \w+ (\w+)", told)
    return int(found[1], 16) if found else 0


def differences(does, found, expected):
    return [
        *(f"it {does} {it}, which src/envoy/abi.rs does not name" for it in sorted(found - expected)),
        *(f"it no longer {does} {it} (make module)" for it in sorted(expected - found)),
    ]


def symbols(told):
    """Those that it defines for others, and those that it must find where it is loaded. A symbol with a
    version is glibc's; a weak one may be absent."""
    defined, undefined = set(), set()
    row = re.compile(r"\s*\d+: [0-9a-f]+\s+\S+\s+\S+\s+(GLOBAL|WEAK)\s+\S+\s+(\S+)\s+(\S+)")
    for binding, section, name in filter(None, (found_in(row, it) for it in told.splitlines())):
        if section != "UND":
            defined.add(name)
        elif binding == "GLOBAL" and "@" not in name:
            undefined.add(name)
    return defined, undefined


def found_in(row, line):
    found = row.match(line)
    return found and found.groups()


def readelf(module):
    done = subprocess.run(
        [
            "readelf", "--wide", "--dynamic", "--dyn-syms", "--version-info", "--program-headers",
            "--sections", module,
        ],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"LC_ALL": "C"}, check=False,
    )
    if done.returncode != 0:
        sys.exit(done.returncode or f"{module} cannot be read")
    return done.stdout


if __name__ == "__main__":
    main()
