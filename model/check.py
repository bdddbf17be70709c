#!/usr/bin/env python3
"""Checks model/handover.pml with spin: what must hold holds, and every deliberate mistake is found.

    ./dev model [--json FILE] [--list] [--show NAME] [NAME...]

A check is one property of one variant of the model, explored to its end by a program that spin writes for it. One line
each: variant, property, states, transitions, depth, memory, processor time, and what came out. NAME selects checks by a
part of `VARIANT:PROPERTY`; --show prints the run that breaks the property, step by step. Exits with 1 when a check does
not come out as it must: docs/model.md.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

MODEL = pathlib.Path(__file__).resolve().parent / "handover.pml"
MEMORY_MIB = 3500
# Far more than any run needs: the deepest has 10,000 steps.
DEPTH = 500_000

JOURNAL, JOURNAL_POST, ARBITER, ARBITER_POST = (), ("POSTCOPY",), ("ARBITER",), ("ARBITER", "POSTCOPY")
MODES = {
    "journal": JOURNAL,
    "journal, post-copy": JOURNAL_POST,
    "arbiter": ARBITER,
    "arbiter, post-copy": ARBITER_POST,
}

# These need a search for cycles, with weak fairness between the processes.
LIVENESS = {"settles", "thaws", "survives"}

# Mistake: where it is made, and the property that finds it.
MISTAKES = {
    "THAW_UNWRITTEN": (ARBITER, "never_two"),
    "RUN_ON_TIMEOUT": (JOURNAL, "never_two"),
    "TOLD_UNWRITTEN": (JOURNAL, "never_two"),
    "ANSWER_BEFORE_DEAD": (JOURNAL, "never_two"),
    "SOURCE_PUTS": (ARBITER, "never_two"),
    "DESTINATION_PUTS": (ARBITER, "never_two"),
    "JOURNAL_ROLLBACK": (ARBITER, "never_two"),
    "UNDECIDED_IS_ABORT": (JOURNAL, "never_lost"),
    "FORWARD_AFTER_ABORT": (ARBITER, "never_lost"),
    "RECOVERY_KILLS": (JOURNAL, "never_lost"),
    "DOUBT_THAWS": (JOURNAL, "never_two"),
    "RAN_UNWRITTEN": (JOURNAL, "never_back"),
    "POSTCOPY_KILLS": (JOURNAL_POST, "never_lost"),
    "POSTCOPY_DECIDES": (ARBITER_POST, "memory"),
    "NEVER_ASKS": (JOURNAL, "settles"),
    "READ_ERROR_THAWS": (JOURNAL, "never_two"),
    "RESTORE_UNWRITTEN": (ARBITER, "never_two"),
    "KILLS_UNDECIDED": (JOURNAL, "thawable"),
    "WAITS_FOR_EVER": (JOURNAL, "thaws"),
    "ABORT_WHEN_DEAD": (JOURNAL, "never_lost"),
}


@dataclasses.dataclass(frozen=True)
class Check:
    variant: str
    defines: tuple
    claim: str
    holds: bool

    @property
    def name(self):
        return f"{self.variant}:{self.claim}"


@dataclasses.dataclass
class Outcome:
    states: int = 0
    transitions: int = 0
    depth: int = 0
    mib: float = 0
    seconds: float = 0
    found: str = ""  # holds, violated, or why the search says nothing
    log: str = ""


def checks():
    rows = []
    for mode, defines in MODES.items():
        claims = ["safe", "settles", "thaws"]
        claims += {ARBITER: ["survives"], ARBITER_POST: ["memory"]}.get(defines, [])
        rows += [Check(mode, defines, claim, True) for claim in claims]
        possible = ["cannot_arrive", "cannot_return", "cannot_doubt"]
        possible += ["cannot_survive"] if defines == ARBITER else []
        rows += [Check(mode, defines, claim, False) for claim in possible]
    # Without an arbiter nobody but the source writes: one that never tried to commit may thaw before it has written abort.
    rows += [
        Check("journal, THAW_UNWRITTEN", (*JOURNAL, "BROKEN=THAW_UNWRITTEN"), claim, True)
        for claim in ["safe", "settles"]
    ]
    rows += [
        Check(name, (*defines, f"BROKEN={name}"), claim, False) for name, (defines, claim) in MISTAKES.items()
    ]
    return rows


def mistakes_in_the_model():
    return re.findall(r"^#define (\w+) \d+ +/\*", MODEL.read_text(), re.MULTILINE)


class Workshop:
    """Programs that spin has written, each made once, in a directory that goes with it."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="transship-model-")
        self.program = functools.cache(self._program)

    def close(self):
        self._directory.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _program(self, defines, *flags):
        directory = pathlib.Path(tempfile.mkdtemp(dir=self._directory.name))
        run(["spin", "-a", *(f"-D{d}" for d in defines), str(MODEL)], directory)
        run(["cc", *flags, "-w", f"-DMEMLIM={MEMORY_MIB}", "-DNOREDUCE", "-o", "pan", "pan.c"], directory)
        return directory / "pan"

    def check(self, check):
        # A mistake is found within moments: compiling would take longer than it saves.
        pan = self.program(check.defines, "-O2" if check.holds else "-O0")
        before = processor_seconds()
        done = subprocess.run(search(pan, check), cwd=pan.parent, capture_output=True, text=True, timeout=900)
        outcome = read_report(done.stdout + done.stderr)
        outcome.seconds = processor_seconds() - before
        return outcome

    def trail(self, check):
        """The run that breaks the property, as spin tells it; the shortest there is, except for cycles."""
        pan = self.program(check.defines, "-O2", *([] if needs_cycles(check.claim) else ["-DBFS", "-DSAFETY"]))
        subprocess.run(search(pan, check), cwd=pan.parent, capture_output=True, text=True, timeout=900)
        trails = list(pan.parent.glob("*.trail"))
        if not trails:
            return ""
        defines = [f"-D{d}" for d in check.defines]
        return run(["spin", "-p", "-g", "-k", str(trails[0]), *defines, str(MODEL)], pan.parent)


def search(pan, check):
    return [str(pan), f"-m{DEPTH}", "-w20", "-N", check.claim, *(["-a", "-f"] if needs_cycles(check.claim) else [])]


def needs_cycles(claim):
    return claim in LIVENESS or claim == "memory"


STEP = re.compile(r"^\s*\d+:\s+proc\s+\d+ \((?P<process>\w+):\d+\)")
VALUE = re.compile(r"^\t\t(?P<name>\w+) = (?P<value>\w+)$")


def story(trail):
    """What each process changes, in order; steps in a row of one process on one line."""
    process, changes, lines = "", {}, []

    def tell():
        if changes:
            lines.append(f"{process:<17} " + ", ".join(f"{name} = {value}" for name, value in changes.items()))
        changes.clear()

    for text in trail.splitlines():
        if "START OF CYCLE" in text:
            tell()
            lines.append("-- and from here on for ever:")
        elif text.startswith("spin: "):
            break
        elif step := STEP.match(text):
            if step["process"] != process:
                tell()
            process = step["process"]
        elif value := VALUE.match(text):
            changes[value["name"]] = value["value"]
    tell()
    return "\n".join(lines) or "nothing breaks it"


def run(command, directory):
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise SystemExit(f"model: {' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def number(pattern, text):
    found = re.search(pattern, text)
    return float(found[1]) if found else 0


def read_report(text):
    """What the program printed. A search that was not exhaustive says nothing, whatever number of errors it counted."""
    outcome = Outcome(log=text)
    outcome.states = int(number(r"(\d+) states, stored", text))
    outcome.transitions = int(number(r"(\d+) transitions", text))
    outcome.depth = int(number(r"depth reached (\d+)", text))
    outcome.mib = number(r"([\d.]+)\s+total actual memory usage", text)
    errors = re.search(r"errors: (\d+)", text)
    # The program's own warning is printed once, and not if it had warned of something else before.
    if "max search depth too small" in text or outcome.depth >= DEPTH - 1:
        outcome.found = "the search was not deep enough"
    elif "MEMLIM" in text or "out of memory" in text:
        outcome.found = "the search ran out of memory"
    elif errors is None or "Full statespace search" not in text:
        outcome.found = "the program ended without a result"
    elif int(errors[1]) > 0:
        outcome.found = "violated"
    elif "Search not completed" in text:
        outcome.found = "the search was not completed"
    else:
        outcome.found = "holds"
    return outcome


def expected(check):
    return "holds" if check.holds else "violated"


HEADER = f"{'variant':<24} {'property':<16} {'states':>10} {'transitions':>12} {'depth':>8} {'MiB':>7} {'s':>6}  result"


def line(check, outcome):
    remark = "" if outcome.found == expected(check) else f"  WRONG: must be {expected(check)}"
    return (
        f"{check.variant:<24} {check.claim:<16} {outcome.states:>10} {outcome.transitions:>12} {outcome.depth:>8} "
        f"{outcome.mib:>7.0f} {outcome.seconds:>6.1f}  {outcome.found}{remark}"
    )


def as_json(check, outcome):
    return {
        "variant": check.variant,
        "property": check.claim,
        "states": outcome.states,
        "transitions": outcome.transitions,
        "depth": outcome.depth,
        "memory_mib": outcome.mib,
        "cpu_s": round(outcome.seconds, 2),
        "result": outcome.found,
        "expected": expected(check),
    }


def main():
    parser = argparse.ArgumentParser(prog="./dev model", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", metavar="FILE", help="also write the table there")
    parser.add_argument("--list", action="store_true", help="print the names, and check nothing")
    parser.add_argument("--show", metavar="NAME", help="print the run that breaks the property of that one check")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only checks with this in their VARIANT:PROPERTY")
    arguments = parser.parse_args()
    wanted = [c for c in checks() if not arguments.names or any(n in c.name for n in arguments.names)]
    if arguments.show:
        wanted = [c for c in checks() if c.name == arguments.show or c.variant == arguments.show]
        wanted = wanted[:1]
    if not wanted:
        parser.error("no check has such a name; --list prints them")
    if arguments.list:
        print(*(c.name for c in wanted), sep="\n")
        return 0
    rows = []
    with Workshop() as workshop:
        if arguments.show:
            print(story(workshop.trail(wanted[0])))
            return 0
        print(HEADER)
        for check in wanted:
            outcome = workshop.check(check)
            print(line(check, outcome), flush=True)
            rows.append((check, outcome))
    if arguments.json:
        path = pathlib.Path(arguments.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([as_json(*r) for r in rows], indent=1) + "\n")
    wrong = sum(outcome.found != expected(check) for check, outcome in rows)
    print(
        f"{len(rows)} checks, {sum(o.states for _, o in rows)} states, {sum(o.seconds for _, o in rows):.0f} s of processor "
        f"time; {wrong} not as it must be"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
