"""A parked container whose source does not answer any more: what `show` says of it, and the operator's decision."""

import json

import pytest

from demokit import leftovers
from moving import FAILED, REFUSED, USAGE
from test_daemon_killed import (begin_move, far_lab, in_container, kill_daemon, recorded, scene, slow_lab,  # noqa: F401
                                start_daemon, wait_for, wait_parked)


def show(host, move_id):
    return json.loads(host.run(["transship", "show", move_id, "--json"]).stdout.splitlines()[0])["explanation"]


def resolve(host, move_id, *options, check=True):
    return host.run(["transship", "resolve", move_id, *options], check=check)


@pytest.fixture
def stuck(far_lab, scene):
    """(scene, azure, move): parked on azure; aws' daemon is dead."""
    s = scene(mib=8)
    azure = s.lab.host("azure")
    move = begin_move(s, "--mode", "stop-copy", phase="dump")
    wait_parked(azure, move)
    kill_daemon(s.home)
    move.outcome()
    move_id = move.lines[0]["move_id"]
    wait_for("the question", lambda: "connect" in show(azure, move_id))
    yield s, azure, move, move_id


def test_it_says_what_it_waits_for_and_asks_before_it_does_anything(stuck):
    s, azure, move, move_id = stuck
    text = show(azure, move_id)
    assert "podman:redis is restored on azure and has stood still for" in text
    assert "aws has said nothing of it yet" in text and f"transship resolve {move_id} --commit" in text
    # No terminal, no --yes: only told.
    told = resolve(azure, move_id, "--commit", check=False)
    assert told.returncode == USAGE and "TWO COPIES" in told.stderr and "--yes" in told.stderr
    assert resolve(azure, move_id, check=False).returncode == USAGE
    assert resolve(azure, "nosuchmove", "--abort", "--yes", check=False).returncode == FAILED
    assert "frozen 1" in in_container(s, azure, "cat $cg/cgroup.events")
    start_daemon(s.home)
    s.check_runs_on("aws", seconds=30)
    # Over: nothing to explain, nothing to decide.
    assert show(azure, move_id) == "" and show(s.home, move_id) == ""
    for host in (azure, s.home):
        late = resolve(host, move_id, "--commit", "--yes", check=False)
        assert late.returncode == REFUSED and "nothing is undecided" in late.stderr, late


def test_committed_by_hand_when_the_source_is_gone(stuck):
    s, azure, move, move_id = stuck
    in_container(s, s.home, "echo 1 > $cg/cgroup.kill")  # its host goes off
    resolve(azure, move_id, "--commit", "--yes")
    wait_for("the end of the move", lambda: recorded(azure, move)["state"] == "done")
    # And comes back: what ran there is gone, and says so.
    start_daemon(s.home)
    assert recorded(s.home, move)["state"] == "rolled-back"
    assert "does not run here" in recorded(s.home, move)["error"]
    s.home.run(["podman", "rm", "-f", "-t", "0", "redis"])
    s.check_runs_on("azure", seconds=30)


def test_aborted_by_hand(stuck):
    s, azure, move, move_id = stuck
    resolve(azure, move_id, "--abort", "--yes")
    assert s.redis.copies(azure) == 0
    assert recorded(azure, move)["state"] == "rolled-back" and "operator" in recorded(azure, move)["error"]
    assert leftovers.left_behind(azure, s.before["azure"], ("firewall: ",), patience=10) == []
    start_daemon(s.home)
    s.check_runs_on("aws", seconds=30)
