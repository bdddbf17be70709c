"""Runs in a lab host: kills a program as soon as there is one, or some time later.

    strike.py NAME DELAY_MS LIMIT_S [OLD_PID...]    prints the pid that it has killed; OLD_PIDs are spared
"""

import os
import signal
import sys
import time

# As /proc/PID/comm has it, and what must be among its arguments.
PROGRAMS = {
    "criu": ("criu", b"swrk"), "runc": ("runc", b"restore"), "runtime": ("transship-runti", b"create"),
    "pager": ("transship-pager", b"/"), "conmon": ("conmon", b""),
}


def read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def find(name: str, known: set[int]) -> int:
    comm, word = PROGRAMS[name]
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in known:
            continue
        found = read(f"/proc/{entry}/comm").decode(errors="replace").strip()
        if found.startswith(comm) and word in read(f"/proc/{entry}/cmdline"):
            return int(entry)
        # It may become another program a moment later.
        if found not in ("sh", "transshipd", "podman", "runc", "conmon", "transship-runti", "nsenter", "env", "setpriv"):
            known.add(int(entry))
    return 0


def main():
    name, delay, limit = sys.argv[1], float(sys.argv[2]) / 1000, float(sys.argv[3])
    known = {os.getpid(), *map(int, sys.argv[4:])}
    end = time.monotonic() + limit
    print("ready", flush=True)
    while time.monotonic() < end:
        if pid := find(name, known):
            time.sleep(delay)
            try:
                os.kill(pid, signal.SIGKILL)
                print(pid, flush=True)
            except ProcessLookupError:
                print(0, flush=True)
            return
        time.sleep(0.004)


main()
