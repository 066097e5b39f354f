"""The figures of a benchmark: as tables, beside what was aimed at, and as a
chart."""

import os
import platform
import re
import shutil
import statistics
import subprocess
from functools import partial
from pathlib import Path

from module import ALONE, ASKED, BARE, INSIDE, NOOP, OWN, WORKERS
from servers import PLACE, ROOT


def judged(figures, rounds):
    """What was found, what was aimed at, and whether that was reached."""
    rows = []
    beside = partial(ratio, rounds)

    def at_most(what, found, limit, form="{:.2f}"):
        rows.append((what, form.format(found), "≤ " + form.format(limit), found <= limit))

    def at_least(what, found, limit, form="{:.2f}"):
        rows.append((what, form.format(found), "≥ " + form.format(limit), found >= limit))

    if "cached" in figures:
        judge_direct(figures, beside, at_most, at_least)
    if "Envoy, saturated" in figures:
        for key in ("p50", "p99"):
            at_most(f"behind Envoy at 1,000/s: {key} beside the tonic server's",
                    beside("Envoy, keybound, 1000/s", "Envoy, noop, 1000/s", key), 1.05)
        at_least("behind Envoy, saturated: rate beside the tonic server's",
                 beside("Envoy, keybound, saturated", "Envoy, noop, saturated", "rate"), 1.0)
    if f"{INSIDE}, saturated" in figures:
        judge_module(rounds, at_most, at_least)
    # Of fewer, what the service takes once and for all is most of it.
    if "memory" in figures and figures["memory"]["many"] == 1_000_000:
        at_most("memory for each of a million tokens", figures["memory"]["per token"], 400,
                "{:.0f} bytes")
    return rows


def ratio(rounds, own, other, key):
    """The median of what each round shows: what disturbs a round disturbs both, or that round only."""
    pairs = zip(rounds[own], rounds[other], strict=True)
    return statistics.median(mine[key] / its[key] for mine, its in pairs)


def judge_direct(figures, beside, at_most, at_least):
    cached, new, dpop, raw = (figures[it] for it in ("cached", "new", "dpop", "raw"))
    micros = "{:.1f} µs"
    at_most("token seen before: CPU beside a tonic server that decides nothing",
            beside("cached", "noop, full", "cpu"), 0.70)
    at_least("the same: rate", beside("cached", "noop, full", "rate"), 1.45)
    at_most("the same: CPU beside one that only walks over the request",
            beside("cached", "noop, walk", "cpu"), 1.35)
    at_most("new RS256 token: CPU", new["cpu"], cached["cpu"] + 1.2 * raw["RS256"] + 4, micros)
    at_most("DPoP proof, token seen before: CPU", dpop["cpu"],
            cached["cpu"] + 1.1 * raw["ES256"] + 8, micros)
    at_least("another's certificate: rate beside the allowed",
             beside("wrong certificate", "cached", "rate"), 0.95)
    flood = figures["flooded"]["flood"]
    at_most(f"good traffic at 1,000/s beside {flood:,.0f}/s of forged tokens: p99 beside that without",
            beside("flooded", "alone", "p99"), 2)
    at_most("start to listening, keys in a file", cached["start"], 30, "{:.0f} ms")
    at_most("memory when idle", cached["resident"], 15, "{:.1f} MiB")


def judge_module(rounds, at_most, at_least):
    own, by_service, by_envoy = (added(rounds, it) for it in (INSIDE, ASKED, OWN))
    at_most("inside Envoy: CPU beside ext_authz, over Envoy alone", own / by_service, 0.16)
    at_most("the same beside jwt_authn and Lua", own / by_envoy, 0.50)
    at_least("inside Envoy, saturated: rate beside ext_authz",
             ratio(rounds, f"{INSIDE}, saturated", f"{ASKED}, saturated", "rate"), 2.4)
    at_most("inside Envoy at 1,000/s: p50 beside Envoy alone",
            ratio(rounds, f"{INSIDE}, 1000/s", f"{ALONE}, 1000/s", "p50"), 1.2)
    for workers in WORKERS:
        at_most(f"inside Envoy, {workers} workers: memory over Envoy alone",
                grown(rounds, INSIDE, workers), 8, "{:.1f} MiB")


def added(rounds, name):
    """CPU microseconds of a request over Envoy alone in the same round."""
    return over(rounds, f"{name}, saturated", f"{ALONE}, saturated", "cpu")


def grown(rounds, name, workers):
    """Mebibytes over Envoy alone in the same round."""
    return over(rounds, f"{name}, {workers} workers", f"{ALONE}, {workers} workers", "resident")


def over(rounds, own, other, key):
    """The median of by how much each round shows more."""
    pairs = zip(rounds[own], rounds[other], strict=True)
    return statistics.median(mine[key] - its[key] for mine, its in pairs)


NAMES = {
    "noop, full": "tonic and envoy-types, decides nothing",
    "noop, walk": "tonic, walks over the request, decides nothing",
    "cached": "keybound, certificate-bound token seen before",
    "wrong certificate": "keybound, another's certificate: denied",
    "new": "keybound, new RS256 token",
    "dpop": "keybound, DPoP: new proof, token seen before",
}


def text(figures, rounds):
    """All that was measured, in Markdown, beside what was aimed at."""
    lines = ["| | found | aim | |", "|---|---:|---:|---|"]
    lines += [f"| {what} | {found} | {aim} | {'met' if met else '**missed**'} |"
              for what, found, aim, met in judged(figures, rounds)]
    return tables(figures, rounds) + "\n" + "\n".join(lines) + "\n"


def tables(figures, rounds):
    """All that was measured, in Markdown: medians of all rounds, and of the ratios in each."""
    parts = []
    if "cached" in figures:
        parts.append(directly(figures, rounds))
    if "Envoy, saturated" in figures:
        parts.append(behind_proxies(figures))
    if f"{INSIDE}, saturated" in figures:
        parts.append(inside_envoy(figures, rounds))
    if "memory" in figures:
        parts.append(in_memory(figures["memory"]))
    return "\n\n".join([*parts, f"Measured on {machine()}."]) + "\n"


def directly(figures, rounds):
    lines = ["| One core, 64 checks under way | CPU µs/check | beside the first | checks/s | p99 µs |",
             "|---|---:|---:|---:|---:|"]
    for key, name in NAMES.items():
        it, beside = figures[key], ratio(rounds, key, "noop, full", "cpu")
        lines.append(f"| {name} | {it['cpu']:.1f} | {beside:.2f} | {it['rate']:,.0f} "
                     f"| {it['p99']:,.0f} |")
    raw = figures["raw"]
    lines.append(f"| a bare RS256-2048 verification | {raw['RS256']:.1f} | | | |")
    lines.append(f"| a bare ES256 verification | {raw['ES256']:.1f} | | | |")
    return "\n".join(lines)


PROXIES = {
    "Envoy": "Envoy alone",
    "Envoy, noop": "Envoy, and tonic that decides nothing",
    "Envoy, keybound": "Envoy, and keybound",
    "nginx": "nginx alone",
    "nginx, keybound": "nginx `auth_request`, and keybound",
}


def behind_proxies(figures):
    lines = ["| Mutual TLS, one core for all, 16 connections | requests/s | CPU µs: proxy | asked "
             "| p50 µs at 1,000/s | p99 |", "|---|---:|---:|---:|---:|---:|"]
    for key, name in PROXIES.items():
        most, calm = figures[f"{key}, saturated"], figures[f"{key}, 1000/s"]
        proxy, *asked = most["cpu_of_each"]
        asked = f"{asked[0]:.1f}" if asked else ""
        lines.append(f"| {name} | {most['rate']:,.0f} | {proxy:.1f} | {asked} | {calm['p50']:,.0f} "
                     f"| {calm['p99']:,.0f} |")
    return "\n".join(lines)


IN_ENVOY = {
    ALONE: "Envoy alone",
    NOOP: "`ext_authz`, and tonic that decides nothing",
    ASKED: "`ext_authz`, and keybound",
    BARE: "a module that calls Envoy as keybound does, and decides nothing",
    INSIDE: "keybound as a module of Envoy",
    OWN: "`jwt_authn` with its cache, and Lua that compares `cnf`",
}


def inside_envoy(figures, rounds):
    lines = ["| The same, an Envoy for each | CPU µs of all | over the first | requests/s "
             "| p50 µs at 1,000/s | p99 | MiB over the first | with 4 workers |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for key, name in IN_ENVOY.items():
        most, calm = figures[f"{key}, saturated"], figures[f"{key}, 1000/s"]
        more = "" if key == ALONE else f"{added(rounds, key):.1f}"
        memory = [f"{grown(rounds, key, it):.1f}" if key in (INSIDE, OWN) else "" for it in WORKERS]
        lines.append(f"| {name} | {most['cpu']:.1f} | {more} | {most['rate']:,.0f} "
                     f"| {calm['p50']:,.0f} | {calm['p99']:,.0f} | {memory[0]} | {memory[1]} |")
    return "\n".join(lines)


def in_memory(it):
    return "\n".join([
        "| Resident memory | |", "|---|---:|",
        f"| for each of {it['many']:,} verified tokens | {it['per token']:,.0f} bytes |",
        f"| for each of {it['many']:,} used proofs | {it['per proof']:,.0f} bytes |",
        f"| for each of {it['connections']:,} idle connections | {it['per connection']:,.0f} bytes |",
        f"| in all, after {it['many']:,} tokens with room for 32 MiB of them "
        f"| {it['flooded'] / 2**20:.0f} MiB |",
    ])


def machine():
    """The class of this machine; nothing that tells which one it is."""
    told = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", told)
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    version = rustc.stdout.split()[1]
    name = re.sub(r"\s+", " ", model[1]) if model else platform.machine()
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", told, re.MULTILINE)
    cores = "shared cores of a virtual machine" if virtual else "cores"
    return f"{os.cpu_count()} {cores} ({name}), Linux, rustc {version}"


def medians(rounds):
    """The median of each figure; of lists, element by element."""
    def median(values):
        if isinstance(values[0], list):
            return [statistics.median(it) for it in zip(*values)]
        return statistics.median(values)

    return {key: median([it[key] for it in rounds]) for key in rounds[0]}


def chart(figures):
    """CPU time of one check, in bars: drawn in grey and one colour, so that it reads on any ground."""
    width, row, left, top = 760, 30, 340, 44
    longest = max(figures[key]["cpu"] for key in NAMES)
    height = top + row * len(NAMES) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" role="img">',
        "<title>CPU time of one check, in microseconds</title>",
        "<style>text{fill:#57606a}.own{fill:#2f81f7}.other{fill:#8b949e}"
        "@media (prefers-color-scheme:dark){text{fill:#adbac7}}</style>",
        f'<text x="12" y="24" font-weight="600">CPU time of one check, in µs, on one core</text>',
    ]
    for place, (key, name) in enumerate(NAMES.items()):
        y, value = top + row * place, figures[key]["cpu"]
        length = max(2, (width - left - 70) * value / longest)
        kind = "other" if key.startswith("noop") else "own"
        parts.append(f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{name}</text>')
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.0f}" height="20" rx="2"/>')
        parts.append(f'<text x="{left + length + 8:.0f}" y="{y + 15}">{value:.1f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


BEGIN, END = "<!-- figures: make bench -->", "<!-- end of figures -->"


def publish(text):
    shutil.copy(PLACE / "chart.svg", ROOT / ".github" / "bench.svg")
    page = ROOT / "docs" / "performance.md"
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
