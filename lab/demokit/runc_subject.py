"""The same Redis as a plain runc bundle: a root directory, a config.json, a network namespace that the operator prepared."""

import json

from labkit.api import Host

from .subject import MARK_FILE, PodmanRedis

# A namespace of this name stands on every cloud, with the container's address in it and a host route to it: what an
# operator who runs plain bundles sets up, and what a move expects to find.
PREPARE_NETWORK = """
set -e
ip netns add {name}
ip link add v{name} type veth peer name eth0 netns {name}
ip link set v{name} up
ip addr add 169.254.77.1/32 dev v{name}
ip route add {address}/32 dev v{name}
ip -n {name} link set lo up
ip -n {name} addr add {address}/32 dev eth0
ip -n {name} link set eth0 up
ip -n {name} route add 169.254.77.1/32 dev eth0
ip -n {name} route add default via 169.254.77.1
"""


class RuncRedis(PodmanRedis):
    engine = "runc"
    bundle = "/srv/redis"

    def __init__(self, lab, name="redis", address="10.88.0.20", image=None):
        super().__init__(lab, name, address, *([image] if image else []))

    @property
    def reference(self) -> str:
        return f"runc:{self.name}"

    def prepare_network(self, host: Host) -> None:
        host.run(PREPARE_NETWORK.format(name=self.name, address=self.address))

    def remove_network(self, host: Host) -> None:
        host.run(f"ip netns del {self.name} 2>/dev/null; ip link del v{self.name} 2>/dev/null; true", check=False)

    def create(self, host: Host, options=()) -> None:
        for cloud in (self.lab.host("aws"), self.lab.host("azure")):
            self.prepare_network(cloud)
        host.run(["podman", "create", "--name", "for-the-bundle", self.image], timeout=90)
        host.run(f"rm -rf {self.bundle}; mkdir -p {self.bundle}/rootfs && podman export for-the-bundle | tar -x -C {self.bundle}/rootfs"
                 f" && podman rm for-the-bundle && cd {self.bundle} && runc spec", timeout=90)
        config = json.loads(host.get(f"{self.bundle}/config.json"))
        config["process"].update(
            terminal=False, cwd="/data",
            args=["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes", "--bind", "0.0.0.0"])
        config["root"]["readonly"] = False
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
        config["linux"]["namespaces"].append({"type": "network", "path": f"/run/netns/{self.name}"})
        config["linux"]["cgroupsPath"] = f"/bundle-{self.name}"
        config["linux"].pop("resources", None)
        host.put(f"{self.bundle}/config.json", json.dumps(config))
        host.run(f"cd {self.bundle} && runc run -d {self.name} </dev/null >/dev/null 2>&1", timeout=30)
        self.lab.route(self.address, host.name)
        self.wait_answer(host)

    def mark(self, host: Host) -> str:
        return host.run(["runc", "exec", self.name, "cat", MARK_FILE]).stdout.strip()

    def write_mark(self, host: Host) -> None:
        host.run(["runc", "exec", self.name, "sh", "-c", f"echo kept > {MARK_FILE}"])

    def how_it_is(self, host: Host) -> str:
        return f"{self.name} on {host.name}: {host.run(['runc', 'state', self.name], check=False).stdout}"

    def copies(self, host: Host) -> int:
        found = json.loads(host.run(["runc", "list", "-f", "json"]).stdout) or []
        return sum(c["id"] == self.name and c["status"] == "running" for c in found)

    def remove(self, host: Host) -> None:
        host.run(["runc", "delete", "--force", self.name], check=False)
        host.run(["podman", "rm", "-f", "-i", "for-the-bundle"], check=False, timeout=30)  # of a create() that failed
        self.remove_network(host)
