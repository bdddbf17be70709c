"""What happens in a run: drawn from a seed and the run's number, the same each time."""

import random
from dataclasses import dataclass, field

from .points import POINTS

BLOCK = 15  # runs with the same workload and the same way of cutover
MODES = ("auto", "pre-copy", "post-copy", "stop-copy")
PHASES = ("plan", "reserve", "prepare", "rootfs", "ready", "memory", "dump", "transfer", "restore", "commit", "release", "cleanup")
PROGRAMS = ("criu", "runc", "runtime", "pager", "conmon")

# kind -> how often, beside the others
KINDS = {
    "point": 40,     # a fault point fails, stalls, dies
    "daemon": 10,    # kill -9
    "program": 14,   # kill -9 of CRIU, runc, the runtime at the gate, the pager, the engine's monitor
    "cut": 10,       # nothing passes between the two hosts
    "one-way": 8,    # nothing passes from the one to the other
    "alone": 4,      # nothing passes between one host and all others
    "delay": 3,
    "disk": 5,       # the container storage, or what the daemon keeps, is full
    "images": 3,     # the tmpfs of the arriving images is full
    "stop": 7,       # SIGSTOP of a daemon, and later SIGCONT
    "clock": 3,      # the wall clock of a daemon jumps
    "engine": 5,     # Podman's services are started anew
    "hook": 3,       # the cutover hook fails
}
# At these the other side is likely to wait for something.
LONG = 0.04          # of cuts and stops: longer than every limit on the way
CUT_LONG, STOP_LONG = 20.0, 35.0


@dataclass
class Fault:
    kind: str
    side: str                # "source", "destination"
    what: str = ""           # point and order; program; direction; place
    seconds: float = 0.0     # until it ends
    when: str = "time"       # "time", "phase", "point": then `at` says which, and `delay` how long after it
    at: str = ""
    delay: float = 0.0

    def __str__(self) -> str:
        words = [self.kind, self.side] if self.kind != "point" else []
        words += [self.what] if self.what else []
        words += [f"{self.seconds:.1f} s"] if self.seconds else []
        if self.kind != "point":
            words += [f"at {self.at or 'start'}+{1000 * self.delay:.0f} ms"]
        return " ".join(words)


@dataclass
class Draw:
    seed: int
    number: int
    driver: str
    workload: str
    mode: str
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.driver} {self.workload} {self.mode} | {'; '.join(map(str, self.faults))}"


def draw(seed: int, number: int, long: bool = True) -> Draw:
    block = number // BLOCK
    chance = random.Random(f"{seed}:{number}")
    driver = ("tunnel", "hook")[block % 2]
    workload = "churn" if block % 4 == 3 else "redis"
    run = Draw(seed, number, driver, workload, chance.choice(MODES))
    for _ in range(1 if chance.random() < 0.7 else 2):
        run.faults.append(draw_fault(chance, run.mode, long))
    return run


def draw_fault(chance: random.Random, mode: str, long: bool) -> Fault:
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    fault = Fault(kind, chance.choice(("source", "destination")))
    {"point": draw_point, "program": draw_program, "cut": draw_length, "one-way": draw_length, "alone": draw_length,
     "stop": draw_length, "disk": draw_disk, "images": draw_images, "delay": draw_delay, "clock": draw_clock,
     "hook": draw_length, "engine": draw_engine, "daemon": lambda *_: None}[kind](fault, chance, mode, long)
    if kind not in ("point", "program", "delay"):
        draw_moment(fault, chance, mode)
    return fault


def draw_moment(fault: Fault, chance: random.Random, mode: str) -> None:
    fault.when = chance.choices(("time", "phase", "point"), (3, 4, 3))[0]
    if fault.when == "time":
        fault.delay = round(chance.uniform(0, 2.0), 3)
    elif fault.when == "phase":
        fault.at = chance.choice(PHASES)
        fault.delay = round(chance.choice((0, chance.uniform(0, 0.1), chance.uniform(0, 0.5))), 3)
    else:
        later = ("source.resume", "destination.resume", "pager.succeeding")
        fault.at = chance.choice([p for p in POINTS if reached(p, mode) and not p.startswith(later)])


def reached(point: str, mode: str) -> bool:
    """By a move that nothing else happens to, or by its undoing."""
    return mode == "post-copy" or point not in ("destination.follow", "source.follow.filled")


def draw_point(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    point = chance.choice([p for p in POINTS if reached(p, mode)])
    fault.side = "source" if point.startswith("source") else "destination"
    kinds = ["die", "die", "stall", "fail"] if POINTS[point] else ["die", "die", "stall"]
    order = chance.choice(kinds)
    if order == "stall":
        order += f" {chance.choice((50, 300, 1500, 6500)) if long or chance.random() < 0.9 else 300}"
    fault.what = f"{point} {order}"


def draw_program(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    fault.what = chance.choice(PROGRAMS)
    if fault.what in ("runc", "runtime", "pager"):
        fault.side = "destination"
    # From the moment it is seen.
    fault.delay = round(chance.choice((0, chance.uniform(0, 0.06), chance.uniform(0, 0.4))), 3)


def draw_length(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    if long and chance.random() < LONG:
        fault.seconds = STOP_LONG if fault.kind == "stop" else CUT_LONG
    else:
        fault.seconds = round(chance.choice((chance.uniform(0.1, 0.6), chance.uniform(0.5, 3.0))), 1)


def draw_disk(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    fault.what = chance.choice(("storage", "state"))
    fault.seconds = round(chance.uniform(0.3, 3.0), 1)


def draw_images(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    fault.side, fault.seconds = "destination", 3.0


def draw_delay(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    fault.what = chance.choice(("5ms", "40ms", "120ms"))


def draw_clock(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    fault.what = str(chance.choice((-400 * 86400, -3600, 3600, 400 * 86400)))


def draw_engine(fault: Fault, chance: random.Random, mode: str, long: bool) -> None:
    fault.what = chance.choice(("own KILL", "own TERM", "host KILL"))
