#!/usr/bin/env python3
"""Holds every table of tests in the repository against the schema that the program prints.

    tables.py KEYBOUND
"""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = [*ROOT.glob("deploy/**/*.test.yaml"), *ROOT.glob("tests/tables/**/*.yaml")]

# What is wrong with a table, if anything.
WRONG = {
    "no tests": lambda it: it.pop("tests"),
    "an unknown key": lambda it: it.update(test=[]),
    "an unknown key of a test": lambda it: it["tests"][0].update(reason="allowed"),
    "no reason": lambda it: it["tests"][0]["expect"].pop("reason"),
    "a number for a duration": lambda it: it["tests"][0].update(token={"age": 5}),
    "a signer that there is not": lambda it: it["tests"][0].update(token={"signed_by": "me"}),
    "a null": lambda it: it["tests"][0].update(token=None),
}


def main(keybound):
    told = subprocess.run([keybound, "schema", "--tests"], capture_output=True, text=True, check=True)
    schema = json.loads(told.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert len(TABLES) > 20, TABLES
    for table in TABLES:
        document = yaml.safe_load(table.read_text())
        for error in validator.iter_errors(document):
            sys.exit(f"{table}: {error.json_path}: {error.message}")
    for what, spoil in WRONG.items():
        spoiled = yaml.safe_load(TABLES[0].read_text())
        spoil(spoiled)
        assert not validator.is_valid(spoiled), what


main(sys.argv[1])
