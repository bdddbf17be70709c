"""What a row of the matrix is worth. Nothing here does anything: results come in, a verdict goes out.

A row passes by what its clients have checked themselves, and by nothing else: no report, no check, or a check that never got
to look at anything, and it fails.
"""

from dataclasses import dataclass, field

PASS, FAIL, CANNOT = "pass", "fail", "cannot move"


@dataclass
class Report:
    """Of one client: how often it found each thing right, and what it found wrong."""

    client: str
    checked: dict[str, int]
    wrong: list[str] = field(default_factory=list)
    silences: list[tuple[float, float]] = field(default_factory=list)  # (over at, s)


@dataclass
class Progress:
    """Of one client, of what has to go on all the time: how often it was right. And how many things were wrong."""

    checked: dict[str, int]
    wrong: int

    def not_further(self, since: "Progress") -> list[str]:
        return [what for what, times in self.checked.items() if times <= since.checked.get(what, 0)]


@dataclass
class Move:
    """One that was done, as the program says, and the longest silence of any client in it."""

    source: str
    destination: str
    total_ms: float
    frozen_ms: float
    bytes_sent: int
    silence_ms: float
    did: str = ""
    parts_ms: dict[str, float] = field(default_factory=dict)  # of the time that it stood still


@dataclass
class Row:
    app: str
    what: str
    promises: tuple[str, ...]  # what must have been checked
    wanted: int                # moves
    checks: str = ""           # what its clients check, for people
    limit: str = ""            # why it is known not to move
    needs: str = ""            # what a user has to set so that it can
    versions: str = ""
    moves: list[Move] = field(default_factory=list)
    refusal: str = ""          # of the first move that did not come about: the error as the user gets it
    again: list[str] = field(default_factory=list)  # moves that were given up, and done with a longer gap: why
    rolled_back: bool = False  # after which the source went on
    reports: list[Report] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)  # whatever else was not as it must be

    def checked(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for report in self.reports:
            for what, times in report.checked.items():
                total[what] = total.get(what, 0) + times
        return total


def judge(row: Row) -> tuple[str, str]:
    """The verdict, and why unless it is a pass."""
    complaints = list(row.trouble) + unchecked(row) + [f"{r.client}: {text}" for r in row.reports for text in r.wrong]
    if row.limit:
        if not row.refusal:
            complaints.insert(0, "it is listed as one that cannot move, and has moved")
        elif not row.rolled_back:
            complaints.insert(0, f"the move failed, and not so that the source goes on: {row.refusal}")
        return (FAIL, "; ".join(complaints)) if complaints else (CANNOT, row.limit)
    if row.refusal:
        complaints.insert(0, f"move {len(row.moves) + 1} of {row.wanted}: {row.refusal}")
    elif len(row.moves) != row.wanted:
        complaints.insert(0, f"{len(row.moves)} of {row.wanted} moves")
    return (FAIL, "; ".join(complaints)) if complaints else (PASS, "")


def unchecked(row: Row) -> list[str]:
    checked = row.checked()
    if not row.promises or not row.reports:
        return ["no client has checked anything"]
    return [f"no client has checked: {what}" for what in row.promises if checked.get(what, 0) <= 0]
