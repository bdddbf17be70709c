"""Moves under faults: 60 drawn at random, as `./dev faults` does, and each fault point once. See docs/failure-model.md."""

import os

import pytest

import faults
from faultkit import points
from faultkit.draw import Draw, Fault, draw
from faultkit.run import run
from faultkit.stage import Stage

SEED, RUNS = 20261, 60
# One kind for each point: death where a journaled step is near, else failure; stalls where somebody else is to notice.
STALLS = {"runtime.restore": 6500}


@pytest.fixture(scope="module")
def stage():
    stage = Stage(f"test-{os.getpid()}-faults")
    yield stage
    stage.down()


def go(stage, wanted: Draw):
    faults.settle(stage, wanted)
    outcome = run(stage, wanted)
    print(outcome.line())
    if outcome.wrong:
        stage.down()
    return outcome


@pytest.mark.timeout(2400)  # on a machine with something else to do
def test_random(stage):
    """All of them, so that the message has every run that went wrong."""
    failed = []
    for number in range(RUNS):
        outcome = go(stage, draw(SEED, number, long=False))
        if outcome.wrong or outcome.needs_operator:
            failed.append(outcome.line())
    assert not failed, "\n".join(failed)


def order_for(point: str) -> str:
    if point in STALLS:
        return f"stall {STALLS[point]}"
    return "die" if not points.POINTS[point] or "." in point.partition(".")[2] else "fail"


@pytest.mark.parametrize("point", points.POINTS)
def test_point(stage, point):
    order = order_for(point)
    wanted = [Fault("point", faults.side_of(p), p) for p in [f"{point} {order}", *points.helpers(point)]]
    outcome = go(stage, Draw(0, 0, "hook", "redis", points.mode_for(point), wanted))
    assert not outcome.wrong and not outcome.needs_operator, outcome.line()
    expected = points.expected(point, order)
    assert expected in ("either", outcome.ended), outcome.line()
    assert outcome.unreached == [], outcome.line()


def at(point: str, kind: str, side: str, what="", seconds=0.0) -> Fault:
    return Fault(kind, side, what, seconds, "point", point)


# What went wrong once, and what takes longer than the random runs of CI may. name -> mode, how it ends, faults
SINGLE = {
    "link_is_cut_after_the_decision": ("stop-copy", "committed", [at("source.commit.decided", "cut", "destination", seconds=25.0)]),
    "engine_cannot_remove_the_old_container": ("stop-copy", "committed", [at("source.cleanup", "disk", "source", "storage", 3.0)]),
    "journal_has_no_room_for_the_decision": ("stop-copy", "either", [at("source.dump", "disk", "source", "state", 3.0)]),
    "journal_has_no_room_for_the_end": ("stop-copy", "committed", [at("source.end.before-record", "disk", "source", "state", 2.0)]),
    "hook_fails_after_the_commit": ("stop-copy", "committed", [at("destination.commit", "hook", "destination", seconds=2.0)]),
    "runc_is_killed_in_the_restore": ("auto", "rolled-back", [at("runtime.restore", "program", "destination", "runc")]),
    "monitor_is_dead_before_the_move": ("stop-copy", "committed", [Fault("program", "source", "conmon")]),
    # The destination must not say that the container can run before another pager could take over.
    "pager_is_killed_when_the_restore_is_through": ("post-copy", "committed", [
        Fault("point", "destination", "pager.restored stall 1000"), at("destination.restore.before-save", "program", "destination", "pager")]),
    "engine_is_killed_while_it_creates": ("auto", "either", [at("destination.prepare", "engine", "destination", "own KILL")]),
}


@pytest.mark.parametrize("name", SINGLE)
def test_single(stage, name):
    mode, expected, what = SINGLE[name]
    outcome = go(stage, Draw(0, 0, "hook", "redis", mode, what))
    assert not outcome.wrong and not outcome.needs_operator, outcome.line()
    assert expected in ("either", outcome.ended), outcome.line()
