"""A PostgreSQL whose shared buffers are full, under Podman, and a client in the middle of its transactions."""

import json
import subprocess
import time
from pathlib import Path

from labkit.api import Host, Lab
from labkit.errors import LabError

IMAGE = "registry.lab:5000/postgres:lab"
WORKLOAD = Path(__file__).resolve().parents[1] / "workload/postgres_load.py"
ON_CLIENT = "/usr/lib/transship-lab/postgres_load.py"


class PodmanPostgres:
    def __init__(self, lab: Lab, name="postgres", address="10.88.0.41", buffers_mib=128):
        self.lab, self.name, self.address, self.buffers_mib = lab, name, address, buffers_mib

    @property
    def reference(self) -> str:
        return f"podman:{self.name}"

    def create(self, host: Host) -> None:
        start = ["sh", "/usr/lib/start-postgres", "-c", f"shared_buffers={self.buffers_mib}MB"]
        host.run(["podman", "run", "-d", "--name", self.name, "--ip", self.address, IMAGE, *start], timeout=90)
        self.lab.route(self.address, host.name)
        self.wait_answer(host)

    def wait_answer(self, host: Host, seconds=30.0) -> None:
        end = time.monotonic() + seconds
        question = ["/usr/lib/postgresql/17/bin/psql", "-h", self.address, "-U", "postgres", "-Atc", "SELECT 1"]
        while (said := host.run(question, check=False, timeout=10)).stdout.strip() != "1":
            if time.monotonic() > end:
                logs = host.run(["podman", "logs", self.name], check=False)
                raise LabError(f"{self.name} does not answer on {host.name}: {said.stderr}{logs.stderr[-2000:]}")
            time.sleep(0.1)

    def remove(self, host: Host) -> None:
        host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=30)


class PostgresLoad:
    """One client and one connection; see postgres_load.py. Its tables are there when this has been made."""

    def __init__(self, lab: Lab, address: str, table_mib=100):
        self.client, self.out = lab.host("client"), f"/tmp/postgres-load-{time.monotonic_ns()}.json"
        self.client.put(ON_CLIENT, WORKLOAD.read_bytes())
        argv = ["python3", ON_CLIENT, "--host", address, "--mib", str(table_mib), "--out", self.out]
        self.process = self.client.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            self.close()
            raise LabError(f"the client of PostgreSQL did not start: {self.process.stderr.read()[-2000:]}")

    def stop(self) -> dict:
        """What it saw, after a last look at all rows."""
        self.client.run(["kill", "-TERM", self.client.get(self.out + ".pid").decode()])
        self.process.wait(timeout=120)
        return json.loads(self.client.get(self.out))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
