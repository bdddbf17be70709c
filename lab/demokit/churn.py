"""A container that changes its memory in every way and checks all of it (lab/workload/memory_churn.cc)."""

import time

from labkit import config
from labkit.api import Host, Lab
from labkit.errors import LabError

PROGRAM = config.BUILD / "bin/memory_churn"
INSIDE = "/usr/bin/memory_churn"
PORT = 7000
ASK = ("import socket,sys\n"
       "print(socket.create_connection((sys.argv[1],int(sys.argv[2])),3).makefile().read())\n")


class Churn:
    reference = "podman:churn"
    name = "churn"

    def __init__(self, lab: Lab, address="10.88.0.40"):
        self.lab, self.address = lab, address

    def create(self, host: Host, mib=16, write_mib=20, writers=2) -> None:
        host.put("/tmp/memory_churn", PROGRAM.read_bytes(), 0o755)
        command = [INSIDE, "--mib", str(mib), "--write-mib", str(write_mib), "--writers", str(writers)]
        host.run(["podman", "create", "--name", self.name, "--ip", self.address, self.lab.image("redis"), *command], timeout=90)
        host.run(["podman", "cp", "/tmp/memory_churn", f"{self.name}:{INSIDE}"], timeout=30)
        host.run(["podman", "start", self.name], timeout=30)
        self.lab.route(self.address, host.name)
        self.wait_progress(host)

    def counters(self) -> dict[str, int]:
        """Empty when it does not answer."""
        done = self.lab.host("client").run(["python3", "-c", ASK, self.address, PORT], check=False, timeout=10)
        return {k: int(v) for k, _, v in (word.partition("=") for word in done.stdout.split())} if done.returncode == 0 else {}

    def wait_progress(self, host: Host, seconds=20.0, since=None) -> dict[str, int]:
        """Until it has done every kind of thing once more. Since every one of them is checked, all memory is right so far."""
        end = time.monotonic() + seconds
        before = since or self.counters()
        while True:
            now = self.counters()
            if before and now and all(now[k] > before[k] for k in before if k != "refused"):
                return now
            before = before or now
            if not self.running(host) or time.monotonic() > end:
                raise LabError(f"{self.name} on {host.name} does not go on ({before} then {now}): {self.log(host)}")
            time.sleep(0.1)

    def running(self, host: Host) -> bool:
        out = host.run(["podman", "ps", "--filter", f"name=^{self.name}$", "--format", "{{.State}}"]).stdout.split()
        return out == ["running"]

    def log(self, host: Host) -> str:
        """What it said of wrong memory."""
        return host.run(["podman", "logs", self.name], check=False).stderr[-2000:]

    def end(self, host: Host) -> str:
        """How it ended and what it said; empty while it runs."""
        code = host.run(["podman", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", self.name], check=False).stdout.strip()
        return "" if code.startswith("running") else f"{code}: {self.log(host)}"

    def remove(self, host: Host) -> None:
        host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=30)
