"""nginx under Podman, with downloads, uploads and flows of datagrams that go on while it moves."""

import json
import subprocess
import time
from pathlib import Path

from labkit.api import Host, Lab
from labkit.errors import LabError

WORKLOADS = Path(__file__).resolve().parents[1] / "workload"
ON_CLIENT = "/usr/lib/transship-lab/web_client.py"
SINK = "/usr/lib/web_sink.py"
# Mostly holes, so that it takes no time to move; a mebibyte of every 32 is random, so that none can take another's place.
MAKE_FILE = ("import os,sys\n"
             "f=open('/data/file','wb'); size=int(sys.argv[1]); f.truncate(size)\n"
             "for at in range(0,size,32<<20): f.seek(at); f.write(os.urandom(min(1<<20,size-at)))\n"
             "f.close()\n"
             "import hashlib; print(hashlib.file_digest(open('/data/file','rb'),'sha256').hexdigest())\n")


class PodmanWeb:
    def __init__(self, lab: Lab, name="web", address="10.88.0.60"):
        self.lab, self.name, self.address = lab, name, address

    @property
    def reference(self) -> str:
        return f"podman:{self.name}"

    def create(self, host: Host, options=()) -> None:
        host.run(["podman", "create", "--name", self.name, "--ip", self.address, *options, self.lab.image("web")], timeout=180)
        self.put_sink(host)
        host.run(["podman", "start", self.name], timeout=30)
        self.lab.route(self.address, host.name)
        self.lab.host("client").put(ON_CLIENT, (WORKLOADS / "web_client.py").read_bytes())
        self.wait_answer(host)

    def put_sink(self, host: Host) -> None:
        """Into the container that is there and has not been started yet."""
        host.put("/tmp/web_sink.py", (WORKLOADS / "web_sink.py").read_bytes())
        host.run(["podman", "cp", "/tmp/web_sink.py", f"{self.name}:{SINK}"], timeout=30)

    def wait_answer(self, host: Host, seconds=15.0) -> None:
        end = time.monotonic() + seconds
        while True:
            said = host.run(["curl", "-sS", "-m", "2", f"http://{self.address}/sink/datagrams"], check=False, timeout=10)
            if said.stdout.startswith("{"):
                return
            if time.monotonic() > end:
                raise LabError(f"{self.name} does not answer on {host.name}: {said.stdout}{said.stderr}")
            time.sleep(0.05)

    def make_file(self, host: Host, size: int) -> str:
        """/file, as nginx serves it; returns its SHA-256."""
        return host.run(["podman", "exec", self.name, "python3", "-c", MAKE_FILE, str(size)], timeout=120).stdout.strip()

    def datagrams(self, forget=False) -> dict:
        """What has come."""
        url = f"http://{self.address}/sink/datagrams{'?forget' if forget else ''}"
        return json.loads(self.lab.host("client").run(["curl", "-sS", "-m", "10", url], timeout=20).stdout)

    def client(self, *words) -> "WebClient":
        """See web_client.py; between its two words comes the address."""
        return WebClient(self.lab.host("client"), words[0], self.address, *words[1:])

    def copies(self, host: Host) -> int:
        out = host.run(["podman", "ps", "--filter", f"name=^{self.name}$", "--format", "{{.State}}"]).stdout.split()
        return sum(state == "running" for state in out)

    def remove(self, host: Host) -> None:
        host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=30)


class WebClient:
    """One that runs."""

    def __init__(self, client: Host, *words):
        self.process = client.popen(["python3", ON_CLIENT, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            self.close()
            raise LabError(f"the client of web did not start: {self.process.stderr.read()[-2000:]}")

    def running(self) -> bool:
        return self.process.poll() is None

    def report(self, timeout=300.0) -> dict:
        """Waits for its end."""
        try:
            out, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.close()
            raise LabError(f"the client of web did not end within {timeout:g} s") from None
        if self.process.returncode != 0:
            raise LabError(f"the client of web failed: {errors[-2000:]}")
        return json.loads(out)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
