#!/usr/bin/env python3
"""How fast the service is beside servers that decide nothing, in one run on this machine.

    tests/bench/run.py [--quick] [--publish] [direct] [proxies] [module] [memory]

Builds the service and what it is held against, runs them in turn for some rounds, and prints the
medians of the figures and of the ratios in each round, with what was aimed at. The same goes to
target/bench/ as results.md, results.json and chart.svg; --publish also puts it into docs/performance.md and
.github/.

The server has one core and the load another. Figures of two runs do not compare: machines are
shared, and noisy. It fails when an answer is wrong, and never because something was slow.
"""

import argparse
import json

import direct
import memory
import module
import proxies
import report
from servers import PLACE, Workshop, can_pin

PARTS = ("direct", "proxies", "module", "memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, help=" ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--publish", action="store_true", help="renew docs/performance.md and .github/")
    options = parser.parse_args()
    if strange := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(strange)}")
    if options.publish and (options.quick or set(options.parts) != set(PARTS)):
        parser.error("--publish is for all parts, and not for --quick")
    if not can_pin():
        parser.error("two cores and taskset are needed: the server has one core and the load another")
    workshop = Workshop()
    # Many short rounds rather than a few long ones: a machine's mood changes within seconds.
    rounds, seconds = (1, 0.5) if options.quick else (9, 1)
    seen = {}
    if "direct" in options.parts:
        seen |= direct.measure(workshop, rounds, seconds)
    if "proxies" in options.parts:
        seen |= proxies.measure(workshop, rounds + rounds // 2, seconds)
    if "module" in options.parts:
        seen |= module.measure(workshop, rounds, seconds)
    figures = {name: report.medians(it) for name, it in seen.items()}
    if "memory" in options.parts:
        figures["memory"] = memory.measure(workshop, share=0.01 if options.quick else 1)
    (PLACE / "results.json").write_text(json.dumps({"rounds": seen, "medians": figures}, indent=1))
    text = report.text(figures, seen)
    (PLACE / "results.md").write_text(text)
    print(text)
    if "direct" in options.parts:
        (PLACE / "chart.svg").write_text(report.chart(figures))
    if options.publish:
        report.publish(report.tables(figures, seen))


if __name__ == "__main__":
    main()
