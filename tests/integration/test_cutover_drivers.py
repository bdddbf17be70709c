"""What every cutover driver must do: one suite for all of them."""

import pytest

from demokit.runc_subject import RuncRedis
from labkit import deploy, services
from moving import DONE, RunningMove, Scene, move
from test_daemon_killed import kill_daemon, start_daemon
from test_expose import PORT, exposures, expose, ping
from test_names import ask
from test_tunnel_moves import check_clients, done, placed

ADDRESS = "10.88.0.30"


@pytest.fixture(scope="module", params=["hook", "tunnel"])
def driver(request, moving_lab):
    moving_lab.use_cutover(request.param)
    yield moving_lab
    moving_lab.use_cutover("hook")


@pytest.fixture
def hosts(driver):
    yield driver.clouds()
    services.wait_until("nothing of moved containers in any kernel", lambda: all(placed(h) == "" for h in driver.clouds()))


@pytest.fixture
def make(driver, hosts):
    scenes = []

    def make(**options):
        scenes.append(Scene(driver, **{"mib": 1, "clients": 4, **options}))
        return scenes[-1]

    yield make
    for s in scenes:
        s.close()


def new_client(s):
    """A connection that was not there before the move."""
    return s.lab.host("client").run(["redis-cli", "-h", s.redis.address, "-t", "3", "PING"], check=False).stdout.strip()


def runs_only_on(s, host):
    copies = {h.name: s.redis.copies(h) for h in s.lab.clouds()}
    assert copies == {h: int(h == host.name) for h in copies}
    assert new_client(s) == "PONG"


def test_from_cloud_to_cloud(make, hosts):
    """Clients go on, and find it when they come anew, at every stop; what came during the gap is not lost."""
    aws, azure, openstack = hosts
    s = make()
    held = 0
    for source, destination in ((aws, azure), (azure, openstack), (openstack, azure), (azure, aws)):
        summary = done(move(source, "redis", destination.name))
        held += summary["packets_held"]
        assert summary["packets_dropped"] == 0
        runs_only_on(s, destination)
    assert held > 0  # at one stop all clients may be waiting for an answer
    check_clients(s.load)


def test_a_plain_bundle(make, hosts, driver):
    aws, azure, _ = hosts
    s = make(redis=RuncRedis(driver))
    for source, destination in ((aws, azure), (azure, aws)):
        done(move(source, s.redis.reference, destination.name))
        runs_only_on(s, destination)
    check_clients(s.load)


def test_with_a_new_address(make, hosts, driver):
    """The hook hears of it; with the tunnel nobody in between has anything to do with it."""
    aws, azure, openstack = hosts
    s = make(clients=0)
    expose(aws, "redis", 6379, "--on", f"openstack:{PORT}")
    summary = done(move(aws, "redis", "azure", "--new-ip"))
    old, (new,) = s.redis.address, summary["new_addresses"]
    assert summary["old_addresses"] == [old] and new != old
    try:
        if b'driver = "hook"' in aws.get(deploy.CONFIG):
            assert driver.routes()[new] == driver.host("azure").record["address"] and driver.routes()[old] != driver.routes()[new]
        else:
            assert new not in driver.routes()
            driver.route(new, "azure")
        driver.unroute(old)
        s.redis.address = new
        runs_only_on(s, azure)
        assert s.redis.mark(azure) == "kept"
        assert summary["entries"] == [f"openstack:{PORT}/tcp"] and ping(driver.host("client"), openstack.address) == "PONG"
        assert {ask(h, "redis.transship") for h in hosts} == {new}
    finally:
        driver.unroute(new)
        s.redis.remove(azure)
        services.wait_until("nobody exposes it", lambda: all(exposures(h) == [] for h in hosts))


def test_a_move_that_is_given_up(make, hosts):
    """Also one that was given up where it was a guest."""
    aws, azure, openstack = hosts
    s = make(clients=2)
    for source, destination in ((aws, azure), (azure, openstack)):
        assert move(source, "redis", destination.name, "--max-gap", "1").code != DONE
        runs_only_on(s, source)
        if source is aws:
            done(move(aws, "redis", "azure"))
    done(move(azure, "redis", "aws"))
    check_clients(s.load)


@pytest.mark.parametrize("phase", ["transfer", "restore"])
def test_the_destination_is_killed(make, hosts, phase):
    aws, azure, _ = hosts
    s = make(clients=2)
    running = RunningMove(aws, "redis", "azure")
    assert running.wait_phase(phase)
    kill_daemon(azure)
    outcome = running.outcome()
    start_daemon(azure)
    home = azure if outcome.code == DONE else aws  # it may have been too late to stop it
    services.wait_until(f"the redis answers on {home.name}", lambda: s.redis.copies(home) == 1 and new_client(s) == "PONG")
    runs_only_on(s, home)
    other = aws if home is azure else azure
    done(move(home, "redis", other.name))
    runs_only_on(s, other)
    check_clients(s.load)
