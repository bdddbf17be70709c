"""What runs on the hosts: the files it needs, and starting it."""

import socket
import time
from pathlib import Path

from . import cgroup, config, state
from .config import CLOUDS, HOSTS, HostSpec
from .errors import LabError
from .host import copy_guest, write
from .namespace import ask_init, in_network, path_inside
from .run import run

READY_TIMEOUT = 15.0

CONTAINERS_CONF = """\
# Written by the lab.
[containers]
{pids_limit}log_driver = "k8s-file"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
RUNTIME_CONF = """\
[engine.runtimes]
transship = ["/usr/bin/transship-runtime"]
"""
REGISTRIES_CONF = f"""\
unqualified-search-registries = ["{config.REGISTRY}"]

[[registry]]
location = "{config.REGISTRY}"
insecure = true
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'
REGISTRY_CONF = f"""\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: /var/lib/docker-registry}}
  delete: {{enabled: true}}
http:
  addr: "[::]:{config.REGISTRY_PORT}"
"""
SSHD_CONF = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
PrintMotd no
"""


def prepare_files(lab: str, spec: HostSpec, base: Path) -> None:
    """Puts what a host's role needs into its root."""
    upper = base / "upper"
    if spec.role == "router":
        copy_guest(upper, "route_service.py", "usr/lib/transship-lab/route_service.py")
        copy_guest(upper, "rtnetlink.py", "usr/lib/transship-lab/rtnetlink.py")
    if spec.role in ("cloud", "client"):
        prepare_ssh(lab, spec, upper)
    if spec.role == "cloud":
        prepare_podman(upper, cgroup.lab_cgroup(lab).parent)
        copy_guest(upper, "lab-route", "usr/lib/transship/hooks/lab-route", 0o755)
    if spec.role == "registry":
        write(upper / "etc/docker/registry/config.yml", REGISTRY_CONF)


def prepare_podman(upper: Path, cgroup_root: Path) -> None:
    has_pids = "pids" in cgroup.controllers(cgroup_root)
    etc = upper / "etc/containers"
    conf = CONTAINERS_CONF.format(pids_limit="" if has_pids else "pids_limit = 0\n")
    write(etc / "containers.conf.d/50-lab.conf", conf)
    write(etc / "containers.conf.d/60-transship.conf", RUNTIME_CONF)
    write(etc / "registries.conf.d/50-lab.conf", REGISTRIES_CONF)
    write(etc / "policy.json", POLICY)


def make_ssh_keys(lab: str) -> None:
    """One key per cloud's sshd and one for root of every host, made afresh for each lab."""
    keys = state.lab_dir(lab) / "ssh"
    keys.mkdir()
    for name in ["user", *CLOUDS]:
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@{lab}", "-f", keys / name])


def prepare_ssh(lab: str, spec: HostSpec, upper: Path) -> None:
    keys = state.lab_dir(lab) / "ssh"
    ssh = upper / "root/.ssh"
    user_public = (keys / "user.pub").read_text()
    write(ssh / "id_ed25519", (keys / "user").read_bytes(), 0o600)
    write(ssh / "id_ed25519.pub", user_public)
    known = [f"{name},{name}.lab,{HOSTS[name].address},{HOSTS[name].address6} " + " ".join((keys / f"{name}.pub").read_text().split()[:2])
             for name in CLOUDS]
    write(ssh / "known_hosts", "\n".join(known) + "\n")
    (upper / "root").chmod(0o700)
    ssh.chmod(0o700)
    if spec.role == "cloud":
        write(ssh / "authorized_keys", user_public, 0o600)
        write(upper / "etc/ssh/ssh_host_ed25519_key", (keys / spec.name).read_bytes(), 0o600)
        write(upper / "etc/ssh/sshd_config.d/50-lab.conf", SSHD_CONF)


def binds(spec: HostSpec) -> list[tuple[str, str, bool]]:
    """Directories of this machine that a host sees: (source, target, read only)."""
    if spec.role == "registry":
        config.IMAGES.mkdir(parents=True, exist_ok=True)
        return [(str(config.IMAGES), "/var/lib/transship-images", True)]
    return []


def order(name: str, argv: list[str], **more) -> dict:
    return {"op": "start", "name": name, "argv": argv, "log": f"/var/log/{name}.log", **more}


SSHD = order("sshd", ["/bin/sh", "-c", "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e"])
PODMAN_SOCKET = "/run/podman/podman.sock"
PODMAN = order("podman", ["/bin/sh", "-c", f"mkdir -p /run/podman && exec podman system service --time=0 unix://{PODMAN_SOCKET}"])
REGISTRY = order("docker-registry", ["docker-registry", "serve", "/etc/docker/registry/config.yml"])
ROUTES = order("routes", ["python3", "-I", "-S", "/usr/lib/transship-lab/route_service.py", str(config.ROUTE_PORT)])
BY_ROLE = {"cloud": [SSHD, PODMAN], "registry": [REGISTRY], "router": [ROUTES], "client": []}


def start_all(lab_state: dict) -> None:
    for host in lab_state["hosts"].values():
        for service in BY_ROLE[host["role"]]:
            ask_init(host, service)


def wait_until(what: str, ready, log: str = "") -> None:
    """Polls until ready() is true; says what it was waiting for when that takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not come up in {READY_TIMEOUT:g} s", hint=f"see {log}" if log else "")
        time.sleep(0.02)


def wait_ready(lab_state: dict) -> None:
    """Waits until every link carries packets and every service answers."""
    hosts = lab_state["hosts"]
    for name, host in hosts.items():
        logs = state.lab_dir(lab_state["name"]) / "hosts" / name / "upper/var/log"
        if host["role"] == "cloud":
            wait_until(f"the Podman service of {name}", lambda: podman_listens(host), str(logs / "podman.log"))
            wait_until(f"sshd of {name}", lambda: listens(host, 22), str(logs / "sshd.log"))
        if host["role"] == "registry":
            wait_until("the registry", lambda: listens(host, config.REGISTRY_PORT), str(logs / "docker-registry.log"))
        if host["role"] == "router":
            wait_until("the route service", lambda: listens(host, config.ROUTE_PORT), str(logs / "routes.log"))
    for spec in HOSTS.values():
        ping = in_network(hosts[config.WAN], ["ping", "-q", "-c1", "-W1", "-n", spec.address])
        wait_until(f"the link to {spec.name}", lambda: run(ping, check=False).returncode == 0)


def podman_listens(host: dict) -> bool:
    """The socket's file may be there before, and after, somebody listens on it."""
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(str(path_inside(host, PODMAN_SOCKET))) == 0


def listens(host: dict, port: int) -> bool:
    """Is somebody listening on a TCP port in the host's network?"""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{host['pid']}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False
