"""The pager with a real userfaultfd: memory of a process arrives, while the process changes its mappings, its daemon dies, or
pages are late. pager_drill plays the daemon and the restored process, and compares every byte.

Run by itself it needs no lab; a machine without userfaultfd events (CAP_SYS_PTRACE) fails here, as a move would.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from labkit import config

DRILL = Path(config.BUILD) / "bin/pager_drill"


def drill(scenario: str, mib: int = 128) -> list[dict]:
    """Numbers of one scenario; fails with what the drill says when a byte was wrong."""
    done = subprocess.run([DRILL, scenario, str(mib)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{scenario}: {done.stderr}"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    print(scenario, lines)
    return lines


def pagers() -> set[str]:
    """Those of this test: hosts of labs have process namespaces of their own."""
    found, own = set(), os.readlink("/proc/self/ns/pid")
    for proc in Path("/proc").iterdir():
        try:
            if proc.name.isdigit() and (proc / "comm").read_text().strip() == "transship-pager" and os.readlink(proc / "ns/pid") == own:
                found.add(proc.name)
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    before = pagers(), set(Path("/tmp").glob("ts-pager-*"))
    yield
    end = time.monotonic() + 5  # it speaks before it ends
    while not pagers() <= before[0] and time.monotonic() < end:
        time.sleep(0.02)
    assert pagers() <= before[0]
    assert set(Path("/tmp").glob("ts-pager-*")) <= before[1]


def test_everything_is_filled_while_the_process_sleeps():
    (numbers,) = drill("fill", 512)
    assert numbers["tasks"] == 1 and numbers["faults"] == 0
    # Far below what an idle machine does: a guard against something that has become quadratic.
    assert numbers["fill_gib_per_cpu_s"] > 0.3


def test_faults_are_served_before_the_rest():
    seen, counted = drill("latency", 512)
    assert counted["faults"] > 50 and counted["requests"] == 0
    # A thread that had to wait its turn would wait for hundreds of milliseconds.
    assert seen["seen_p50_us"] < 20_000


@pytest.mark.parametrize("scenario", ["churn", "late-churn"])
def test_fork_mremap_munmap_and_dontneed_while_it_is_filled(scenario):
    """late-churn: all pages arrive after the mappings have changed, so that every wait goes through the changes."""
    (numbers,) = drill(scenario, 256)
    assert numbers["tasks"] == 4
    assert numbers["faults"] > 0
    assert (numbers["requests"] > 0) == (scenario == "late-churn")


def test_absent_pages_are_asked_for_and_waited_for():
    (numbers,) = drill("post-copy")
    assert numbers["served"] >= 200


def test_a_killed_daemon_changes_nothing():
    drill("daemon-killed", 256)


def test_a_restarted_daemon_brings_the_rest():
    (numbers,) = drill("reconnect")
    assert numbers["requests"] >= 1


def test_a_pager_that_is_killed_before_the_end_of_the_restore_makes_processes_wait_and_is_reported():
    (numbers,) = drill("pager-killed-early", 16)
    assert "has died" in numbers["trouble"] and "not complete" in numbers["trouble"]


def test_another_pager_goes_on_filling():
    (numbers,) = drill("pager-killed", 512)
    assert numbers["kills"] >= 1 and numbers["tasks"] == 1


def test_pages_are_asked_for_again_by_another_pager():
    (numbers,) = drill("pager-killed-post-copy", 64)
    assert numbers["requests"] >= 2


def test_a_restarted_daemon_starts_another_pager():
    drill("pager-killed-after-the-daemon")


def test_a_pager_that_is_killed_while_it_takes_over():
    drill("pager-killed-twice")


def test_fork_mremap_and_dontneed_while_pagers_are_killed():
    for _ in range(3):
        *seen, counted = drill("pager-killed-churn", 64)
        if "trouble" in counted:
            # It was killed between the birth of a child and its being told: some microseconds of each fork.
            assert "had not been handed over" in counted["trouble"]
            continue
        assert counted["kills"] == 3 and counted["tasks"] > 8 and seen[0]["changes"] > 500
        return
    pytest.fail("three times in a row is no accident")


def test_a_pager_that_is_killed_with_a_child_in_its_hands_makes_processes_wait():
    (numbers,) = drill("pager-killed-forking", 16)
    assert "has died" in numbers["trouble"] and "had not been handed over" in numbers["trouble"]


def test_pagers_that_are_killed_one_after_the_other_are_given_up():
    (numbers,) = drill("pager-killed-too-often", 16)
    assert numbers["kills"] == 4 and "has died" in numbers["trouble"]


def test_a_process_that_nobody_announced_is_refused():
    (numbers,) = drill("refused", 16)
    assert "4711" in numbers["trouble"]


def test_a_restore_that_ends_half_way_is_reported():
    (numbers,) = drill("half", 16)
    assert "before the restore was complete" in numbers["trouble"]


def test_a_pager_that_is_called_off_ends():
    drill("aborted", 16)
