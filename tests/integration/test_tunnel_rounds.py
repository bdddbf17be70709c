"""Fifty connections, of which half come in by a published port of the home and half from a container next to it, IPv4 and
IPv6, while the Redis that they use goes round the clouds ten times."""

import os

import pytest

from demokit.load import Load
from demokit.subject import IMAGE, PodmanRedis
from labkit import services
from moving import move
from test_tunnel_moves import check_clients, done, hosts, tunnelled, wait_nothing_placed  # noqa: F401  (fixtures)

ROUNDS = int(os.environ.get("TRANSSHIP_ROUNDS", "10"))
NETWORK, V4, V6 = "both", "10.77.0.30", "fd00:77::30"
PORT = 7379
AWS6 = "fd00:10:1::2"


class Inside:
    """A program of the host, in the network of one of its containers."""

    def __init__(self, host, container):
        self.host = host
        self.pid = host.run(["podman", "inspect", "-f", "{{.State.Pid}}", container]).stdout.strip()
        self.put, self.get, self.run = host.put, host.get, host.run

    def popen(self, argv, **options):
        return self.host.popen(["nsenter", "-t", self.pid, "-n", *argv], **options)


@pytest.fixture
def shop(tunnelled, hosts):  # noqa: F811
    """A Redis and a container next to it, in a network of two address families."""
    aws = hosts[0]
    for host in hosts:
        host.run(["podman", "network", "create", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "--ipv6", NETWORK])
    redis = PodmanRedis(tunnelled, name="shop", address=V4)
    before = {h.name: state(h) for h in hosts}
    try:
        for name, last, options in (("shop", "30", ["-p", f"{PORT}:6379"]), ("neighbour", "31", [])):
            aws.run(["podman", "run", "-d", "--name", name, "--network", f"{NETWORK}:ip=10.77.0.{last},ip6=fd00:77::{last}",
                     *options, IMAGE], timeout=90)
        redis.wait_answer(aws)
        yield redis
    finally:
        for host in hosts:
            host.run(["podman", "rm", "-f", "-t", "0", "-i", "shop", "neighbour"], timeout=60)
    wait_nothing_placed(hosts)
    for host in hosts:
        assert state(host) == before[host.name]
        host.run(["podman", "network", "rm", NETWORK])


def state(host):
    return host.run("ip rule; ip -6 rule; ip route show table all | sort; ip -6 route show table all | grep -v expires | sort; "
                    "ip neigh show proxy; ip -6 neigh show proxy; "
                    "for t in $(nft list tables | cut -d' ' -f3 | grep -v netavark); do nft -s list table inet $t; done").stdout


def tracked(host):
    """Connections of the Redis that the host's kernel has an opinion of."""
    lines = host.run("conntrack -L -f ipv4 2>/dev/null; conntrack -L -f ipv6 2>/dev/null; true").stdout.splitlines()
    return [line for line in lines if f"{V4} " in line or f"{V6} " in line]


def test_ten_rounds(shop, hosts, tunnelled):  # noqa: F811
    aws, azure, openstack = hosts
    client, neighbour = tunnelled.host("client"), Inside(aws, "neighbour")
    loads = []
    try:
        for host, address, port, counters, values in ((client, aws.address, PORT, 7, 6), (client, AWS6, PORT, 6, 6),
                                                      (neighbour, V4, 6379, 6, 7), (neighbour, V6, 6379, 6, 6)):
            loads.append(Load(host, address, counters, values, pause=0.02, port=port, first=100 * len(loads)))
        for _ in range(ROUNDS):
            for source, destination in ((aws, azure), (azure, openstack), (openstack, aws)):
                done(move(source, "shop", destination.name))
                for here, port in ((aws.address, PORT), (AWS6, PORT)):
                    assert client.run(["redis-cli", "-h", here, "-p", str(port), "-t", "3", "PING"]).stdout.strip() == "PONG"
        reports = [check_clients(load) for load in loads]
    finally:
        for load in loads:
            if load.report is None:
                load.process.kill()
                load.process.wait(10)
    print([r["requests"] for r in reports])
    for host in (azure, openstack):
        services.wait_until(f"no connection of the Redis in {host.name}'s kernel", lambda: tracked(host) == [])
