"""An application of the matrix: its image, how it is started, its clients, and what is looked at besides. One module in apps/
for each; a new one is added to APPS there."""

import time

from labkit.api import Host, Lab
from labkit.errors import LabError
from labkit.images import VERSIONS

ADDRESS = "10.88.0.70"
READY_WITHIN = 60.0


class App:
    name = ""                 # of the row, the container and, unless said otherwise, the recipe
    what = ""                 # for people
    image = ""                # recipe, where it is not the name
    promises: tuple[str, ...] = ()  # what its clients must have checked, each at least once
    limit = ""                # why it cannot move, where that is known
    needs = ""                # what a user has to set so that it can move
    checks = ""               # what its clients check, for people
    packages: tuple[str, ...] = ()  # whose versions are told
    options: tuple[str, ...] = ()   # of `podman create`
    command: tuple[str, ...] = ()   # instead of the image's
    address = ADDRESS

    def __init__(self, lab: Lab):
        self.lab, self.client_host = lab, lab.host("client")
        self.clients: list = []

    @property
    def reference(self) -> str:
        return f"podman:{self.name}"

    def create(self, host: Host) -> None:
        """Starts it there, and returns when it answers."""
        image = self.lab.image(self.image or self.name)
        host.run(["podman", "create", "--name", self.name, "--ip", self.address, *self.options, image, *self.command], timeout=180)
        self.before_start(host)
        host.run(["podman", "start", self.name], timeout=60)
        self.lab.route(self.address, host.name)
        self.wait_ready(host)

    def before_start(self, host: Host) -> None:
        """For files that the image does not have."""

    def ready(self, host: Host) -> bool:
        """Whether it answers; looked at until it does."""
        raise NotImplementedError

    def start_load(self, host: Host) -> None:
        """Puts clients that check into self.clients; all of them are in the middle of their work when it returns."""
        raise NotImplementedError

    def wait_ready(self, host: Host) -> None:
        end = time.monotonic() + READY_WITHIN
        while not self.ready(host):
            if not self.copies(host) or time.monotonic() > end:
                raise LabError(f"{self.name} does not answer on {host.name}: {self.said(host)}")
            time.sleep(0.1)

    def copies(self, host: Host) -> int:
        out = host.run(["podman", "ps", "--filter", f"name=^{self.name}$", "--format", "{{.State}}"]).stdout.split()
        return sum(state == "running" for state in out)

    def keys(self, hosts: list[Host]) -> list[str]:
        """Beginnings of its ids, as the daemon calls what belongs to it."""
        argv = ["podman", "ps", "-a", "-q", "--filter", f"name=^{self.name}$"]
        return [key for host in hosts for key in host.run(argv, check=False).stdout.split()]

    def said(self, host: Host) -> str:
        done = host.run(["podman", "logs", "--tail", "30", self.name], check=False)
        return (done.stdout + done.stderr)[-2000:]

    def versions(self, host: Host) -> str:
        form = '{{index .Config.Labels "' + VERSIONS + '"}}'
        told = host.run(["podman", "inspect", "--format", form, self.name]).stdout.strip().split(", ")
        return ", ".join(text for name in self.packages for text in told if text.startswith(f"{name} "))

    def inside(self, host: Host, *words, timeout=60.0, check=True):
        return host.run(["podman", "exec", self.name, *words], timeout=timeout, check=check)

    def port_open(self, host: Host, port: int, first_word=b"") -> bool:
        """Whether something listens there and, when it speaks first, begins with that."""
        code = ("import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2])),2); s.settimeout(5)\n"
                "want=sys.argv[3].encode(); got=s.recv(4096) if want else b''; sys.exit(not got.startswith(want))")
        return host.run(["python3", "-c", code, self.address, port, first_word.decode()], check=False, timeout=15).returncode == 0

    def close(self) -> None:
        """Ends its clients and removes it everywhere."""
        for client in self.clients:
            client.close()
        for host in self.lab.clouds():
            host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=60)
        if self.address in self.lab.routes():
            self.lab.unroute(self.address)
