"""Links, addresses and queues of a lab.

Between a host and the router there are two veth pairs, with a namespace `line` of its own in between:

  host: eth0 <-> line: HOST-h  (bridge HOST)  line: HOST-r <-> router: HOST

The bridge is the wire. When delay or loss is asked for, both ends leave the bridge and the forwarder carries the
packets instead: neither the host nor the router sees any of its links, addresses or routes change.
"""

from . import config
from .config import HOSTS, HostSpec
from .namespace import enter, in_network
from .run import run

LINE = "line"


def line_namespace(wan: dict) -> str:
    return f"/proc/{wan['pid']}/root/run/netns/{LINE}"


def ip_batch(prefix: list[str], commands: list[str], timeout: float = 20.0) -> None:
    run([*prefix, "ip", "-batch", "-"], stdin="\n".join(commands) + "\n", timeout=timeout)


def in_router(wan: dict) -> list[str]:
    return in_network(wan, [])


def in_line(wan: dict) -> list[str]:
    return ["/usr/bin/nsenter", f"--net={line_namespace(wan)}", "--"]


def make_router(wan: dict) -> None:
    """Makes the line namespace inside the router's mount namespace: it goes when the router goes."""
    run(enter(wan, ["ip", "netns", "add", LINE]))
    ip_batch(in_router(wan), ["link set lo up"])
    set_sysctls(in_router(wan), ROUTER_SYSCTLS)
    set_sysctls(in_line(wan), {"net/ipv6/conf/all/disable_ipv6": 1, "net/ipv6/conf/default/disable_ipv6": 1})


def connect(wan: dict, hosts: dict[str, dict]) -> None:
    """Makes all links, addresses and default routes."""
    line = line_namespace(wan)
    inner, outer = [], []
    for name, host in hosts.items():
        spec = HOSTS[name]
        outer += [
            f"link add {name} type veth peer name {name}-r netns {line}",
            f"addr add {spec.gateway}/24 dev {name}",
            f"addr add {spec.gateway6}/64 dev {name} nodad",
            f"link set {name} up",
        ]
        inner += [
            f"link add {name}-h type veth peer name eth0 netns {host['pid']}",
            f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {name}-h master {name} up",
            f"link set {name}-r master {name} up",
            f"link set {name} up",
        ]
    ip_batch(in_router(wan), outer)
    ip_batch(in_line(wan), inner)
    for name, host in hosts.items():
        configure_host(HOSTS[name], host)


HOST_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv6/conf/all/accept_ra": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/ipv4/ping_group_range": "0 2147483647",
}
ROUTER_SYSCTLS = HOST_SYSCTLS


def set_sysctls(prefix: list[str], values: dict) -> None:
    """Writes /proc/sys/net of the namespace entered by prefix (it shows the network of whoever opens it)."""
    script = "".join(f'echo "{value}" > /proc/sys/{name}\n' for name, value in values.items())
    run([*prefix, "/bin/sh", "-e"], stdin=script)


def configure_host(spec: HostSpec, host: dict) -> None:
    prefix = in_network(host, [])
    set_sysctls(prefix, HOST_SYSCTLS)
    ip_batch(prefix, [
        "link set lo up",
        f"addr add {spec.address}/24 dev eth0",
        f"addr add {spec.address6}/64 dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {spec.gateway}",
        f"route add ::/0 via {spec.gateway6}",
    ])


def host_file() -> str:
    """/etc/hosts of every host. Plain names are IPv4 only, so that both ends of a test speak the same; NAME6 is IPv6."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    for spec in config.HOSTS.values():
        lines += [f"{spec.address} {spec.name} {spec.name}.lab", f"{spec.address6} {spec.name}6 {spec.name}6.lab"]
    return "\n".join(lines) + "\n"
