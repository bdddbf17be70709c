"""The container that is moved: a Redis with data, under Podman or as a plain runc bundle."""

import json
import time

from labkit.api import Host, Lab
from labkit.errors import LabError

IMAGE = "registry.lab:5000/redis:lab"
MARK_FILE = "/data/written-before-the-move"


class PodmanRedis:
    engine = "podman"

    def __init__(self, lab: Lab, name="redis", address="10.88.0.10", image=IMAGE):
        self.lab, self.name, self.address, self.image = lab, name, address, image

    @property
    def reference(self) -> str:
        return f"podman:{self.name}"

    def create(self, host: Host, options=()) -> None:
        host.run(["podman", "run", "-d", "--name", self.name, "--ip", self.address, *options, self.image], timeout=90)
        self.lab.route(self.address, host.name)
        self.wait_answer(host)

    def wait_answer(self, host: Host, seconds=10.0) -> None:
        end = time.monotonic() + seconds
        while host.run(["redis-cli", "-h", self.address, "-t", "2", "PING"], check=False, timeout=5).stdout.strip() != "PONG":
            if time.monotonic() > end:
                raise LabError(f"{self.name} does not answer on {host.name}")
            time.sleep(0.05)

    def fill(self, host: Host, mib: int) -> None:
        """Random values, so that nothing compresses, and a file in the root file system."""
        code = (
            "import os,socket,sys\n"
            "host,mib=sys.argv[1],int(sys.argv[2])\n"
            "s=socket.create_connection((host,6379)); f=s.makefile('rb')\n"
            "n=mib*16\n"
            "for i in range(n):\n"
            "    k=b'data:%d'%i; v=os.urandom(65536)\n"
            "    s.sendall(b'*3\\r\\n$3\\r\\nSET\\r\\n$%d\\r\\n%s\\r\\n$65536\\r\\n'%(len(k),k)+v+b'\\r\\n')\n"
            "    if i%64==63 or i==n-1:\n"
            "        for _ in range(i%64+1):\n"
            "            assert f.readline()==b'+OK\\r\\n'\n")
        host.run(["python3", "-c", code, self.address, str(mib)], timeout=120)
        self.write_mark(host)

    def write_mark(self, host: Host) -> None:
        host.run(["podman", "exec", self.name, "sh", "-c", f"echo kept > {MARK_FILE}"])

    def data_digest(self, host: Host, keys: int) -> str:
        """Of the values that fill() wrote, which no client touches."""
        code = ("import hashlib,socket,sys\n"
                "host,n=sys.argv[1],int(sys.argv[2]); h=hashlib.sha256()\n"
                "s=socket.create_connection((host,6379)); f=s.makefile('rb')\n"
                "for i in range(n):\n"
                "    k=b'data:%d'%i; s.sendall(b'*2\\r\\n$3\\r\\nGET\\r\\n$%d\\r\\n%s\\r\\n'%(len(k),k))\n"
                "    size=int(f.readline()[1:]); h.update(f.read(size+2)[:-2])\n"
                "print(h.hexdigest())\n")
        return host.run(["python3", "-c", code, self.address, str(keys)], timeout=120).stdout.strip()

    def mark(self, host: Host) -> str:
        return host.run(["podman", "exec", self.name, "cat", MARK_FILE]).stdout.strip()

    def copies(self, host: Host) -> int:
        """Running ones by the engine's word."""
        out = host.run(["podman", "ps", "--filter", f"name=^{self.name}$", "--format", "{{.State}}"]).stdout.split()
        return sum(state == "running" for state in out)

    def how_it_is(self, host: Host) -> str:
        """Its state by the engine's word and the last that it said: for messages of tests."""
        state = host.run(["podman", "inspect", "--format", "{{json .State}}", self.name], check=False).stdout.strip()
        return f"{self.name} on {host.name}: {state} {host.run(['podman', 'logs', '--tail', '30', self.name], check=False).stdout}"

    def inspect(self, host: Host) -> dict:
        return json.loads(host.run(["podman", "inspect", self.name]).stdout)[0]

    def remove(self, host: Host) -> None:
        host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=30)
