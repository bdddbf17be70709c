"""The checking clients, as the demo and the tests use them."""

import json
import signal
import subprocess
import time
from pathlib import Path

from labkit.api import Host
from labkit.errors import LabError

WORKLOAD = Path(__file__).resolve().parents[1] / "workload/redis_load.py"
ON_CLIENT = "/usr/lib/transship-lab/redis_load.py"


class Load:
    """Clients on `client` that ask the Redis at `address` until stop()."""

    def __init__(self, client: Host, address: str, counters=2, values=2, pause=0.001, patience=120, port=6379, first=0,
                 keepers=0):
        self.client, self.out = client, f"/tmp/redis-load-{time.monotonic_ns()}.json"
        client.put(ON_CLIENT, WORKLOAD.read_bytes())
        self.process = client.popen(
            ["python3", ON_CLIENT, "--host", address, "--port", port, "--counters", counters, "--values", values, "--keepers", keepers, "--pause", pause,
             "--first", first, "--patience", patience, "--out", self.out],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            self.process.kill()
            raise LabError(f"the clients did not start: {self.process.communicate()[1][-2000:]}")
        self.report = None

    def stop(self) -> dict:
        """Ends the clients (once) and returns their report."""
        if self.report is None:
            # Its pid inside the host: the process that we hold is the entrance.
            self.client.run(["kill", "-TERM", self.client.get(self.out + ".pid").decode()])
            try:
                self.process.wait(timeout=130)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                raise LabError("the clients did not end: some never got an answer") from None
            self.report = json.loads(self.client.get(self.out))
        return self.report


def longest_silence_ms(report: dict, begin: float, end: float) -> float:
    """Of any client, that was over between `begin` and `end` (time.monotonic())."""
    return max((1000 * length for over, length in report["silences"] if begin <= over <= end), default=0.0)


def problems(report: dict) -> list[str]:
    found = list(report["errors"])
    found += [f"{name} never got its answer" for name in report["unfinished"]]
    return found
