"""What is read from the hosts while something moves: bytes on the link, memory."""

import os
import threading
import time
from pathlib import Path

from labkit import cgroup
from labkit.api import Host
from labkit.errors import LabError

PERIOD = 0.05  # s between two looks at the memory
LONGEST_FILL = 120.0  # s
PROGRAM = "redis-server"
DAEMON = "transshipd"


def sent_bytes(host: Host) -> int:
    """By the host's link since it is there."""
    for line in Path(f"/proc/{host.pid}/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            return int(counters.split()[8])
    raise ValueError(f"{host.name} has no eth0")


def status_of(pid: int) -> dict[str, str]:
    """Empty when the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def kib(status: dict[str, str], field: str) -> int:
    return int(status.get(field, "0 kB").split()[0]) * 1024


def resident(host: Host, name: str) -> int:
    """Bytes of the host's processes of that name."""
    found = map(status_of, cgroup.processes(host.cgroup))
    return sum(kib(s, "VmRSS") for s in found if s.get("Name") == name)


def used_memory(host: Host) -> int:
    """Bytes that nobody could take from the host: private memory of its processes, tmpfs, memory files."""
    pids = cgroup.processes(host.cgroup)
    return sum(kib(status_of(pid), "RssAnon") for pid in pids) + tmpfs_bytes(host.pid) + memory_file_bytes(pids)


def tmpfs_bytes(pid: int) -> int:
    """Of each tmpfs that the process sees, once."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        device, place = left.split()[2], left.split()[4]
        if right.split()[0] == "tmpfs" and device not in found:
            try:
                s = os.statvfs(f"/proc/{pid}/root{place}")
            except OSError:
                continue  # just unmounted
            found[device] = (s.f_blocks - s.f_bfree) * s.f_frsize
    return sum(found.values())


def memory_file_bytes(pids: list[int]) -> int:
    """Of memfds that are open somewhere, each once."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(entry.path).startswith("/memfd:"):
                    s = os.stat(entry.path)
                    found[s.st_dev, s.st_ino] = s.st_blocks * 512
        except OSError:
            pass  # the process, or the descriptor, has gone
    return sum(found.values())


def wait_filled(host: Host, program: str) -> int:
    """Resident bytes of `program` once they grow no more: memory may still be on its way when a move has ended."""
    deadline = time.monotonic() + LONGEST_FILL
    before, now = -1, resident(host, program)
    while now > before * 1.005:
        if time.monotonic() > deadline:
            raise LabError(f"the memory of {program} on {host.name} still grows after {LONGEST_FILL:.0f} s: {now} bytes")
        time.sleep(1.0)
        before, now = now, resident(host, program)
    return now


class MemoryWatch:
    """Looks at both hosts until stop(): most memory in use on the destination, and most of the source's daemon."""

    def __init__(self, source: Host, destination: Host):
        self.source, self.destination = source, destination
        self.before = used_memory(destination)
        self.most, self.daemon_most = self.before, 0
        self.ended, self.error = threading.Event(), ""
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        try:
            while not self.ended.wait(PERIOD):
                self.most = max(self.most, used_memory(self.destination))
                self.daemon_most = max(self.daemon_most, resident(self.source, DAEMON))
        except (OSError, ValueError) as e:
            self.error = str(e)

    def stop(self) -> None:
        self.ended.set()
        self.thread.join(10)

    def extra(self, container: int) -> int:
        """Bytes beyond the container's own, and beyond what was in use before. After stop()."""
        if self.error:
            raise LabError(f"the memory of {self.destination.name} could not be watched: {self.error}")
        return max(0, self.most - self.before - container)


class Stopwatch:
    """Names the parts of something that happens in steps."""

    def __init__(self):
        self.parts: dict[str, float] = {}
        self.last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.parts[name] = round((now - self.last) * 1000, 1)
        self.last = now
