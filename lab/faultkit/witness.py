"""Sees which copies of a container run, from outside: lab/workload/witness.cc counts in every one of them.

As a program it looks at the cgroups of the hosts given to it every few milliseconds, until its input ends:

    witness.py NAME=CGROUP...     then a line "report" on its input gives one line of JSON, about the time since the last one

Whoever counts has run. A process that counts again after another one has counted is a second copy: a move hands the
container over once, and what is undone has not run anywhere else. That needs no clock that all agree on, and is never wrong: a
process has counted between two looks at it, and the other one had before the first and did after the second.
"""

import json
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = 0x10_0000_0000
PAGE = 4096
PRESENT = 1 << 63
PAUSE = 0.003


class Process:
    """One witness that was seen. `counted`: (looked before, looked after) of the last time that its number had grown."""

    def __init__(self, host: str, pid: int):
        self.host, self.pid = host, pid
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            self.pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
        except OSError:
            os.close(self.memory)
            raise
        self.value, self.looked = None, 0.0
        self.first = self.last = None

    def close(self):
        os.close(self.memory)
        os.close(self.pagemap)

    def look(self, now: float) -> bool:
        """Has it counted since the last look? A page that is still to come is not asked for: nobody counts in it."""
        entry = struct.unpack("Q", os.pread(self.pagemap, 8, ADDRESS // PAGE * 8))[0]
        if not entry & PRESENT:
            return False
        value = struct.unpack("Q", os.pread(self.memory, 8, ADDRESS))[0]
        grown = self.value is not None and value > self.value
        if grown:
            self.last = (self.looked, now)
            self.first = self.first or self.last
        self.value, self.looked = value, now
        return grown

    def name(self) -> str:
        return f"{self.host}:{self.pid}"


class Watch:
    def __init__(self, hosts: dict[str, Path]):
        self.hosts, self.processes, self.ended = hosts, {}, []
        self.cgroups, self.violations, self.order, self.longest = {}, [], [], 0.0

    def find(self):
        """New witnesses. A container's tasks are in its own cgroup or in one below it."""
        for host, top in self.hosts.items():
            try:
                names = [e.name for e in os.scandir(top / "libpod_parent") if e.name.startswith("libpod-") and "conmon" not in e.name]
            except FileNotFoundError:
                continue
            for name in names:
                for inside in ("", "/container"):
                    self.find_in(host, f"{top}/libpod_parent/{name}{inside}/cgroup.procs")

    def find_in(self, host: str, procs: str):
        try:
            with open(procs, encoding="ascii") as f:
                pids = [int(line) for line in f]
        except OSError:
            return
        for pid in pids:
            if pid in self.processes:
                continue
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                    if f.read().strip() == "witness":
                        self.processes[pid] = Process(host, pid)
            except OSError:
                pass  # it has ended since

    def step(self):
        self.find()
        for pid, process in list(self.processes.items()):
            try:
                if process.look(time.monotonic()):
                    self.counted(process)
            except (OSError, struct.error):
                process.close()
                self.ended.append(self.processes.pop(pid))

    def counted(self, process: Process):
        if not self.order or self.order[-1] != process.name():
            self.order.append(process.name())
        for other in [*self.processes.values(), *self.ended]:
            if other is process or other.last is None:
                continue
            began, ended = other.last
            if process.first[1] <= began and ended <= process.last[0]:
                text = f"{process.name()} ran again after {other.name()} had run"
                if text not in self.violations:
                    self.violations.append(text)

    def report(self) -> dict:
        now = time.monotonic()
        running = {p.name(): round(1000 * (now - p.last[1])) for p in self.processes.values() if p.last}
        found = {"violations": self.violations, "order": self.order, "counted_ms_ago": running, "longest_pause_ms": round(1000 * self.longest)}
        self.violations, self.order, self.longest, self.ended = [], [], 0.0, []
        return found


def main(words: list[str]):
    watch = Watch({name: Path(path) for name, _, path in (word.partition("=") for word in words)})
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    before = time.monotonic()
    while True:
        if select.select([sys.stdin], [], [], PAUSE)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps(watch.report()), flush=True)
        watch.step()
        now = time.monotonic()
        watch.longest, before = max(watch.longest, now - before), now


class Witness:
    """The program above, running."""

    def __init__(self, hosts):
        words = [f"{h.name}={h.cgroup}" for h in hosts]
        self.process = subprocess.Popen([sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def report(self) -> dict:
        self.process.stdin.write("report\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(5)


if __name__ == "__main__":
    main(sys.argv[1:])
