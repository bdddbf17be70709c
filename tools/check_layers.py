#!/usr/bin/env python3
"""Fails when a file of ours includes a layer that its own layer may not use, or has grown too long.

    tools/check_layers.py SRC_DIR

Layers are the folders of src/. What a file outside the table below includes is an error too, so a new folder has to be
put in its place here first. Code made from proto/*.proto counts as a layer named `proto`.
"""

import pathlib
import re
import sys

# Layer: what it may include besides itself. Values flow down, results and events flow up; nothing lower knows anything
# higher. `plan` is pure: it decides from facts that others gathered. `arbiter` knows decisions (of `state`) and nothing
# else of a move: it is a register that happens to be elsewhere.
MAY_USE = {
    "base": "",
    "sys": "base",
    "wire": "base sys proto",
    "criu": "base sys proto",
    "engine": "base sys criu",
    "gate": "base sys criu engine proto",
    "memory": "base sys wire criu",
    "network": "base sys",
    "names": "base sys network",
    "gateway": "base sys network",
    "storage": "base sys wire",
    "state": "base",
    "arbiter": "base state",
    "plan": "base",
    "migrate": "base sys plan wire criu engine gate memory network gateway storage state arbiter proto",
    "node": "base sys plan migrate criu engine gate memory network names gateway storage state arbiter wire proto",
    "cli": "base proto",
}

# gRPC headers take half a minute to compile; only the service files at both ends of the API pay for them.
MAY_USE_GRPC = {"node", "cli"}

MAX_LINES = 600
# File: why it may be longer. A reason, not an excuse: a table that reads better in one piece, for example.
LONG_FILES: dict[str, str] = {}

INCLUDE = re.compile(r'^\s*#\s*include\s*(?P<quote>["<])(?P<path>[^">]+)[">]')


def forbidden(layer, target, quoted):
    """Why a file of `layer` may not include `target`, or None."""
    first = target.split("/")[0]
    if target.endswith(".grpc.pb.h") or first in ("grpc", "grpcpp"):
        return None if layer in MAY_USE_GRPC else f"{layer}/ may not use gRPC ({target})"
    # In <> only the system and libraries: <sys/wait.h> is not our sys/.
    if not quoted or (first not in MAY_USE and first != "proto"):
        return None
    if first == layer or first in MAY_USE[layer].split():
        return None
    return f"{layer}/ may not use {first}/ ({target})"


def check_includes(layer, lines):
    """(line number, complaint) for each include that is wrong; nothing may be reached by a relative path."""
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        if ".." in found["path"].split("/"):
            yield number, f"include {found['path']} by its path from src/"
        elif complaint := forbidden(layer, found["path"], found["quote"] == '"'):
            yield number, complaint


def check_file(root, path):
    relative = path.relative_to(root)
    lines = path.read_text(encoding="utf-8").splitlines()
    layer = relative.parts[0]
    if len(relative.parts) < 2 or layer not in MAY_USE:
        yield 1, f"{layer} is not a layer; add it to MAY_USE in tools/check_layers.py"
        return
    yield from check_includes(layer, lines)
    if len(lines) > MAX_LINES and str(relative) not in LONG_FILES:
        yield MAX_LINES, f"{len(lines)} lines: split it, or give the reason in LONG_FILES of tools/check_layers.py"


def main(root):
    files = sorted(path for path in root.rglob("*") if path.suffix in (".h", ".cc"))
    if not files:
        print(f"{root}: no C++ files; is this the src directory?")
        return 1
    complaints = 0
    for path in files:
        for number, complaint in check_file(root, path):
            print(f"{path}:{number}: {complaint}")
            complaints += 1
    print(f"{len(files)} files checked, {complaints} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SRC_DIR")
    sys.exit(main(pathlib.Path(sys.argv[1])))
