"""The tracker of written memory against a program that does everything to its memory that a program can do.

track_drill gathers pages in rounds, as a move would send them, freezes the program and compares what it has with every
page that CRIU would dump. One stale byte fails the test.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from labkit import cgroup, deploy, services

CHURN = deploy.DEFAULT_BUILD / "track_churn"
DRILL = deploy.DEFAULT_BUILD / "track_drill"


def drill(*words) -> tuple[int, list[dict]]:
    done = subprocess.run([DRILL, *map(str, words)], stdout=subprocess.PIPE, text=True, timeout=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module", autouse=True)
def tracker_works():
    if not DRILL.exists():
        pytest.fail(f"{deploy.DEFAULT_BUILD} has no track_drill: ./dev build first")
    _, lines = drill("choose")
    if lines[0]["kind"] != "pagemap-scan":
        pytest.skip(f"no tracking on this kernel: {lines[0]['why']}")


def removed(directory) -> bool:
    """What dies in it is in no list any more, and keeps it busy a moment longer."""
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def churn(request):
    """(pid, cgroup) of the hostile program, in a cgroup of its own. The parameter: how long it rests, in µs."""
    own = cgroup.cgroup2_root() / f"transship-track-{os.getpid()}"
    own.mkdir()
    process = subprocess.Popen([CHURN, "2", str(request.param)], stdout=subprocess.PIPE, text=True)
    try:
        (own / "cgroup.procs").write_text(str(process.pid))
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        yield process.pid, own
        assert process.poll() is None, f"the program did not survive: {process.returncode}"
    finally:
        (own / "cgroup.freeze").write_text("0")
        (own / "cgroup.kill").write_text("1")
        process.wait(10)
        services.wait_until(f"{own} is empty", lambda: removed(own))


def links_of(pid):
    """Where its descriptors lead. It opens and closes some of them all the time."""
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:
            pass
    return links


def assert_clean(pid, code, lines):
    last = next(line for line in lines if line["step"] == "last")
    compared = lines[-1]
    assert code == 0 and compared["step"] == "compared", compared
    assert (compared["different"], compared["missing"]) == (0, 0), compared
    assert compared["same"] > 2000
    assert compared["shared"] >= 4 * 512  # pages of the objects that it shares, seen through its mappings
    assert last["postponed"] == 0
    # Nothing of ours in it: no descriptor, no tracer, no mark on its memory.
    assert not any("userfaultfd" in link for link in links_of(pid))
    assert "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text()
    assert " uw" not in Path(f"/proc/{pid}/smaps").read_text()


# Rest and pause: nearly all of the memory written from round to round, or only a little of it.
@pytest.mark.parametrize("churn", [20, 200, 1000], indirect=True)
@pytest.mark.parametrize("pause, rounds", [(0, 40), (5, 25), (50, 8)])
def test_image_is_the_memory(churn, pause, rounds):
    pid, own = churn
    code, lines = drill("rebuild", "--cgroup", own, "--rounds", rounds, "--pause", pause)
    assert_clean(pid, code, lines)
    assert sum(line.get("mappings", 0) for line in lines) > 10


@pytest.mark.parametrize("churn", [500], indirect=True)
def test_stopped_by_signals_and_tracked_again(churn):
    pid, _ = churn
    for _ in range(3):
        code, lines = drill("rebuild", "--pid", pid, "--rounds", 10, "--pause", 5)
        assert_clean(pid, code, lines)


@pytest.mark.parametrize("churn", [200], indirect=True)
def test_tracker_killed(churn):
    """Whatever round it is in: the program goes on, and can be tracked by the next one."""
    pid, own = churn
    for wait in (0.05, 0.2, 0.5):
        killed = subprocess.Popen([DRILL, "rebuild", "--cgroup", own, "--rounds", "1000", "--pause", "0"], stdout=subprocess.PIPE)
        assert b"tracker" in killed.stdout.readline()
        time.sleep(wait)
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
        killed.stdout.close()
    code, lines = drill("rebuild", "--cgroup", own, "--rounds", 10, "--pause", 5)
    assert_clean(pid, code, lines)


@pytest.mark.parametrize("churn", [200], indirect=True)
def test_no_tracking_copies_all_at_the_end(churn):
    pid, own = churn
    code, lines = drill("rebuild", "--cgroup", own, "--rounds", 2, "--tracker", "none")
    assert_clean(pid, code, lines)
    assert all(line["pages"] == 0 for line in lines if line["step"] == "round")
