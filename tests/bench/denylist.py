#!/usr/bin/env python3
"""What a long denylist costs: memory for each entry, and the time until it is in force.

    tests/bench/denylist.py [ENTRIES]

By default there are ten million, as JSON Lines of 70 bytes. It fails where an entry takes more than 32 bytes of the
memory that the process has once the list is in force.
"""

import re
import sys
import time
import uuid

from servers import PLACE, Server, Workshop

MOST = 32
# What the process has besides: it is the same with one entry, but for what the allocator keeps.
SLACK = 16 * 2**20


def main():
    count = int(sys.argv[1]) if sys.argv[1:] else 10_000_000
    workshop = Workshop(harness_profile=())
    short, _ = resident(workshop, 1)
    long, seconds = resident(workshop, count)
    each = (long - short) / count
    print(f"{count:,} entries: {each:.1f} bytes each, in force after {seconds:.1f} s")
    if long - short > MOST * count + SLACK:
        sys.exit(f"more than {MOST} bytes")


def resident(workshop, count):
    """The bytes that a server with so many entries has, and how long it took to start."""
    file = workshop.corpus / "denylist.jsonl"
    rules = (workshop.corpus / "keybound.yaml").read_text()
    keys = "  keys: {jwks_file: jwks.json}\n"
    assert keys in rules
    revoking = rules.replace(keys, f"{keys}  revocation: {{denylist_file: {file.name}}}\n")
    (workshop.corpus / "denylist.yaml").write_text(revoking)
    with open(file, "w") as out:
        for number in range(count):
            jti = uuid.UUID(int=number * 0x9E3779B97F4A7C15 % 2**128)
            out.write(f'{{"jti":"{jti}","before":1800000000}}\n')
    began = time.monotonic()
    try:
        with Server(workshop.service("denylist.yaml")) as server:
            seconds = time.monotonic() - began
            told = re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.process.pid}/status").read())
            return int(told[1]) * 1024, seconds
    finally:
        file.unlink()


if __name__ == "__main__":
    PLACE.mkdir(parents=True, exist_ok=True)
    main()
