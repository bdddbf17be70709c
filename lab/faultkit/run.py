"""One move under its faults, and what is checked when they are over."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from demokit.load import problems
from demokit.moves import RunningMove
from labkit.api import Host
from labkit.errors import LabError

from .actions import Injector
from .draw import Draw
from .stage import MIB, RESTART_POLICY, Stage

MOVE_LIMIT = 150.0   # with every fault over a move ends by itself long before
END_LIMIT = 100.0    # until both journals say that it is over
LINGER = 5.0         # after the end of the program: a daemon is started again within a second
CLEAN_LIMIT = 15.0
ANSWER_LIMIT = 40.0
COUNTS = 400         # ms: a copy that has not counted for so long does not run
GONE_WRONG = ("two_copies", "no_copy", "lost_writes", "wrong_bytes", "broken_connections", "left_behind", "never_over")


@dataclass
class Outcome:
    draw: Draw
    source: str
    destination: str
    ended: str = "?"                      # "committed", "rolled-back"
    seconds: float = 0.0
    move_id: str = ""
    needs_operator: str = ""              # what a person would have to do
    wrong: dict[str, list[str]] = field(default_factory=dict)  # of GONE_WRONG
    notes: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)  # fault points

    def add(self, what: str, *texts: str):
        if texts:
            self.wrong.setdefault(what, []).extend(texts)

    def line(self) -> str:
        d = self.draw
        text = f"seed {d.seed} run {d.number} {self.source}>{self.destination} {d} | {self.ended} | {self.seconds:.1f} s"
        if self.needs_operator:
            text += f" | operator: {self.needs_operator}"
        for what, texts in self.wrong.items():
            text += f"\n    {what}: " + "\n      ".join(texts)
        return text


def run(stage: Stage, draw: Draw) -> Outcome:
    source = stage.host
    destination = next(h for h in stage.hosts if h.name != source.name)
    outcome = Outcome(draw, source.name, destination.name)
    begin = time.monotonic()
    stage.witness.report()
    injector = Injector(stage, source, destination, draw)
    try:
        stage.begin_load()
        injector.begin()
        move = RunningMove(source, stage.subject.reference, destination.name, ("--mode", draw.mode))
        injector.started(move)
        wait_move(move, outcome)
        linger(stage, injector)
    finally:
        injector.end()
        outcome.notes, outcome.unreached = injector.log, injector.unreached
    outcome.move_id = next((line["move_id"] for line in move.lines if line.get("move_id")), "")
    try:
        check(stage, outcome, source, destination)
    except LabError as e:
        outcome.add("never_over", str(e))
    outcome.seconds = time.monotonic() - begin
    return outcome


def wait_move(move: RunningMove, outcome: Outcome) -> None:
    """The program ends when its daemon is killed; the move itself may go on."""
    end = time.monotonic() + MOVE_LIMIT
    while move.process.poll() is None:
        if time.monotonic() > end:
            move.process.kill()
            outcome.add("never_over", f"`transship move` did not end in {MOVE_LIMIT:g} s")
            break
        time.sleep(0.01)
    move.process.wait(10)
    move.reader.join(5)


def linger(stage: Stage, injector: Injector) -> None:
    """The program ends with its daemon, and what else was drawn may meet the next one."""
    end = time.monotonic() + LINGER
    while injector.busy() and time.monotonic() < end:
        try:
            if not any(stage.running_moves(host, timeout=2) for host in stage.hosts):
                return
        except (LabError, ValueError):
            pass
        time.sleep(0.1)


def check(stage: Stage, outcome: Outcome, source: Host, destination: Host) -> None:
    states = wait_over(stage, outcome)
    where = find_copy(stage, outcome)
    if where is not None:
        outcome.ended = "committed" if where.name == destination.name else "rolled-back"
        stage.host = where
    judge_states(outcome, states, source, destination)
    if where is None:
        stage.lost()
        return
    check_data(stage, outcome, where)
    check_leftovers(stage, outcome, where)
    # To the end: nothing that was cleaned up meanwhile has run.
    outcome.add("two_copies", *stage.witness.report()["violations"])


def wait_over(stage: Stage, outcome: Outcome) -> dict[str, dict]:
    """host -> its entry of this move, once neither daemon works on anything."""
    end = time.monotonic() + END_LIMIT
    why = ""
    while time.monotonic() < end:
        entries, why = {}, ""
        for host in stage.hosts:
            try:
                if stage.running_moves(host):
                    why = f"a move still runs on {host.name}"
                for entry in stage.moves(host):
                    if entry["state"] in ("running", "parked"):
                        why = f"{host.name} has move {entry['move_id']} as {entry['role']} in state {entry['state']}, phase {entry['phase']}"
                    if entry["move_id"] == outcome.move_id:
                        entries[host.name] = entry
            except (LabError, ValueError, KeyError) as e:
                why = f"{host.name}: {e}"
        if not why:
            return entries
        time.sleep(0.1)
    outcome.add("never_over", f"{END_LIMIT:g} s after all failures were over: {why}")
    return {}


def find_copy(stage: Stage, outcome: Outcome) -> Host | None:
    """The host of the one that counts. One that was just let go on has to get the processor first."""
    end = time.monotonic() + 5
    while True:
        found = stage.witness.report()
        outcome.add("two_copies", *found["violations"])
        live = [name for name, ago in found["counted_ms_ago"].items() if ago < COUNTS]
        if len(live) > 1:
            outcome.add("two_copies", f"{' and '.join(live)} run")
        if live:
            return next(h for h in stage.hosts if h.name == live[0].partition(":")[0])
        if time.monotonic() > end:
            if pager_died(outcome):
                outcome.ended = "lost"
                return None
            outcome.add("no_copy", f"none runs: {stage.subject.name} is " + "; ".join(state_of(stage, h) for h in stage.hosts))
            return None
        time.sleep(0.1)


def pager_died(outcome: Outcome) -> bool:
    """That may be the end of the container, if no other pager can go on: docs/failure-model.md. By itself it is not."""
    if len(outcome.draw.faults) == 1:
        return False
    return any(f.kind == "program" and f.what == "pager" or f.kind == "point" and f.what.startswith("pager.") and "die" in f.what
               for f in outcome.draw.faults)


def state_of(stage: Stage, host: Host) -> str:
    done = host.run(["podman", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", stage.subject.name], check=False)
    return f"{host.name}: {done.stdout.strip() or 'absent'}"


def judge_states(outcome: Outcome, states: dict[str, dict], source: Host, destination: Host) -> None:
    """What the journals say is what is."""
    ours, theirs = states.get(source.name), states.get(destination.name)
    if outcome.ended == "committed":
        good = ours is not None and ours["state"] == "done" and theirs is not None and theirs["state"] == "done"
    else:
        good = all(e is None or e["state"] in ("rolled-back", "cancelled") for e in (ours, theirs))
    text = "; ".join(f"{e['role']} {e['state']}" + (f" ({e['error']})" if e["error"] else "") for e in (ours, theirs) if e)
    outcome.notes.append(f"journals: {text}")
    if outcome.ended == "lost":
        good = theirs is not None and theirs["state"] == "failed" and "pager" in theirs["error"]
    if not good and outcome.ended != "?":
        outcome.needs_operator = text or "neither journal knows the move"
    elif outcome.ended == "committed" and theirs["error"]:
        outcome.needs_operator = theirs["error"]


def check_data(stage: Stage, outcome: Outcome, where: Host) -> None:
    try:
        if stage.workload == "churn":
            stage.subject.wait_progress(where)
        else:
            wait_answer(stage)
    except LabError as e:
        ended = stage.subject.end(where) if stage.workload == "churn" else ""
        outcome.add("wrong_bytes" if ended.startswith("exited 3") else "no_copy", str(e))
        return
    report = stage.end_load()
    if report:
        broken = [p for p in problems(report) if " is gone" not in p and " is not what" not in p and "INCR gave" not in p]
        outcome.add("lost_writes", *[e for e in report["errors"] if e not in broken])
        outcome.add("broken_connections", *broken)
        if stage.subject.data_digest(where, MIB * 16) != stage.digest:
            outcome.add("wrong_bytes", "values that nobody has touched are others than before")
        if (mark := stage.subject.mark(where)) != "kept":
            outcome.add("wrong_bytes", f"the file in its root holds {mark!r}")
    policy = where.run(["podman", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}",
                        stage.subject.name]).stdout.strip()
    if policy != RESTART_POLICY:
        outcome.add("left_behind", f"{where.name}: restart policy {policy}")


def wait_answer(stage: Stage) -> None:
    """On a busy machine a single question may take longer than it is given."""
    end = time.monotonic() + ANSWER_LIMIT
    while True:
        try:
            return stage.subject.wait_answer(stage.lab.host("client"), seconds=10)
        except LabError:
            if time.monotonic() > end:
                raise


def check_leftovers(stage: Stage, outcome: Outcome, where: Host) -> None:
    container = where.run(["podman", "inspect", "--format", "{{.Id}}", stage.subject.name]).stdout.strip()
    allowed = (f"container: {stage.subject.name} running", f"runc: {container}", f"cgroup: libpod-{container}",
               f"cgroup: libpod-conmon-{container}", "task: ", "firewall: ")
    # What leads to a container that is away from home; network_complaints() looks whether it is all there should be.
    routed = (f"route: {stage.subject.address} ", "firewall: table inet transship_moved") if stage.driver == "tunnel" else ()
    end = time.monotonic() + CLEAN_LIMIT
    with ThreadPoolExecutor(2) as pool:
        while True:
            found = list(pool.map(lambda h: (h, stage.facts(h) - stage.before[h.name]), stage.hosts))
            left = [f"{h.name}: {line}" for h, lines in found for line in sorted(lines)
                    if not line.startswith(routed + (allowed if h.name == where.name else ()))]
            if not left or time.monotonic() > end:
                break
            time.sleep(0.2)
    if stage.driver == "tunnel" and not left:
        left = [f"{h.name}: {line}" for h in stage.hosts for line in network_complaints(h)]
    outcome.add("left_behind", *left)


def network_complaints(host: Host) -> list[str]:
    out = host.run(["transship", "network", "check", "--json"], timeout=20, check=False).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return [text for line in found if line["message_type"] == "network_check" for text in line["missing"] + line["extra"]]
