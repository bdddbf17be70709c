"""Three nodes of etcd on `registry`, with TLS, for labs that ask for it; and the clouds' daemons told of them.

Data is on tmpfs, so that a disk is in no measurement unless it is asked for. `down` ends them with their host.
"""

import subprocess

from . import config, deploy, namespace
from .namespace import ask_init, path_inside
from .run import run
from .services import listens, order, wait_until

HOST = "registry"
NODES = ("etcd-1", "etcd-2", "etcd-3")
CLIENT_PORTS = (2379, 2389, 2399)
ON_TMPFS, ON_DISK = "/run/etcd", "/var/lib/etcd"
KEYS = "/etc/transship/etcd"  # in every cloud: ca.pem, cert.pem, key.pem
DAYS = "30"

ARBITER = f"""
[arbiter]
type = "etcd"
endpoints = "{{endpoints}}"
ca = "{KEYS}/ca.pem"
certificate = "{KEYS}/cert.pem"
key = "{KEYS}/key.pem"
prefix = "{{prefix}}"
lease_s = {{lease_s}}
"""


def endpoints() -> list[str]:
    return [f"https://{config.HOSTS[HOST].address}:{port}" for port in CLIENT_PORTS]


def start(lab_state: dict, data: str = ON_TMPFS) -> None:
    """Brings up a new cluster, without any data, and waits until it answers."""
    host = namespace.host_of(lab_state, HOST)
    make_keys(host)
    run(namespace.enter(host, ["rm", "-rf", ON_TMPFS, ON_DISK]))
    run(namespace.enter(host, ["mkdir", "-p", data]))
    for name in NODES:
        start_node(lab_state, name, data)
    wait_until("etcd", lambda: healthy(host), "/var/log/etcd-1.log on registry")


def start_node(lab_state: dict, name: str, data: str = ON_TMPFS) -> None:
    """One of them; with what it had in its directory when it was killed."""
    host = namespace.host_of(lab_state, HOST)
    at = NODES.index(name)
    peers = [f"http://127.0.0.1:{port + 1}" for port in CLIENT_PORTS]
    url = endpoints()[at]
    ask_init(host, order(name, [
        "etcd", "--name", name, "--data-dir", f"{data}/{name}", "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peers[at], "--initial-advertise-peer-urls", peers[at],
        "--initial-cluster", ",".join(f"{n}={p}" for n, p in zip(NODES, peers)),
        "--initial-cluster-token", lab_state["name"], "--log-level", "warn",
        "--client-cert-auth", "--trusted-ca-file", f"{KEYS}/ca.pem", "--cert-file", f"{KEYS}/server.pem", "--key-file", f"{KEYS}/server-key.pem",
    ], restart=False))
    wait_until(f"{name}", lambda: listens(host, CLIENT_PORTS[at]), f"/var/log/{name}.log on registry")


def stop(lab_state: dict) -> None:
    host = namespace.host_of(lab_state, HOST)
    for service in ask_init(host, {"op": "list"})["services"]:
        if service["name"] in NODES and service["pid"]:
            ask_init(host, {"op": "stop", "name": service["name"]})
            wait_until(f"the end of {service['name']}", lambda name=service["name"]: not node_pid(lab_state, name))
    run(namespace.enter(host, ["rm", "-rf", ON_TMPFS, ON_DISK]))


def node_pid(lab_state: dict, name: str) -> int:
    """Inside `registry`; 0: it does not run."""
    services = ask_init(namespace.host_of(lab_state, HOST), {"op": "list"})["services"]
    return next((s["pid"] for s in services if s["name"] == name), 0)


def etcdctl(lab_state: dict, *words: str, check: bool = True) -> subprocess.CompletedProcess:
    host = namespace.host_of(lab_state, HOST)
    tls = ["--cacert", f"{KEYS}/ca.pem", "--cert", f"{KEYS}/cert.pem", "--key", f"{KEYS}/key.pem"]
    argv = ["etcdctl", "--endpoints", ",".join(endpoints()), "--command-timeout", "3s", *tls, *words]
    return run(namespace.enter(host, argv, {"ETCDCTL_API": "3"}), check=check, timeout=30)


def healthy(host: dict) -> bool:
    tls = ["--cacert", f"{KEYS}/ca.pem", "--cert", f"{KEYS}/cert.pem", "--key", f"{KEYS}/key.pem"]
    argv = ["etcdctl", "--endpoints", endpoints()[0], "--command-timeout", "1s", *tls, "endpoint", "health"]
    return run(namespace.enter(host, argv, {"ETCDCTL_API": "3"}), check=False, timeout=20).returncode == 0


def make_keys(host: dict) -> None:
    """An authority of this lab, a certificate for the nodes and one for their clients."""
    if path_inside(host, f"{KEYS}/key.pem").exists():
        return
    address = config.HOSTS[HOST].address
    script = f"""set -e
mkdir -p {KEYS}; cd {KEYS}
new() {{ openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1" -subj "/CN=$2" "${{@:3}}" 2>/dev/null; }}
new ca-key.pem lab-etcd -x509 -days {DAYS} -out ca.pem
sign() {{ openssl x509 -req -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days {DAYS} -extfile <(echo "$1") -out "$2" 2>/dev/null; }}
new server-key.pem etcd | sign "subjectAltName=IP:{address},IP:127.0.0.1,DNS:{HOST}" server.pem
new key.pem transshipd | sign "extendedKeyUsage=clientAuth" cert.pem
"""
    run(namespace.enter(host, ["bash", "-c", script]), timeout=30)


def use(lab_state: dict, driver: str = "hook", lease_s: int = 5, prefix: str = "/transship", hosts=config.CLOUDS) -> None:
    """Restarts the daemons of these hosts with the arbiter in their configuration, and waits until they answer."""
    keys = {name: path_inside(namespace.host_of(lab_state, HOST), f"{KEYS}/{name}").read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")}
    for name in hosts:
        host = namespace.host_of(lab_state, name)
        for file, data in keys.items():
            deploy.install(host, f"{KEYS}/{file}", data, 0o600)
    deploy.configure([namespace.host_of(lab_state, name) for name in hosts], driver,
                     ARBITER.format(endpoints=", ".join(endpoints()), prefix=prefix, lease_s=lease_s))


def do_without(lab_state: dict, driver: str = "hook", hosts=config.CLOUDS) -> None:
    deploy.configure([namespace.host_of(lab_state, name) for name in hosts], driver)
