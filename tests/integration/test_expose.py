"""Entries that stay while the container behind them moves: open connections and new ones, from each cloud.

  client ── router ── aws (home of 10.88.0.30), azure, openstack: port 7379 of each leads to it

Every one of the clouds is the entry, the home or the place of the container at some time, also two of it at once.
"""

import json
import subprocess
import time

import pytest

from demokit.http_echo import PodmanEcho, UDP_PORT
from demokit.load import Load, longest_silence_ms
from labkit import deploy, services
from moving import move
from test_daemon_killed import kill_daemon, start_daemon
from test_move_fails import restart_daemon
from test_tunnel import wait_answers
from test_tunnel_moves import ADDRESS, check_clients, check_data, done, guest, hosts, tunnelled, wait_nothing_placed  # noqa: F401

PORT = 7379
USAGE, FAILED, REFUSED = 2, 1, 4


def expose(host, *words, check=True):
    return host.run(["transship", "expose", *map(str, words)], check=check, timeout=60)


def exposures(host):
    return [json.loads(line) for line in expose(host, "ls", "--json").stdout.splitlines()]


def ping(client, address, port=PORT):
    return client.run(["redis-cli", "-h", address, "-p", str(port), "-t", "3", "PING"], check=False).stdout.strip()


def check_network(hosts):
    for host in hosts:
        checked = host.run(["transship", "network", "check"], check=False)
        assert checked.returncode == 0, f"{host.name}: {checked.stdout}"


def is_known(host):
    return "redis" in host.run(["transship", "network", "check"], check=False).stdout


@pytest.fixture
def open_entries(hosts):
    """Makes entries; what is left of them is taken away afterwards."""
    yield lambda caller, *entries: [expose(caller, "redis", 6379, "--on", f"{entry.name}:{PORT}") for entry in entries]
    for host in hosts:
        for e in exposures(host):
            expose(host, "rm", f"{e['node']}:{e['port']}/{e['protocol']}", check=False)
    services.wait_until("no exposed ports", lambda: all(exposures(h) == [] for h in hosts))


def test_clients_of_each_entry_stay(guest, hosts, open_entries):  # noqa: F811
    aws, azure, openstack = hosts
    s = guest(mib=8, clients=2)
    client = s.lab.host("client")
    open_entries(aws, *hosts)
    assert {(e["node"], e["place"], e["state"]) for e in exposures(aws)} == {(h.name, "aws", "open") for h in hosts}
    loads = [Load(client, h.address, counters=1, values=1, port=PORT, first=10 * n) for n, h in enumerate(hosts, 1)]
    for source, destination in ((aws, azure), (azure, openstack), (openstack, aws), (aws, openstack), (openstack, azure), (azure, aws)):
        begin = time.monotonic()
        services.wait_until(f"{destination.name} has passed on the last late packet", lambda h=destination: h is aws or not is_known(h))
        done(move(source, "redis", destination.name))
        check_data(s, destination)
        for entry in hosts:
            assert ping(client, entry.address) == "PONG", f"{entry.name}, it is on {destination.name}"
            assert ping(entry, entry.address) == "PONG", f"{entry.name} itself, it is on {destination.name}"
        check_network(hosts)
        assert exposures(aws)[0]["place"] == destination.name
        time.sleep(0.5)
        print(source.name, destination.name, "from", begin, "to", time.monotonic())
    for entry, load in zip(hosts, loads):
        report = check_clients(load)
        print(entry.name, "longest silence", longest_silence_ms(report, 0, time.monotonic()), report["requests"], "requests")
    check_clients(s.load)
    expose(aws, "rm", f"azure:{PORT}")
    assert ping(client, azure.address) != "PONG" and ping(client, openstack.address) == "PONG"
    assert [e["node"] for e in exposures(azure)] == []


def test_asked_for_where_it_is_and_ended_on_the_entry(guest, hosts, open_entries):  # noqa: F811
    aws, azure, openstack = hosts
    s = guest(mib=1, clients=0)
    client = s.lab.host("client")
    done(move(aws, "redis", "azure"))
    open_entries(azure, openstack, azure)
    for entry in (openstack, azure):
        assert ping(client, entry.address) == "PONG"
    load = Load(client, azure.address, counters=1, values=1, port=PORT)
    done(move(azure, "redis", "aws"))
    for entry in (openstack, azure):
        assert ping(client, entry.address) == "PONG"
    check_clients(load)
    expose(openstack, "rm", f"openstack:{PORT}")
    assert ping(client, openstack.address) != "PONG"
    assert [e["node"] for e in exposures(aws)] == ["azure"]


def test_a_neighbour_on_the_entry_reaches_it(guest, hosts, open_entries):  # noqa: F811
    """By a prefix that both hosts have, so that replies to its own address would never leave the container's host."""
    aws, azure, _ = hosts
    s = guest(mib=1, clients=0)
    open_entries(aws, aws, azure)
    neighbours = [s.redis.__class__(s.lab, name="neighbour", address="10.88.0.31") for _ in range(2)]
    try:
        for neighbour, host in zip(neighbours, (aws, azure)):
            neighbour.create(host)
        for place in ("aws", "azure"):
            for host in (aws, azure):
                answer = host.run(["podman", "exec", "neighbour", "redis-cli", "-h", host.address, "-p", str(PORT), "-t", "3", "PING"], check=False)
                assert answer.stdout.strip() == "PONG", f"on {host.name}, it is on {place}"
            if place == "aws":
                done(move(aws, "redis", "azure"))
        done(move(azure, "redis", "aws"))
    finally:
        for neighbour, host in zip(neighbours, (aws, azure)):
            neighbour.remove(host)
        s.lab.unroute("10.88.0.31")


def test_it_lasts_over_daemons_and_ends_with_the_container(guest, hosts, open_entries):  # noqa: F811
    aws, azure, openstack = hosts
    s = guest(mib=1, clients=0)
    client = s.lab.host("client")
    open_entries(aws, aws, azure)
    load = Load(client, azure.address, counters=1, values=1, port=PORT)
    done(move(aws, "redis", "openstack"))
    for host in hosts:
        kill_daemon(host)
    assert ping(client, azure.address) == "PONG"
    for host in hosts:
        start_daemon(host)
    assert {e["node"] for e in exposures(aws)} == {"aws", "azure"} and len(exposures(azure)) == 1
    for entry in (aws, azure):
        assert ping(client, entry.address) == "PONG"
    check_network(hosts)
    check_clients(load)  # they would be told that nobody listens
    for _ in range(3):  # the daemon may just be looking itself, as it does every 30 s
        missing = azure.run("nft delete table inet transship_moved; ip rule del pref 7398; transship network check --repair").stdout
        if "missing" in missing:
            break
    assert "missing: firewall table inet transship_moved" in missing and "put right" in missing
    assert ping(client, azure.address) == "PONG"
    s.redis.remove(openstack)
    services.wait_until("nobody exposes it", lambda: all(exposures(h) == [] for h in hosts))
    wait_nothing_placed(hosts)


def test_it_ends_with_the_peer(guest, hosts, open_entries):  # noqa: F811
    """On the entry, whose home it was; it comes again when that is a peer again, as the home was never told to end it."""
    aws, azure, openstack = hosts
    s = guest(mib=1, clients=0)
    client = s.lab.host("client")
    open_entries(aws, azure, openstack)
    try:
        azure.run(["transship", "peer", "rm", "aws"])
        services.wait_until("azure has forgotten it", lambda: exposures(azure) == [])
        assert ping(client, azure.address) != "PONG" and ping(client, openstack.address) == "PONG"
        aws.run(["transship", "peer", "rm", "openstack"])
        services.wait_until("aws has forgotten it", lambda: [e["node"] for e in exposures(aws)] == ["azure"])
    finally:
        deploy.pin_all([h.record for h in hosts])
    for host in hosts:
        for other in hosts:
            if other is not host:
                wait_answers(host, other)
    end = time.monotonic() + 60
    while ping(client, azure.address) != "PONG":
        assert time.monotonic() < end, exposures(aws)
        time.sleep(0.5)
    assert [e["state"] for e in exposures(aws)] == ["open"]
    # Its home has forgotten it, and could not tell.
    assert [e["node"] for e in exposures(openstack)] == ["openstack"]
    expose(openstack, "rm", f"openstack:{PORT}")


# ADDRESS PORT: a numbered datagram every 10 ms until a line comes; then those without an answer for 5 s are missing.
DATAGRAMS = r"""
import json, select, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((sys.argv[1], int(sys.argv[2])))
sent, missing, last, longest = 0, set(), time.monotonic(), 0
def take(seconds):
    global last, longest
    while select.select([s], [], [], seconds)[0]:
        missing.discard(int(s.recv(100)))
        longest, last, seconds = max(longest, time.monotonic() - last), time.monotonic(), 0
while not select.select([sys.stdin], [], [], 0)[0]:
    s.send(str(sent).encode()); missing.add(sent); sent += 1
    take(0.01)
    if sent == 1: take(5); print("ready", flush=True)
end = time.monotonic() + 5
while missing and time.monotonic() < end: take(0.1)
print(json.dumps({"sent": sent, "missing": sorted(missing), "longest_ms": round(longest * 1000)}))
"""


def test_datagrams_are_answered_across_a_move(hosts):  # noqa: F811
    aws, azure, openstack = hosts
    echo = PodmanEcho(aws.lab, "echo", "10.88.0.63")
    try:
        echo.create(aws)
        expose(aws, "echo", f"{UDP_PORT}/udp", "--on", f"openstack:{PORT}")
        asking = aws.lab.host("client").popen(["python3", "-c", DATAGRAMS, openstack.address, str(PORT)], stdin=subprocess.PIPE,
                                              stdout=subprocess.PIPE, text=True)
        assert asking.stdout.readline() == "ready\n"
        done(move(aws, "echo", "azure"))
        report = json.loads(asking.communicate("stop\n", timeout=30)[0])
        print(report)
        assert report["missing"] == [] and report["sent"] > 50
        expose(openstack, "rm", f"openstack:{PORT}/udp")
    finally:
        echo.remove()
    services.wait_until("nobody exposes it", lambda: all(exposures(h) == [] for h in hosts))
    wait_nothing_placed(hosts)


def test_what_cannot_be_is_said_and_leaves_nothing(guest, hosts, open_entries):  # noqa: F811
    aws, azure, openstack = hosts
    s = guest(mib=1, clients=0, options=["-p", "7390:6379"])

    def refused(code, why, *words, caller=aws):
        answer = expose(caller, *words, check=False)
        assert answer.returncode == code, answer.stdout + answer.stderr
        assert why in answer.stderr, answer.stderr

    refused(USAGE, "is not a port", "redis", 70000, "--on", "aws")
    refused(FAILED, 'no container "nobody"', "nobody", 6379, "--on", "aws")
    refused(FAILED, "gcp", "redis", 6379, "--on", "gcp")
    refused(FAILED, "port 7440/tcp is taken", "redis", 6379, "--on", "aws:7440")
    refused(FAILED, "port 7440/tcp is taken", "redis", 6379, "--on", "azure:7440")
    refused(FAILED, "port 7390/tcp is taken", "redis", 6379, "--on", "aws:7390")
    # What it publishes itself can't be had where an entry is.
    expose(aws, "redis", 6379, "--on", "azure:7390")
    plan = aws.run(["transship", "plan", "redis", "--to", "azure", "--json"], check=False)
    assert plan.returncode == REFUSED
    assert [(r["check"], r["found"]) for r in map(json.loads, plan.stdout.splitlines()) if r.get("verdict") == "blocks"] == \
        [("host-port", "port 7390/tcp of azure is an entry, and leads to redis")]
    expose(aws, "rm", "azure:7390")
    open_entries(aws, azure)
    refused(FAILED, f"azure: port {PORT}/tcp leads to redis already", "redis", 6379, "--on", f"azure:{PORT}")
    refused(FAILED, "leads to no container", "rm", "aws:1")
    config = openstack.get(deploy.CONFIG)
    openstack.put(deploy.CONFIG, config + b"\n[tunnel]\nenabled = false\n")
    try:
        restart_daemon(openstack)
        refused(FAILED, "no tunnel", "redis", 6379, "--on", "openstack")
    finally:
        openstack.put(deploy.CONFIG, config)
        restart_daemon(openstack)
    for host in (aws, azure):
        wait_answers(host, openstack)
    kill_daemon(openstack)
    try:
        refused(FAILED, "openstack", "redis", 6379, "--on", "openstack")
    finally:
        start_daemon(openstack)
    assert [(e["node"], e["port"]) for e in exposures(aws)] == [("azure", PORT)]
    assert exposures(openstack) == []
    assert ping(s.lab.host("client"), azure.address) == "PONG"
    check_network(hosts)
