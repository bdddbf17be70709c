"""TCP through the tunnel to a container that has moved, and through plain WireGuard between the same hosts, in turns."""

import contextlib
from statistics import median

from demokit.link import measure_link
from demokit.subject import PodmanRedis
from labkit.api import Host

from .subjects import Scene, say

PLAIN, PORT = "plain0", 51900
ADDRESSES = {"aws": "10.99.0.1", "azure": "10.99.0.2"}


@contextlib.contextmanager
def plain_wireguard(a: Host, b: Host):
    """With the same program as the tunnel's, set up by hand as its manual says."""
    keys = {}
    try:
        for host in (a, b):
            host.run("umask 77; wg genkey > /run/plain.key")
            keys[host.name] = host.run("wg pubkey < /run/plain.key").stdout.strip()
            host.run(f"ip link add {PLAIN} type wireguard 2>/dev/null || setsid -f env WG_PROCESS_FOREGROUND=1 wireguard-go -f {PLAIN} "
                     ">/dev/null 2>&1; for i in $(seq 100); do wg show " + PLAIN + " >/dev/null 2>&1 && break; sleep 0.05; done")
        for host, peer in ((a, b), (b, a)):
            host.run(["wg", "set", PLAIN, "listen-port", str(PORT), "private-key", "/run/plain.key", "peer", keys[peer.name], "endpoint",
                      f"{peer.address}:{PORT}", "allowed-ips", "0.0.0.0/0"])
            host.run(f"ip addr add {ADDRESSES[host.name]}/24 dev {PLAIN}; ip link set {PLAIN} mtu 1440 up")
        yield ADDRESSES[b.name]
    finally:
        for host in (a, b):
            host.run(f"ip link del {PLAIN}; rm -f /run/plain.key", check=False)


def measure(scene: Scene, rate: str, runs: int, seconds: int) -> dict:
    ours, plain = [], []
    with scene.shaped(rate, 0), scene.container(PodmanRedis(scene.lab, name="speed", address="10.88.0.62")) as redis, \
            plain_wireguard(scene.home, scene.away) as peer:
        scene.move(redis.reference, scene.home, scene.away)
        pid = scene.away.run(["podman", "inspect", "-f", "{{.State.Pid}}", redis.name]).stdout.strip()
        for _ in range(runs):
            ours.append(measure_link(scene.home, scene.away, redis.address, ["nsenter", "-t", pid, "-n"], seconds))
            plain.append(measure_link(scene.home, scene.away, peer, seconds=seconds))
            say(f"throughput: {ours[-1] / 1e6:.0f} Mbit/s to the container, {plain[-1] / 1e6:.0f} by plain WireGuard")
    return {"runs": runs, "rate": rate, "tunnel_mbits": round(median(ours) / 1e6), "plain_mbits": round(median(plain) / 1e6),
            "ratio": round(median(o / p for o, p in zip(ours, plain)), 3)}


def show(row: dict) -> None:
    print(f"TCP to a container that has moved, links of {row['rate']}: {row['tunnel_mbits']} Mbit/s, plain WireGuard between the hosts {row['plain_mbits']}: "
          f"ratio {row['ratio']:.2f} (must be at least 0.95; medians of {row['runs']})")
