"""The fault points, as src/base/fault_points.h lists them, and what becomes of a move at each of them."""

import re

from labkit import config

LIST = config.SOURCE / "src/base/fault_points.h"
# name -> can it fail
POINTS = {name: not goes_on for name, goes_on in re.findall(r'\{"([a-z.-]+)"(, kGoesOn)?\}', LIST.read_text(encoding="utf-8"))}
# The processes of a move's container need not fork while they are being filled: tests/integration/test_pager.py has them do it.
del POINTS["pager.forked"]

# Reached only in the undoing of a move, which something else has to start; or by a daemon that was started again.
UNDOING = {"source.undo.before-abort", "source.undo.aborted", "source.undo.thawed",
           "destination.abort", "destination.abort.dead", "destination.abort.undone"}
# Reached by a daemon that was killed before: (what kills it, which outcome).
RESUMING = {
    "source.resume": ("source.commit.decided die", "committed"),
    "source.resume.told": ("source.commit.decided die", "committed"),
    "source.resume.before-record": ("source.commit.decided die", "committed"),
    "destination.resume": ("destination.restore.recorded die", "either"),
    "destination.ask": ("destination.restore.recorded die", "either"),
    # By a pager that takes the place of another one.
    "pager.succeeding": ("pager.recorded die", "committed"),
}
# After the commit for the source, which is before the destination does it.
AFTER_COMMIT = ("source.release", "source.follow", "source.cleanup", "source.commit.decided", "source.end", "destination.commit",
                "destination.cleanup")


def expected(point: str, order: str) -> str:
    """"committed", "rolled-back", or "either": whichever is faster decides, and both are right."""
    if point in UNDOING:
        return "rolled-back"
    if point in RESUMING:
        return RESUMING[point][1]
    word = order.split()[0]
    if word == "stall":
        return "either"
    # Parked, nobody needs the runtime. Pages are asked for from the restore on, and filled before the commit if there
    # are few: what happens then is before the commit, or after it.
    if point in ("runtime.parked", "destination.follow", "pager.filled") or point == "destination.restore.recorded" and word == "die":
        return "either"
    # From pager.recorded on another pager goes on, before the commit too.
    return "committed" if point.startswith((*AFTER_COMMIT, "pager.recorded")) else "rolled-back"


def helpers(point: str) -> list[str]:
    """What else has to happen for this point to be reached: orders for other points."""
    if point in UNDOING:
        return ["source.transfer fail" if point.startswith("source") else "source.restore.parked fail"]
    if point in RESUMING:
        return [RESUMING[point][0]]
    return []


def mode_for(point: str) -> str:
    return "post-copy" if point in ("destination.follow", "source.follow.filled") else "auto"
