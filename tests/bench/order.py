#!/usr/bin/env python3
"""Writes src/envoy/order.ld: which of the module's functions lie together.

    tests/bench/order.py

Of some 20,000 functions a healthy module ever runs fewer than 2,000. Spread over all of its text they keep
nearly all of it in the proxy's memory, and each is on a page of its own that the processor has to look up. So the
linker puts those of a cached check first, then the others that ran here: at the start, for tokens that are new, and
in denials. Callgrind says which they are. What of them a check hardly ever needs, by the profile of
tests/bench/train.py, lies apart from both.

The order changes nothing but the place. A function that is missing from it, since it is new or a compiler names it
otherwise, lies behind the others, as all did before: renew it when the module has grown.
"""

import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

from envoy import Envoy, dynamic_module
from module import configured
from proxy import must_refuse, status
from servers import PLACE, ROOT, Workshop, free_port, provisioned

ORDER = ROOT / "src/envoy/order.ld"
MODULE = "libkeybound_envoy.so"
PROFILE = PLACE / "order.out"
# Cached checks of a short run and of a long one, in which what belongs to them has grown.
SHORT, LONG = 50, 250
# How many bytes of functions that differ in their types alone may lie where one of them is to be.
MOST_ALIKE = 2048

HEAD = """\
/* Which functions lie together: made by tests/bench/order.py, which says why. Not for reading. */
SECTIONS {
  .text.split : { *(.text.split.*) }
"""


def main():
    workshop, module = Workshop(harness_profile=()), built()
    short, long = (cost(workshop, module, count) for count in (SHORT, LONG))
    often = {it for it in long if long[it] - short[it] >= LONG - SHORT}
    names = Names(module)
    text = HEAD
    for part, functions in {".text.often": often, ".text.once": set(long) - often}.items():
        patterns = names.patterns([it for it in functions if it in names.sizes], wide=functions is not often)
        print(f"{part}: {len(functions)} functions, {len(patterns)} patterns")
        text += f"  {part} : {{ *(\n" + "".join(f"    .text.{it}\n" for it in patterns) + "  ) }\n"
    ORDER.write_text(text + "} INSERT BEFORE .text;\n")


def built():
    """The module with its symbols, linked by the system, and without an order: Callgrind knows no functions outside
    of `.text`."""
    ORDER.write_text("/* Nothing lies together. */\n")
    settings = {"CARGO_TARGET_DIR": PLACE / "order", "CARGO_PROFILE_MODULE_STRIP": "none"}
    subprocess.run(
        ["env", *(f"{name}={value}" for name, value in settings.items()), "cargo", "build", "--locked", "--package",
         "keybound-envoy", "--profile", "module"], cwd=ROOT, check=True)
    return PLACE / "order/module" / MODULE


class Watched(Envoy):
    """Envoy, whose instructions Callgrind counts."""

    def command(self, binary, file):
        return [provisioned("valgrind"), "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={PROFILE}",
                *super().command(binary, file)]


def cost(workshop, module, count):
    """The instructions of each of the module's functions from start to end, with so many cached checks."""
    configuration = configured(workshop)
    with Watched(workshop, {"order": [dynamic_module(module, configuration)]}) as envoy:
        port = envoy.ports["order"]
        must_refuse(workshop, "order", port)
        token = (workshop.corpus / "tokens.txt").read_text().splitlines()[0]
        assert all(status(workshop, port, "client", token) == 200 for _ in range(count))
        envoy.process.send_signal(signal.SIGTERM)
        envoy.process.wait(60)
    return by_function(PROFILE.read_text())


def by_function(profile):
    """The instructions of each function of the module by itself, in a profile of Callgrind's."""
    found, names, objects = Counter(), {}, {}
    inside, function, of_a_call = False, None, False
    for line in profile.splitlines():
        if place := re.fullmatch(r"(ob|cob|fn|cfn)=\((\d+)\)(?: (.*))?", line):
            kind, number, name = place.groups()
            known = objects if kind.endswith("ob") else names
            if name:
                known[number] = name
            if kind == "ob":
                inside = known[number].endswith(MODULE)
            elif kind == "fn":
                function = re.sub(r"'\d+$", "", known[number])
        elif line.startswith("calls="):
            of_a_call = True
        elif re.match(r"[\d+*-]", line):
            if inside and not of_a_call:
                found[function] += int(line.split()[1])
            of_a_call = False
    return found


class Names:
    """The names of all functions of a module, and the size of each."""

    def __init__(self, module):
        told = subprocess.run(["nm", "-S", module], stdout=subprocess.PIPE, text=True, check=True).stdout
        found = re.findall(r"(?m)^\w+ (\w+) [tTwW] (.*)$", told)
        self.sizes = {name: int(size, 16) for size, name in found}
        self.alike = self.by_general_name(self.sizes)

    def by_general_name(self, functions):
        """Their sizes, those together that differ in their types alone."""
        found = Counter()
        for name in functions:
            found[general(name)] += self.sizes[name]
        return found

    def patterns(self, functions, wide):
        """What finds these in any build, with others that differ in their types alone. Unless it may be `wide`,
        functions of which there are many others are found in builds like this one only."""
        ran, found = self.by_general_name(functions), set()
        for name in functions:
            pattern = general(name)
            if not wide and self.alike[pattern] > max(2 * ran[pattern], MOST_ALIKE):
                pattern = name
            # Rust's has `unlikely.` before it if the function is.
            found.add("*" + pattern if pattern.startswith("_") else pattern)
        return sorted(found)


def general(name):
    """The function's name without what differs from build to build."""
    name = re.sub(r"\.(llvm\.)?\d+$", "*", name)
    name = re.sub(r"17h[0-9a-f]{16}E", "*", name)
    if name.startswith("_R"):
        # The hashes of crates, and what points back in the name.
        name = re.sub(r"Cs[0-9A-Za-z]+_(?=\d)", "Cs*", name)
        name = re.sub(r"B[0-9A-Za-z]*_", "*", name)
    return re.sub(r"\*+", "*", name)


if __name__ == "__main__":
    main()
