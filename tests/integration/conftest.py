"""Fixtures on the lab. Everything here needs root and real namespaces, so tests run inside the Debian root (./dev test)."""

import os
import signal
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("moving", "arbiter_kit")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit import cgroup, deploy, state  # noqa: E402
from labkit.api import Lab  # noqa: E402

import gate_kit  # noqa: E402
from moving import Scene  # noqa: E402

PREFIX = "test-"  # then the pid of the test run
# What measures the lab, or the processors' share that a program gets.
ALONE = {"test_lab", "test_lab_network", "test_what_does_not_converge_is_slowed_down_and_then_given_up",
         "test_gap_with_and_without_etcd"}
# What takes about as long as all the rest.
SECOND_HALF = {"test_arbiter", "test_daemon_killed", "test_faults", "test_memory_churn", "test_memory_modes", "test_move", "test_move_fails",
               "test_shared_memory"}


def pytest_addoption(parser):
    parser.addoption("--half", choices=("0", "1", "2"), help="only the tests of one half, so that both can run at once, in a lab each; "
                                                             "0: only those that nothing else may run beside")


def half_of(item) -> str:
    module = item.module.__name__
    if {module, item.originalname} & ALONE:
        return "0"
    return "2" if module in SECOND_HALF else "1"


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # bash does that to what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    # The others put what they like in the programs' places; the daemons are deployed, once, when they have ended.
    items.sort(key=lambda item: "moving_lab" in item.fixturenames)
    if half := config.getoption("--half"):
        wanted = [item for item in items if half_of(item) == half]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the lab needs root"))


@pytest.fixture(scope="session", autouse=True)
def no_stale_labs():
    """Takes down the labs of test runs that were killed."""
    if os.geteuid() == 0:
        for name in {*state.known_labs(), *cgroup.labs_with_cgroups()}:
            owner = name.removeprefix(PREFIX).partition("-")[0]
            if name.startswith(PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
                Lab(name).down()


@pytest.fixture(scope="session")
def lab():
    """A lab of this test run's own. Tests leave its hosts as they found them."""
    lab = Lab(f"{PREFIX}{os.getpid()}")
    lab.up()
    yield lab
    lab.down()


@pytest.fixture
def fresh_lab():
    """A second lab, not up yet, for tests that break things. Taken down afterwards, whatever has become of it."""
    lab = Lab(f"{PREFIX}{os.getpid()}-fresh")
    yield lab
    lab.down()


@pytest.fixture(scope="session")
def moving_lab(lab):
    """The lab with the daemon running on every cloud, and every cloud every other one's peer."""
    if not deploy.programs_exist():
        pytest.fail(f"{deploy.DEFAULT_BUILD} has no programs: ./dev build first")
    lab.deploy()  # whatever other tests have put in the programs' places
    yield lab
    lab.stop_daemons()
    assert lab.take_sanitizer_reports() == []


@pytest.fixture(autouse=True)
def no_sanitizer_reports(request):
    """A program that a sanitizer ends may be one that nobody misses: its report fails the test."""
    lab = request.getfixturevalue("lab") if "lab" in request.fixturenames else None
    yield
    reports = lab.take_sanitizer_reports() if lab else []
    if reports:
        pytest.fail("\n".join(reports), pytrace=False)


@pytest.fixture
def scene(moving_lab):
    """Makes a Redis in use, with the options of Scene; any number of them."""
    scenes = []

    def make(**options):
        scenes.append(Scene(moving_lab, **options))
        return scenes[-1]

    yield make
    for s in scenes:
        s.close()


@pytest.fixture(scope="module")
def hosts(lab):
    """aws and azure with what gate_kit needs."""
    lab.image("redis")
    gate_kit.install(lab)
    yield lab.host("aws"), lab.host("azure")
    for name in ("aws", "azure"):
        lab.host(name).run("nft delete table ip gate_test; rm -rf /run/gate-test /usr/bin/gate_drill", check=False)
