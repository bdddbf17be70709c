"""Both hosts have Podman's 10.88.0.0/16, so two containers may have one address: said before anything moves."""

import json

import pytest

from moving import DONE, REFUSED, PodmanRedis, move

ADDRESS = "10.88.0.30"


@pytest.fixture(scope="module")
def hosts(moving_lab):
    moving_lab.use_cutover("tunnel")
    yield moving_lab.clouds()
    moving_lab.use_cutover("hook")


@pytest.fixture
def redis(moving_lab, hosts):
    made = []

    def make(host, name):
        r = PodmanRedis(moving_lab, name=name, address=ADDRESS)
        made.append(r)
        r.create(host)
        return r

    yield make
    for r in made:
        for host in hosts:
            r.remove(host)
    moving_lab.unroute(ADDRESS)


def check_refused(source, name, destination, checks, *words):
    plan = source.run(["transship", "plan", name, "--to", destination.name, "--json"], check=False, timeout=60)
    rows = [json.loads(line) for line in plan.stdout.splitlines()]
    blocking = [r for r in rows if r["message_type"] == "plan_row" and r["verdict"] == "blocks"]
    assert plan.returncode == REFUSED and sorted(r["check"] for r in blocking) == checks, rows
    said = " ".join(r["found"] + r["remedy"] for r in blocking)
    assert all(word in said for word in (ADDRESS, *words)), said
    before = destination.run("podman ps -a --format '{{.ID}}'").stdout
    assert move(source, name, destination.name).code == REFUSED
    assert destination.run("podman ps -a --format '{{.ID}}'").stdout == before
    assert source.run(["redis-cli", "-h", ADDRESS, "PING"]).stdout.strip() == "PONG"


def test_the_destination_has_a_container_with_that_address(hosts, redis):
    aws, azure, _ = hosts
    redis(aws, "mover")
    redis(azure, "native")
    check_refused(aws, "mover", azure, ["address"], "native", "stop or move")
    azure.run(["podman", "stop", "-t", "0", "native"])
    check_refused(aws, "mover", azure, ["address"], "native", "exited", "podman rm native")
    azure.run(["podman", "rm", "native"])
    azure.run(["podman", "create", "--name", "sleeper", "--ip", ADDRESS, "registry.lab:5000/redis:lab"], timeout=90)
    azure.run(["podman", "create", "--name", "free", "registry.lab:5000/redis:lab"], timeout=90)  # Podman chooses later
    try:
        check_refused(aws, "mover", azure, ["address"], "sleeper", "created", "podman rm sleeper")
        azure.run(["podman", "rm", "sleeper"])
        assert move(aws, "mover", "azure").code == DONE
        # Podman there knows now that it is taken.
        azure.run(["podman", "start", "free"])
        assert azure.run(["podman", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", "free"]).stdout.strip() != ADDRESS
    finally:
        azure.run("podman rm -f -t 0 -i sleeper free", check=False)


def test_the_address_is_at_home_there_but_its_container_is_away(hosts, redis):
    aws, azure, openstack = hosts
    redis(aws, "first")
    assert move(aws, "first", "azure").code == DONE
    redis(openstack, "second")
    check_refused(openstack, "second", aws, ["network"], "first", "azure")
    check_refused(openstack, "second", azure, ["address", "network"], "first")
    assert azure.run(["redis-cli", "-h", ADDRESS, "PING"]).stdout.strip() == "PONG"
