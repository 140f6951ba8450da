#!/usr/bin/env python3
"""include_arrows.py ROOT: every #include follows the arrows of docs/architecture.md, and types stop where it says.

The one exception is the composition root of quantctl, which starts the server in-process for --embedded.
"""
import re
import sys
from pathlib import Path

MAY_INCLUDE = {
    "core": {"core"},
    "formats": {"formats", "core"},
    "kernels": {"kernels", "core"},
    "quantizers": {"quantizers", "formats", "kernels", "core"},
    "models": {"models", "quantizers", "formats", "kernels", "core"},
    "service": {"service", "models", "quantizers", "formats", "kernels", "core"},
    "client": {"client"},
}
COMPOSITION_ROOT = {("client/quantctl/embedded.cc", "service"), ("client/quantctl/embedded.cc", "core")}
INCLUDE = re.compile(r'^#include "([a-z_]+)/', re.MULTILINE)
JSON = re.compile(r"^#include [<\"]nlohmann/", re.MULTILINE)
GRPC = re.compile(r"^#include [<\"](grpcpp|grpc|google/protobuf|quant/v1|inference)/", re.MULTILINE)


def json_allowed(path: str) -> bool:
    return path.startswith(("formats/", "quantizers/codecs/", "service/", "client/"))


def violations(root: Path):
    for room, allowed in MAY_INCLUDE.items():
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in (".h", ".cc", ".cl"):
                continue
            name = str(path.relative_to(root))
            text = path.read_text()
            for target in set(INCLUDE.findall(text)) & set(MAY_INCLUDE):
                if target not in allowed and (name, target) not in COMPOSITION_ROOT:
                    yield f"{name} includes {target}/"
            if JSON.search(text) and not json_allowed(name):
                yield f"{name} includes nlohmann/json: JSON stops in formats/ and quantizers/codecs/"
            if GRPC.search(text) and room not in ("service", "client"):
                yield f"{name} includes gRPC or Protobuf: they stop in service/ and client/"


def main():
    found = list(violations(Path(sys.argv[1])))
    print("\n".join(found) or "every include follows the arrows")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
