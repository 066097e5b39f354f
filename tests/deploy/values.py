#!/usr/bin/env python3
"""Holds the chart's schema of values to keybound's own, and the table of values to that schema.

    values.py schema|table|write KEYBOUND

KEYBOUND is the program, which knows the schema of its configuration. `write` writes both anew.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parent.parent.parent / "deploy/helm/keybound"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"

# The last of the schema's definitions is keybound's, on lines of its own.
PLACE = '    "configuration": '
HEADING = "## Values\n"


def schema(keybound):
    """The schema of values holds keybound's schema as it is."""
    expect(SCHEMA.read_text() == with_configuration(keybound), SCHEMA)


def table(_keybound):
    """README lists every value, with its default."""
    expect(README.read_text() == with_table(), README)


def write(keybound):
    SCHEMA.write_text(with_configuration(keybound))
    README.write_text(with_table())


def with_configuration(keybound):
    told = subprocess.run([keybound, "schema"], capture_output=True, text=True, check=True)
    of_ours = json.loads(told.stdout)
    del of_ours["$schema"]
    text = json.dumps(moved(of_ours), indent=1, sort_keys=True, ensure_ascii=False)
    written = SCHEMA.read_text()
    return written[:written.index(PLACE)] + PLACE + text.replace("\n", "\n    ") + "\n  }\n}\n"


def moved(node):
    """The same schema as a definition of another one."""
    if isinstance(node, list):
        return [moved(it) for it in node]
    if not isinstance(node, dict):
        return node
    made = {key: moved(value) for key, value in node.items()}
    if isinstance(made.get("$ref"), str):
        made["$ref"] = made["$ref"].replace("#/$defs/", "#/$defs/configuration/$defs/")
    return made


def with_table():
    whole = json.loads(SCHEMA.read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | |", "|---|---|---|"]
    for path, about, default in rows(whole, whole, defaults, ()):
        if not about:
            raise AssertionError(f"{'.'.join(path)} has no description")
        shown = json.dumps(default, ensure_ascii=False)
        lines.append(f"| `{'.'.join(path)}` | `{shown}` | {about} |")
    text = README.read_text()
    start = text.index(HEADING) + len(HEADING)
    end = text.index("\n## ", start)
    return text[:start] + "\n" + "\n".join(lines) + "\n" + text[end:]


def rows(schema, whole, default, path):
    """Each value with what is said of it and its default. What has a shape of its own is listed in parts."""
    if schema.get("deprecated"):
        return
    # What is said where a definition is used goes before what the definition says.
    if named := schema.get("$ref"):
        schema = {**whole["$defs"][named.rpartition("/")[2]], **schema}
    parts = schema.get("properties") if schema.get("additionalProperties") is False else None
    # The times of probes have no defaults here.
    if path and (not parts or not set(parts) & set(default or ())):
        if not (path == ("global",)):
            yield path, schema.get("description", ""), default
        return
    if path and schema.get("description"):
        yield path, schema["description"], default
        return
    for name, part in (parts or {}).items():
        yield from rows(part, whole, (default or {}).get(name), (*path, name))


def expect(holds, file):
    if not holds:
        raise AssertionError(
            f"{file} is not up to date: tests/deploy/values.py write target/debug/keybound, with the Python of"
            " tests/provision.py python-tools, and commit what it has written"
        )


COMMANDS = {it.__name__: it for it in (schema, table, write)}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](sys.argv[2])
