"""Moves that nobody in between knows of: addresses are at home on one cloud, and the tunnel leads to where they are.

  client ── router ── aws (home of 10.88.0.30) ══ ts ══ azure ══ ts ══ openstack

The router's route leads to aws all the time.
"""

import json
import time

import pytest

from demokit.load import Load, problems
from labkit import deploy, services
from moving import DONE, Scene, move
from test_daemon_killed import kill_daemon, start_daemon
from test_move_fails import restart_daemon
from test_tunnel import wait_answers

ADDRESS = "10.88.0.30"


@pytest.fixture(scope="module")
def tunnelled(moving_lab):
    """The clouds with the driver `tunnel`."""
    moving_lab.use_cutover("tunnel")
    yield moving_lab
    moving_lab.use_cutover("hook")


@pytest.fixture
def hosts(tunnelled):
    return tunnelled.clouds()


@pytest.fixture
def guest(tunnelled):
    """Makes a Redis in use whose home is aws."""
    scenes = []

    def make(**options):
        scenes.append(Scene(tunnelled, **options))
        return scenes[-1]

    yield make
    for s in scenes:
        s.close()


def done(outcome):
    assert outcome.code == DONE, outcome.lines[-1] if outcome.lines else outcome.stderr
    return outcome.summary


def placed(host):
    """What is of moved containers in a host's kernel."""
    return host.run("ip route show table all proto 185; ip -6 route show table all proto 185; ip rule | grep -E '^(7399|7400):'; "
                    "ip -6 rule | grep -E '^(7399|7400):'; ip neigh show proxy; ip -6 neigh show proxy; "
                    "nft list table inet transship_moved 2>/dev/null; true").stdout


def wait_nothing_placed(hosts):
    services.wait_until("nothing of moved containers in any kernel", lambda: all(placed(h) == "" for h in hosts))


def check_clients(load):
    report = load.stop()
    assert problems(report) == []
    assert (report["lost_writes"], report["wrong_values"], report["tcp_resets"]) == (0, 0, 0)
    assert report["requests"] > 0
    return report


def check_data(scene, host):
    copies = {h.name: scene.redis.copies(h) for h in scene.lab.clouds()}
    assert copies == {h: int(h == host.name) for h in copies}
    assert scene.redis.data_digest(scene.home, scene.keys) == scene.digest  # asked from its home, through the tunnel
    assert scene.redis.mark(host) == "kept"


def test_round_about(guest, hosts):
    """Never more than one tunnel from home, and nothing left on the hosts in between."""
    aws, azure, openstack = hosts
    s = guest(mib=8, clients=4)
    for source, destination in ((aws, azure), (azure, openstack), (openstack, aws)):
        done(move(source, "redis", destination.name))
        check_data(s, destination)
        if destination is not aws:
            services.wait_until(f"{destination.name} is where aws sends it", lambda: leads_to(aws, destination))
            services.wait_until("nothing on the host in between", lambda: all(placed(h) == "" for h in hosts if h not in (aws, destination)))
    check_clients(s.load)
    wait_nothing_placed(hosts)


def leads_to(host, other):
    interface = next(json.loads(line)["tunnel_interface"] for line in host.run(["transship", "peer", "ls", "--json"]).stdout.splitlines()
                     if json.loads(line)["name"] == other.name)
    return host.run(["ip", "route", "get", ADDRESS]).stdout.split()[2] == interface


def test_published_port_and_a_neighbour(guest, hosts):
    """Clients of aws's own port go on, and so does a container that stays on aws; new ones of either kind come in."""
    aws, azure, _ = hosts
    s = guest(mib=1, clients=0, options=["-p", "7379:6379"])
    neighbour = s.redis.__class__(s.lab, name="neighbour", address="10.88.0.31")
    neighbour.create(aws)
    inside = ["podman", "exec", "neighbour", "redis-cli", "-h", ADDRESS, "-t", "3"]
    try:
        load = Load(s.lab.host("client"), aws.address, counters=2, values=2, port=7379)
        aws.run([*inside, "SET", "from", "neighbour"])
        done(move(aws, "redis", "azure"))
        assert aws.run([*inside, "GET", "from"]).stdout.strip() == "neighbour"
        new = s.lab.host("client").run(["redis-cli", "-h", aws.address, "-p", "7379", "-t", "3", "GET", "from"])
        assert new.stdout.strip() == "neighbour"
        # It reaches its neighbour, and the world as from home.
        assert azure.run(["podman", "exec", "redis", "redis-cli", "-h", "10.88.0.31", "-t", "3", "PING"]).stdout.strip() == "PONG"
        done(move(azure, "redis", "aws"))
        assert aws.run([*inside, "GET", "from"]).stdout.strip() == "neighbour"
        check_clients(load)
    finally:
        neighbour.remove(aws)
        s.lab.unroute(neighbour.address)
    wait_nothing_placed(hosts)


def test_without_a_tunnel_nothing_is_begun(guest, hosts):
    aws, azure, _ = hosts
    s = guest(mib=1, clients=0)
    config = azure.get(deploy.CONFIG)
    azure.put(deploy.CONFIG, config + b"\n[tunnel]\nenabled = false\n")
    try:
        restart_daemon(azure)
        outcome = move(aws, "redis", "azure")
        assert outcome.code != DONE
        assert "no tunnel" in outcome.error["message"] and outcome.error["source_running"]
        assert s.redis.copies(aws) == 1
    finally:
        azure.put(deploy.CONFIG, config)
        restart_daemon(azure)
    wait_answers(aws, azure)
    wait_nothing_placed(hosts)


def test_daemons_killed_while_it_is_away(guest, hosts):
    """The way stays, and the next daemons know of it."""
    aws, azure, _ = hosts
    s = guest(mib=1, clients=2)
    done(move(aws, "redis", "azure"))
    before = placed(aws), placed(azure)
    for host in (aws, azure):
        kill_daemon(host)
        start_daemon(host)
    assert (placed(aws), placed(azure)) == before
    s.redis.wait_answer(aws)
    done(move(azure, "redis", "aws"))
    check_clients(s.load)
    wait_nothing_placed(hosts)


def test_what_somebody_has_changed_is_found_and_put_right(guest, hosts):
    aws, azure, _ = hosts
    s = guest(mib=1, clients=0)
    done(move(aws, "redis", "azure"))
    check = ["transship", "network", "check"]
    for host, role in ((aws, "away, on azure"), (azure, "here, at home on aws")):
        services.wait_until(f"{host.name} as it should be", lambda: host.run(check, check=False).returncode == 0)
        assert role in host.run(check).stdout
    aws.run("ip route del 10.88.0.30 proto 185; ip route add 10.88.0.99 dev lo proto 185; nft delete table inet transship_moved")
    found = aws.run([*check, "--json"], check=False)
    last = json.loads(found.stdout.splitlines()[-1])
    assert found.returncode == 1 and not last["repaired"]
    assert [line.split(" through")[0] for line in last["missing"]] == ["route to 10.88.0.30", "firewall table inet transship_moved"]
    assert last["extra"] == ["route to 10.88.0.99 through lo"]
    assert "put right" in aws.run([*check, "--repair"]).stdout
    s.redis.wait_answer(aws)
    done(move(azure, "redis", "aws"))
    wait_nothing_placed(hosts)


def test_a_guest_that_is_removed_is_forgotten(guest, hosts):
    aws, azure, _ = hosts
    s = guest(mib=1, clients=0)
    done(move(aws, "redis", "azure"))
    assert f"{ADDRESS} dev ts" in placed(aws)
    s.redis.remove(azure)
    wait_nothing_placed(hosts)
    s.redis.create(aws)  # its address is free again
