"""One row: an application is started, used, moved there and back, and looked at."""

import contextlib
import subprocess
import time

from demokit import leftovers
from demokit.moves import DONE, NOT_CONVERGED, REFUSED, ROLLED_BACK, Outcome, move
from labkit.api import Host, Lab
from labkit.errors import LabError

from .app import App
from .verdict import Move, Row

BETWEEN = 0.5          # s of load between two moves
GOES_ON_WITHIN = 60.0  # s after a move, in which every client must have got something right again
CLEAN_WITHIN = 15.0    # s: late packets are passed on for some
MOVE_LIMIT = 240.0
LONG_GAP = 3000        # ms


def run(lab: Lab, kind: type[App], moves: int, say=lambda text: None) -> Row:
    """`moves` there and back. Whatever fails is in the row; only an interruption gets out."""
    app = kind(lab)
    row = Row(app.name, app.what, app.promises, 2 * moves, app.checks, app.limit, app.needs)
    hosts = [lab.host("aws"), lab.host("azure")]
    with told(row):
        before = {h.name: leftovers.collect(h) for h in hosts}
        try:
            with told(row):
                app.create(hosts[0])
                row.versions = app.versions(hosts[0])
                app.start_load(hosts[0])
                move_all(app, row, hosts, say)
        finally:
            try:
                # With a hook, one that has moved and is removed by its engine leaves the table of its connections to the daemon's next
                # clean-up.
                allowed = [f"firewall: table inet transship_{key}" for key in app.keys(hosts)]
            finally:
                app.close()
        for host in hosts:
            left = leftovers.left_behind(host, before[host.name], allowed, CLEAN_WITHIN)
            row.trouble += [f"left behind: {line}" for line in left]
    return row


@contextlib.contextmanager
def told(row: Row):
    """What fails in it is trouble of the row, and the next row is tried all the same."""
    try:
        yield
    except LabError as e:
        row.trouble.append(str(e))
    except (ValueError, OSError, subprocess.SubprocessError) as e:
        row.trouble.append(f"{type(e).__name__}: {e}")


def move_all(app: App, row: Row, hosts: list[Host], say) -> None:
    here, there = hosts
    windows = []
    while len(row.moves) < row.wanted:
        time.sleep(BETWEEN)
        begin = time.monotonic()
        outcome = move(here, app.reference, there.name, timeout=MOVE_LIMIT)
        if outcome.code == NOT_CONVERGED:
            # As its message says: a longer gap is to be allowed. What a busy machine makes of it is no matter of the application.
            row.again.append(error_of(outcome))
            say(f"{here.name} -> {there.name}, again with --max-gap {LONG_GAP}: {row.again[-1]}")
            outcome = move(here, app.reference, there.name, "--max-gap", str(LONG_GAP), timeout=MOVE_LIMIT)
        if outcome.code != DONE:
            row.refusal, row.rolled_back = error_of(outcome), outcome.code in (REFUSED, ROLLED_BACK)
            say(f"{here.name} -> {there.name}: {row.refusal}")
            wait_all_go_on(app, row)
            break
        here, there = there, here
        row.moves.append(done_move(there, here, outcome))
        going = wait_all_go_on(app, row)
        windows.append((begin, time.monotonic()))
        say(f"{there.name} -> {here.name}: frozen {row.moves[-1].frozen_ms:.0f} ms, total {outcome.seconds:.1f} s")
        copies = app.copies(here), app.copies(there)
        if copies != (1, 0):
            row.trouble.append(f"after move {len(row.moves)}: {copies[0]} copies on {here.name}, {copies[1]} on {there.name}")
        if not going or copies != (1, 0):
            break
    row.reports = [client.stop() for client in app.clients]
    if any(report.wrong for report in row.reports):
        say(f"{app.name} has said last:\n{app.said(here)}")
    for done, (begin, end) in zip(row.moves, windows):
        silences = [s for report in row.reports for over, s in report.silences if begin <= over <= end]
        done.silence_ms = round(1000 * max(silences, default=0.0), 1)


def error_of(outcome: Outcome) -> str:
    """What the user would have read."""
    errors = outcome.of("error")
    if not errors:
        return f"exit code {outcome.code}: {(outcome.stdout + outcome.stderr)[-500:]}"
    text = errors[0].get("message") or str(errors[0])
    blocks = [line for line in outcome.lines if line.get("verdict") == "block"]
    return "; ".join([text, *(f"{b.get('check')}: {b.get('found')}" for b in blocks)])


def done_move(source: Host, destination: Host, outcome: Outcome) -> Move:
    s = outcome.summary
    return Move(source.name, destination.name, s["total_ms"], s["gap_ms"], s["bytes_sent"], 0.0, s["mode"],
                {name: round(ms, 1) for name, ms in s["gap_parts_ms"].items()})


def wait_all_go_on(app: App, row: Row) -> bool:
    """Every client gets something right that it has not had before, of each kind that it always gets."""
    for client in app.clients:
        first = client.progress()
        if first is None:
            continue
        end = time.monotonic() + GOES_ON_WITHIN
        while waits_for := (now := client.progress()).not_further(first):
            if now.wrong:
                return False  # the report says what
            if time.monotonic() > end:
                row.trouble.append(f"{client.name} has got nothing in {GOES_ON_WITHIN:g} s after move {len(row.moves)}: "
                                   + ", ".join(waits_for))
                return False
            time.sleep(0.05)
    return True
