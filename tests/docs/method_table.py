#!/usr/bin/env python3
"""method_table.py QUANTCTL README [--write]: README's table of methods is what the registry says.

Between <!-- methods --> and <!-- /methods -->; --write puts the current table there.
"""
import json
import re
import subprocess
import sys
import tempfile

COLUMNS = [("method", "name"), ("bits", "bits"), ("calibration", "needs_calibration"), ("on the fly", "on_the_fly"),
           ("CPU", "cpu"), ("OpenCL", "opencl"), ("LoRA", "lora"), ("serializable", "serializable"), ("upstream", "upstream_loader")]


def of(method, field):
    if field == "needs_calibration" and method.get("takes_calibration"):
        return "optional"
    return method[field]


def cell(value):
    return {True: "yes", False: "no"}.get(value, value)


def table(quantctl):
    with tempfile.TemporaryDirectory() as root:
        listing = subprocess.run([quantctl, "--embedded", "--root", root, "--output", "json", "methods"],
                                 stdout=subprocess.PIPE, check=True)
    rows = [[cell(of(method, field)) for _, field in COLUMNS] for method in json.loads(listing.stdout)["methods"]]
    lines = [[title for title, _ in COLUMNS], ["---"] * len(COLUMNS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    quantctl, readme = sys.argv[1:3]
    text = open(readme).read()
    expected = re.sub(r"(<!-- methods -->\n).*?(<!-- /methods -->)", lambda m: f"{m[1]}{table(quantctl)}\n{m[2]}", text, flags=re.S)
    if "<!-- methods -->" not in text:
        sys.exit(f"{readme}: the marks <!-- methods --> and <!-- /methods --> are gone")
    if "--write" in sys.argv:
        open(readme, "w").write(expected)
    elif expected != text:
        sys.exit(f"{readme}: the table of methods is not the registry's; run {sys.argv[0]} {quantctl} {readme} --write")


if __name__ == "__main__":
    main()
