"""What a check costs inside Envoy: beside Envoy alone, a service that Envoy asks, a module that decides
nothing, and the filters that come with Envoy.

Each row has an Envoy of its own, and the server that it asks on the same core. All are started anew in
each round, one at a time, so that no row has another's threads or memory.
"""

import subprocess
import sys
from contextlib import ExitStack, contextmanager

from envoy import Envoy, dynamic_module, ext_authz, jwt_authn, lua
from proxy import browsed, browsing, must_refuse
from servers import PLACE, ROOT, TARGET, Server, figures, in_turn, ran

MODULE = TARGET / "module" / "libkeybound_envoy.so"
DECIDES_NOTHING = PLACE / "noop.so"

ALONE, NOOP, ASKED = "Envoy alone", "ext_authz, noop", "ext_authz, keybound"
BARE, INSIDE, OWN = "module, noop", "module, keybound", "jwt_authn and Lua"
ROWS = (ALONE, NOOP, ASKED, BARE, INSIDE, OWN)

# What decides in Envoy's own process, and with how many workers.
IN_MEMORY, WORKERS = (ALONE, INSIDE, OWN), (1, 4)

# Each token so often that every one of the workers has seen most of them.
TIMES = 4


def measure(workshop, rounds, seconds):
    """What each row showed in each round: under load, and of memory after all tokens of the corpus."""
    if not MODULE.exists():
        sys.exit(f"no {MODULE}: make module builds it")
    configured(workshop)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", DECIDES_NOTHING, ROOT / "tests/bench/noop.c"],
                   check=True)
    seen = {}
    for turn in range(rounds):
        print(f"inside Envoy: round {turn + 1} of {rounds}", file=sys.stderr)
        for name in in_turn(ROWS, turn):
            with stack(workshop, name) as (envoy, processes):
                port = envoy.ports[name]
                if name in (ASKED, INSIDE, OWN):
                    must_refuse(workshop, name, port)
                bring_all_tokens(workshop, name, port)
                for load, found in browsed(workshop, name, port, processes, seconds):
                    seen.setdefault(load, []).append(found)
        for workers in WORKERS:
            for name in in_turn(IN_MEMORY, turn):
                found = {"resident": resident(workshop, name, workers)}
                seen.setdefault(f"{name}, {workers} workers", []).append(found)
    return seen


def configured(workshop):
    """The configuration of the module, in the corpus."""
    configuration = workshop.corpus / "module.yaml"
    rules = (workshop.corpus / "keybound.yaml").read_text()
    configuration.write_text("listen: {admin: '127.0.0.1:0'}\n" + rules)
    return configuration


def resident(workshop, name, workers):
    """Mebibytes that Envoy takes after all tokens of the corpus."""
    with stack(workshop, name, workers) as (envoy, _):
        bring_all_tokens(workshop, name, envoy.ports[name])
        return envoy.resident()


def bring_all_tokens(workshop, name, port):
    """However slow the machine is now, no figure is of tokens that have to be verified yet."""
    tokens = len((workshop.corpus / "tokens.txt").read_text().splitlines())
    figures(name, "200", ran(browsing(workshop, port, [], ["--count", TIMES * tokens])))


@contextmanager
def stack(workshop, name, workers=1):
    """The Envoy of a row, and its process with that of the server that it asks."""
    servers = {NOOP: workshop.noop("full"), ASKED: workshop.service()}
    configuration = workshop.corpus / "module.yaml"
    with ExitStack() as started:
        asked = [started.enter_context(Server(servers[name]))] if name in servers else []
        filters = {
            ALONE: lambda: [],
            BARE: lambda: [dynamic_module(DECIDES_NOTHING, configuration)],
            INSIDE: lambda: [dynamic_module(MODULE, configuration)],
            OWN: lambda: [jwt_authn(workshop.corpus), lua()],
        }.get(name, lambda: [ext_authz(asked[0].port)])()
        envoy = started.enter_context(Envoy(workshop, {name: filters}, asked, workers))
        yield envoy, [*envoy.processes(), *(it.process.pid for it in asked)]
