#!/usr/bin/env python3
"""`./dev faults`: a container under load moves to and fro while things fail at random, and nothing may get lost.

What fails, where and when is drawn from the seed: the same run of the same seed has the same faults. After each run, with
all failures over, exactly one copy runs, every acknowledged write is there, and nothing is left behind. Ends with 1 otherwise.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from faultkit import points  # noqa: E402
from faultkit.draw import Draw, Fault, draw  # noqa: E402
from faultkit.records import Records, keep_logs  # noqa: E402
from faultkit.run import Outcome, run  # noqa: E402
from faultkit.stage import Stage  # noqa: E402
from labkit import config  # noqa: E402
from labkit.api import LabError  # noqa: E402

# Beyond what any side waits for there: the gate (5 s), a call (30 s).
STALL = {"runtime": 7000, "pager": 7000}
STALL_OTHERS = 35000


def parse_args():
    parser = argparse.ArgumentParser(prog="./dev faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="how many (default 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="N", help="run N of that seed alone")
    parser.add_argument("--from", dest="home", choices=("aws", "azure"), help="with --only: the host that it is to leave")
    parser.add_argument("--first", type=int, default=0, help="begin with this run")
    parser.add_argument("--short", action="store_true", help="no failures that last longer than every limit (20 s and more)")
    parser.add_argument("--every-point", action="store_true", help="instead: each fault point with each of die, fail, and a stall "
                        "beyond the limit, and the outcome that docs/failure-model.md has")
    parser.add_argument("--points", default="", metavar="PREFIX", help="with --every-point: only those")
    parser.add_argument("--orders", default="die,fail,stall", help="with --every-point: only these kinds")
    parser.add_argument("--json", metavar="FILE", help="write the totals there")
    parser.add_argument("--keep", metavar="DIR", default=str(config.SOURCE / "build/faults"), help="where failing runs leave their logs")
    parser.add_argument("--lab", default="faults", help="name of the lab (default faults)")
    parser.add_argument("--stop-at-failure", action="store_true", help="and leave the lab up")
    return parser.parse_args()


def plan_of(args) -> list[Draw]:
    if args.every_point:
        return list(every_point(args))
    numbers = [args.only] if args.only is not None else range(args.first, args.first + args.runs)
    return [draw(args.seed, n, not args.short) for n in numbers]


def every_point(args):
    number = 0
    for point, can_fail in points.POINTS.items():
        for order in args.orders.split(","):
            if order == "fail" and not can_fail or not point.startswith(args.points):
                continue
            if order == "stall":
                order = f"stall {STALL.get(point.partition('.')[0], STALL_OTHERS)}"
            faults = [Fault("point", side_of(p), p) for p in [f"{point} {order}", *points.helpers(point)]]
            yield Draw(0, number, "hook", "redis", points.mode_for(point), faults)
            number += 1


def side_of(point: str) -> str:
    return "source" if point.startswith("source") else "destination"


def unexpected(args, outcome: Outcome) -> str:
    """With --every-point there is one right outcome, mostly."""
    if not args.every_point:
        return ""
    point, _, order = outcome.draw.faults[0].what.partition(" ")
    wanted = points.expected(point, order)
    return "" if wanted in ("either", outcome.ended) else f"{wanted} was expected"


def settle(stage: Stage, wanted: Draw, home: str | None = None) -> None:
    """The scene for the next run: the right daemons, and a container that is whole; where `home` says, if it does."""
    fresh = stage.witness is None
    if fresh:
        stage.up()
    if fresh or (stage.driver, stage.workload) != (wanted.driver, wanted.workload) or stage.maimed:
        stage.use(wanted.driver, wanted.workload)
    if home and stage.host.name != home:
        stage.host.run(["transship", "move", stage.subject.reference, "--to", home], timeout=60)
        stage.host = stage.lab.host(home)


def all_runs(stage: Stage, args, records: Records) -> None:
    for wanted in plan_of(args):
        settle(stage, wanted, args.home)
        since = {h.name: size_of_log(h) for h in stage.hosts}
        outcome = run(stage, wanted)
        if text := unexpected(args, outcome):
            outcome.add("unexpected", text)
        print(outcome.line(), flush=True)
        records.add(outcome)
        if not outcome.wrong and not outcome.needs_operator:
            continue
        print(f"    logs: {keep_logs(Path(args.keep), stage, outcome, since)}; again: ./dev faults --seed {wanted.seed} "
              f"--only {wanted.number} --from {outcome.source}", flush=True)
        if args.stop_at_failure:
            return
        if outcome.wrong:
            stage.down()


def size_of_log(host) -> int:
    path = host.path("/var/log/transship/transshipd.log")
    return path.stat().st_size if path.exists() else 0


def main() -> int:
    args = parse_args()
    stage = Stage(args.lab)
    records = Records(args)
    begin = time.monotonic()
    try:
        all_runs(stage, args, records)
    except LabError as e:
        print(f"faults: {e}", file=sys.stderr)
        records.broken = str(e)
    except KeyboardInterrupt:
        records.broken = "interrupted"
    finally:
        if not (args.stop_at_failure and records.failed()):
            stage.down()
    totals = records.totals(time.monotonic() - begin)
    if args.json:
        Path(args.json).write_text(json.dumps(totals, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(totals))
    return 1 if records.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
