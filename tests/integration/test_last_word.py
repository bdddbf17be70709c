"""A source that was restarted after its decision ends its tasks only by the destination's word, and goes back by it."""

import json
import time

import pytest

from arbiter_kit import frozen, kill_tasks
from labkit import deploy, namespace, services
from moving import RunningMove, Scene
from test_daemon_killed import kill_daemon, recorded, start_daemon, wait_for

POINTS = "/run/last-word-points"


@pytest.fixture
def scene(moving_lab):
    """Both daemons stop where they are told to."""
    for host in moving_lab.clouds():
        host.run(["mkdir", "-m", "700", POINTS])
        kill_daemon(host)
        host.run(["rm", "-f", "/run/transship/transshipd.sock"])
        namespace.ask_init(host.record, {**deploy.DAEMON, "env": {"TRANSSHIP_FAULT_POINTS": POINTS}})
        services.wait_until(f"transshipd on {host.name}", lambda host=host: deploy.daemon_answers(host.record))
    s = Scene(moving_lab)
    yield s
    for host in moving_lab.clouds():
        host.run(["rm", "-rf", POINTS])
        if deploy.daemon_pid(host.record):
            kill_daemon(host)
        start_daemon(host)
    s.close()


def dies_at(s, point):
    """A move, until the daemon of one side is gone at that point: (move, its id)."""
    host = s.home if point.startswith("source") else s.lab.host("azure")
    host.run(f"echo die > {POINTS}/{point}")
    move = RunningMove(s.home, "redis", "azure", ("--mode", "stop-copy"))
    wait_for(f"the end of transshipd at {point}", lambda: deploy.daemon_pid(host.record) == 0)
    return move, move.lines[0]["move_id"]


def explained(host, move_id):
    return json.loads(host.run(["transship", "show", move_id, "--json"]).stdout.splitlines()[0])["explanation"]


def test_it_stands_still_until_the_destination_answers(scene):
    aws, azure = scene.home, scene.lab.host("azure")
    move, move_id = dies_at(scene, "source.commit.decided")
    move.outcome()
    assert frozen(aws) and frozen(azure)
    kill_daemon(azure)
    start_daemon(aws)
    wait_for("what aws waits for", lambda: "connect" in explained(aws, move_id))
    assert "until azure answers that it runs there" in explained(aws, move_id)
    for _ in range(4):
        assert frozen(aws) and frozen(azure)
        time.sleep(0.5)
    start_daemon(azure)
    scene.check_runs_on("azure", seconds=30)
    wait_for("the end of the move", lambda: recorded(aws, move)["state"] == "done")


def test_a_destination_that_has_ended_its_copy_gives_it_back(scene):
    """Though the source's journal says commit."""
    aws, azure = scene.home, scene.lab.host("azure")
    move, move_id = dies_at(scene, "source.commit.decided")
    move.outcome()
    azure.run(["transship", "resolve", move_id, "--abort", "--yes"])
    wait_for("the end of the parked container", lambda: not frozen(azure))
    start_daemon(aws)
    scene.check_runs_on("aws", seconds=30)
    assert [recorded(h, move)["state"] for h in (aws, azure)] == ["rolled-back", "rolled-back"]


def test_an_operator_speaks_for_a_destination_that_is_gone(scene):
    aws, azure = scene.home, scene.lab.host("azure")
    move, move_id = dies_at(scene, "source.commit.decided")
    move.outcome()
    kill_daemon(azure)
    kill_tasks(azure)
    start_daemon(aws)
    wait_for("what aws waits for", lambda: "connect" in explained(aws, move_id))
    aws.run(["transship", "resolve", move_id, "--abort", "--yes"])
    scene.redis.wait_answer(aws)
    start_daemon(azure)
    scene.check_runs_on("aws", seconds=30)
    assert recorded(aws, move)["state"] == "rolled-back"


def test_what_is_to_run_is_written_down_before_it_does(scene):
    """The next daemon lets it run, though nobody is there who could tell it so."""
    aws, azure = scene.home, scene.lab.host("azure")
    move, _ = dies_at(scene, "destination.commit.saved")
    kill_daemon(aws)
    move.outcome()
    assert frozen(azure)
    start_daemon(azure)
    wait_for("the container runs on azure", lambda: not frozen(azure))
    scene.redis.wait_answer(azure)
    start_daemon(aws)
    scene.check_runs_on("azure", seconds=30)
    wait_for("the end of the move", lambda: recorded(aws, move)["state"] == "done")
