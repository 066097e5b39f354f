"""How fast checks are answered to who asks by gRPC, beside servers that decide nothing."""

import json
import subprocess
import sys
import time

from servers import LONGER, Server, figures, in_turn, pinned, ran


def measure(workshop, rounds, seconds):
    """What each server showed in each round. They take turns, so that drift falls on all alike."""
    noop, service = workshop.noop, workshop.service
    variants = {
        "noop, full": (noop("full"), "cached", "ok"),
        "noop, walk": (noop("walk"), "cached", "ok"),
        "cached": (service(), "cached", "ok"),
        "wrong certificate": (service(), "wrong-certificate", "denied 401"),
        "new": (service("forgetful.yaml"), "cached", "ok"),
        "dpop": (service(), "dpop", "ok"),
    }
    seen = {name: [] for name in [*variants, "raw", "alone", "flooded"]}
    for turn in range(rounds):
        print(f"direct: round {turn + 1} of {rounds}", file=sys.stderr)
        workshop.renew()
        for name in in_turn(list(variants), turn):
            seen[name].append(once(workshop, *variants[name], seconds))
        seen["raw"].append(json.loads(ran([workshop.harness, "raw"])))
        alone, flooded = flood(workshop, seconds)
        seen["alone"].append(alone)
        seen["flooded"].append(flooded)
    return seen


def once(workshop, command, corpus, verdict, seconds):
    """The figures of one server under all the load that it takes."""
    with Server(command) as server:
        resident = server.resident()
        # Each proof is good for one request.
        length = ["--count", 20_000] if corpus == "dpop" else ["--seconds", seconds]
        figures = workshop.load(server, corpus, verdict, length)
        return figures | {"start": server.start, "resident": resident}


def flood(workshop, seconds):
    """Good traffic by itself, and beside as much forged traffic as the server takes."""
    seconds *= LONGER
    with Server(workshop.service()) as server:
        gentle = ["--rate", 1000, "--connections", 1, "--seconds", seconds, "--warm", 2]
        workshop.load(server, "cached", "ok", gentle)
        alone = workshop.load(server, "cached", "ok", gentle)
        forged = workshop.asking(server, "forged", ["--seconds", seconds + 4, "--warm", 0])
        with subprocess.Popen(pinned(1, forged), stdout=subprocess.PIPE, text=True) as flooding:
            try:
                time.sleep(0.5)
                flooded = workshop.load(server, "cached", "ok", gentle)
                printed, _ = flooding.communicate(timeout=seconds + 60)
            finally:
                flooding.kill()
        if flooding.returncode:
            sys.exit(f"forged: the flood ended with {flooding.returncode}")
        rate = figures("forged", "denied 401", printed)["rate"]
        return alone, flooded | {"flood": rate}
