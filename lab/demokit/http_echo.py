"""Small HTTP servers under Podman, and requests to them that go on while they move."""

import json
import subprocess
import time
from pathlib import Path

from labkit.api import Host, Lab
from labkit.errors import LabError

WORKLOADS = Path(__file__).resolve().parents[1] / "workload"
INSIDE = "/usr/lib/http_echo.py"
ON_CLIENT = "/usr/lib/transship-lab/http_load.py"
PORT, UDP_PORT = 8080, 9001


class PodmanEcho:
    def __init__(self, lab: Lab, name: str, address: str):
        self.lab, self.name, self.address = lab, name, address

    def create(self, host: Host, options=()) -> None:
        host.put("/tmp/http_echo.py", (WORKLOADS / "http_echo.py").read_bytes())
        host.run(["podman", "create", "--name", self.name, "--ip", self.address, *options, self.lab.image("web"),
                  "python3", INSIDE, self.name], timeout=180)
        host.run(["podman", "cp", "/tmp/http_echo.py", f"{self.name}:{INSIDE}"], timeout=30)
        host.run(["podman", "start", self.name], timeout=30)
        self.lab.route(self.address, host.name)
        self.wait_answer(host)

    def wait_answer(self, host: Host, seconds=15.0) -> None:
        end = time.monotonic() + seconds
        while True:
            said = host.run(["curl", "-sS", "-m", "2", f"http://{self.address}:{PORT}/"], check=False, timeout=10)
            if said.stdout.startswith("{"):
                return
            if time.monotonic() > end:
                raise LabError(f"{self.name} does not answer on {host.name}: {said.stdout}{said.stderr}")
            time.sleep(0.05)

    def remove(self) -> None:
        for host in self.lab.clouds():
            host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=30)
        if self.address in self.lab.routes():
            self.lab.unroute(self.address)


class HttpLoad:
    """See http_load.py."""

    def __init__(self, client: Host, address: str, port: int, connections=8):
        client.put(ON_CLIENT, (WORKLOADS / "http_load.py").read_bytes())
        self.process = client.popen(["python3", ON_CLIENT, address, str(port), str(connections)],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            self.close()
            raise LabError(f"the client did not start: {self.process.stderr.read()[-2000:]}")

    def stop(self) -> dict:
        try:
            out, errors = self.process.communicate("stop\n", timeout=60)
        except subprocess.TimeoutExpired:
            self.close()
            raise LabError("the client did not end within 60 s") from None
        if self.process.returncode != 0:
            raise LabError(f"the client failed: {errors[-2000:]}")
        return json.loads(out)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
