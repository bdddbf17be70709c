"""The list of fault points says what there is: src/base/fault_points.h and the places in the code agree."""

import re
from collections import Counter
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"
LIST = SRC / "base/fault_points.h"
# As ARCHITECTURE.md has them; what the destination does in a phase is behind the same word. In plan, prepare and so on it
# has a part, in the others only the source acts.
SOURCE_PHASES = ("plan", "reserve", "prepare", "rootfs", "ready", "memory", "dump", "transfer", "restore", "commit", "release",
                 "follow", "cleanup")
DESTINATION_PHASES = ("plan", "reserve", "prepare", "rootfs", "memory", "restore", "commit", "follow", "cleanup")
# Whatever is written down has a point on either side of it.
JOURNALED = {
    "source.ready.before-record": "source.ready.recorded",              # restarts are held
    "source.commit.before-decide": "source.commit.decided",             # the decision
    "source.undo.before-abort": "source.undo.aborted",
    "destination.reserve": "destination.reserve.recorded",
    "destination.prepare.created": "destination.prepare.saved",
    "destination.restore.before-save": "destination.restore.saved",
    "destination.restore.saved": "destination.restore.recorded",
    "destination.commit": "destination.commit.saved",                   # it runs
    "destination.cleanup.before-decide": "destination.cleanup.decided",
    "destination.cleanup.filled": "destination.cleanup.recorded",
}


def listed() -> dict[str, bool]:
    """name -> can it fail"""
    return {name: not goes_on for name, goes_on in re.findall(r'\{"([a-z.-]+)"(, kGoesOn)?\}', LIST.read_text())}


def used() -> list[tuple[str, str]]:
    found = []
    for path in SRC.rglob("*.cc"):
        if not path.name.endswith("_test.cc"):
            found += re.findall(r'fault::(at|pass)\("([a-z.-]+)"\)', path.read_text())
    return found


def test_each_is_in_the_code_once():
    assert Counter(name for _, name in used()) == Counter(list(listed()))


def test_those_that_fail_are_where_code_can_fail():
    assert {name: kind == "at" for kind, name in used()} == listed()


def test_every_phase_has_one():
    names = listed()
    for phase in SOURCE_PHASES:
        assert any(f"{name}.".startswith(f"source.{phase}.") for name in names), phase
    for phase in DESTINATION_PHASES:
        assert any(f"{name}.".startswith(f"destination.{phase}.") for name in names), phase


def test_every_journaled_step_has_one_before_and_one_after():
    assert set(JOURNALED) | set(JOURNALED.values()) <= set(listed())
