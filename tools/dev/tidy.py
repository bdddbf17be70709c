#!/usr/bin/env python3
"""Runs clang-tidy on the C++ files of a build, several at once, and remembers which were clean.

    tidy.py BUILD_DIR JOBS [FILE...]        FILE relative to the checkout; all of src/, lab/ and fuzz/ without

clang-tidy takes ten seconds and more a file. What it says depends on the file, the headers of ours and generated ones
that it includes, how it is compiled, .clang-tidy, and the root with its tools and libraries: a digest of all that names
a file in the cache when clang-tidy had nothing to say. Complaints are not remembered.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("CCACHE_DIR", "/var/cache/ccache")) / "clang-tidy"
DEADLINE = 600  # of one file, in seconds
KEEP_DAYS = 30


def compile_commands(build, wanted):
    """(file, arguments without compiler cache, output and -c) of every file of ours in the build, or of the wanted."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        file = pathlib.Path(entry["file"])
        try:
            relative = file.relative_to(SOURCE)
        except ValueError:
            continue
        if relative.parts[0] not in ("src", "lab", "fuzz") or (wanted and str(relative) not in wanted):
            continue
        arguments = shlex.split(entry["command"])
        if arguments[0].endswith("ccache"):
            arguments = arguments[1:]
        output = arguments.index("-o")
        del arguments[output : output + 2]
        arguments.remove("-c")
        yield relative, entry["directory"], arguments


def digest(file, directory, arguments):
    """None when the compiler cannot tell the headers: then clang-tidy says what is wrong."""
    scan = subprocess.run([*arguments, "-MM"], cwd=directory, capture_output=True, text=True, timeout=DEADLINE)
    if scan.returncode != 0:
        return None
    # "a.o: a.cc b.h \": a rule of make, which has no names with spaces here.
    includes = scan.stdout.split(":", 1)[1].replace("\\\n", " ").split()
    state = hashlib.sha256(repr([os.environ.get("TRANSSHIP_ROOT_ID"), str(file), arguments]).encode())
    for path in [SOURCE / ".clang-tidy", *(pathlib.Path(directory, name) for name in includes)]:
        state.update(path.read_bytes())
    return state.hexdigest()


def tidy(build, file, directory, arguments):
    """What clang-tidy complains about in one file; empty when it is clean."""
    key = digest(file, directory, arguments)
    clean = CACHE / key if key else None
    if clean and clean.exists():
        clean.touch()
        return ""
    # The flags are gcc's; clang does not know all of its warnings.
    command = ["clang-tidy", "-quiet", "-p", build, "-extra-arg=-Wno-unknown-warning-option", SOURCE / file]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        return f"{file}: clang-tidy was not done after {DEADLINE} s\n"
    if result.returncode == 0:
        if clean:
            clean.touch()
        return ""
    # Its stderr counts suppressed warnings of system headers; it matters only when there is nothing else.
    return result.stdout or result.stderr


def prune():
    limit = time.time() - KEEP_DAYS * 86400
    for path in CACHE.iterdir():
        if path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)


def main(build, jobs, wanted):
    CACHE.mkdir(parents=True, exist_ok=True)
    prune()
    commands = list(compile_commands(build, wanted))
    if missing := wanted - {str(file) for file, _, _ in commands}:
        print(f"not compiled by the debug build, so clang-tidy cannot read them: {' '.join(sorted(missing))}")
        return 1
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(tidy, build, *command): command[0] for command in commands}
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            complaints = future.result()
            if complaints:
                bad += 1
                print(complaints, end="")
            print(f"[{done}/{len(futures)}] {futures[future]}{': complaints' if complaints else ''}", flush=True)
    return 1 if bad or not commands else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} BUILD_DIR JOBS [FILE...]")
    sys.exit(main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3:])))
