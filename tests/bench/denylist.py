#!/usr/bin/env python3
"""What a long denylist costs: memory for each entry, the time until it is in force, what a check costs beside one with
a short list, and what a new list costs those who ask meanwhile.

    tests/bench/denylist.py [ENTRIES]

By default there are ten million, as JSON Lines of 70 bytes. It fails where an entry takes more than 32 bytes of the
memory that the process has once the list is in force, and where a check costs 15 % more.
"""

import json
import re
import statistics
import sys
import time
import uuid
from datetime import datetime

from servers import PLACE, Server, Workshop, in_turn

MOST = 32
# What the process has besides: it is the same with one entry, but for what the allocator keeps.
SLACK = 16 * 2**20
DEARER = 1.15
ROUNDS = 7


def main():
    count = int(sys.argv[1]) if sys.argv[1:] else 10_000_000
    workshop = Workshop()
    lists = Lists(workshop)
    for rules in ("keybound", "forgetful"):
        lists.configure(rules, "short", 1)
        lists.configure(rules, "long", count)
    with lists.server("keybound", "short") as short, lists.server("keybound", "long") as long:
        each = [(told(long, it) - told(short, it)) / count for it in ("VmRSS", "VmHWM")]
        print(f"{count:,} entries: in force after {long.start / 1e3:.1f} s, {each[0]:.1f} bytes each, "
              f"{each[1]:.1f} at most while they are read")
        if told(long, "VmRSS") - told(short, "VmRSS") > MOST * count + SLACK:
            sys.exit(f"more than {MOST} bytes")
        compare("a token seen before", workshop, short, long)
        lists.replace(long, count)
    with lists.server("forgetful", "short") as short, lists.server("forgetful", "long") as long:
        compare("a new token", workshop, short, long)


class Lists:
    """The files, and the servers that follow them."""

    def __init__(self, workshop):
        self.workshop, self.folder = workshop, workshop.corpus

    def configure(self, rules, name, count):
        text = (self.folder / f"{rules}.yaml").read_text()
        keys = "  keys: {jwks_file: jwks.json}\n"
        assert keys in text
        revocation = f"{keys}  revocation: {{denylist_file: {name}.jsonl}}\n"
        (self.folder / f"{rules}-{name}.yaml").write_text(text.replace(keys, revocation))
        if not (self.folder / f"{name}.jsonl").exists():
            self.write(f"{name}.jsonl", count, 0)

    def write(self, name, count, first):
        """Entries whose fingerprints are as far from each other as those of real ones."""
        with open(self.folder / name, "w") as out:
            for number in range(first, first + count):
                jti = uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)
                out.write(f'{{"jti":"{jti}","before":1800000000}}\n')

    def server(self, rules, name):
        return Server(self.workshop.service(f"{rules}-{name}.yaml"))

    def replace(self, server, count):
        """Puts another list of the same length into force, while checks go on."""
        self.write("next.jsonl", count, count)
        seconds = server.start / 1e3 * 1.5 + 2
        quiet = self.steady(server, seconds)
        (self.folder / "next.jsonl").rename(self.folder / "long.jsonl")
        placed = time.time()
        busy = self.steady(server, seconds)
        while (took := last_replaced(server) - placed) < 0:
            if placed + 600 < time.time():
                sys.exit("the new list is not in force")
            time.sleep(0.1)
        print(f"a new list: in force after {took:.1f} s; while both are held, {told(server, 'VmHWM') / count:.1f} bytes an entry")
        for name in ("p50", "p99"):
            print(f"  checks meanwhile, {name}: {busy[name]:,.0f} µs, {busy[name] / quiet[name]:.2f} × "
                  f"{quiet[name]:,.0f} µs")

    def steady(self, server, seconds):
        shape = ["--connections", 4, "--in-flight", 4, "--rate", 1000, "--seconds", seconds, "--warm", 0.3]
        return self.workshop.load(server, "cached", "ok", shape)


def compare(what, workshop, short, long):
    """What a check costs with one list and the other, in turn."""
    shape = ["--connections", 4, "--in-flight", 16, "--seconds", 1]
    for server in (short, long):
        workshop.load(server, "cached", "ok", shape)
    ratios, costs = [], []
    for turn in range(ROUNDS):
        cost = {it: workshop.load(it, "cached", "ok", shape)["cpu"] for it in in_turn([short, long], turn)}
        ratios.append(cost[long] / cost[short])
        costs.append(cost[long])
    ratio = statistics.median(ratios)
    print(f"{what}: {statistics.median(costs):.1f} µs of CPU a check, {ratio:.3f} of that with one entry "
          f"({min(ratios):.3f} to {max(ratios):.3f})")
    if DEARER < ratio:
        sys.exit("a check costs more with a long list")


def last_replaced(server):
    """When a list came into force last, in seconds since 1970."""
    lines = (it for it in server.log.read_text().splitlines() if '"denylist replaced"' in it)
    return max((datetime.fromisoformat(json.loads(it)["timestamp"]).timestamp() for it in lines), default=0)


def told(server, name):
    """Bytes of its memory."""
    status = open(f"/proc/{server.process.pid}/status").read()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024


if __name__ == "__main__":
    PLACE.mkdir(parents=True, exist_ok=True)
    main()
