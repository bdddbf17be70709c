#!/usr/bin/env python3
"""`./dev matrix`: applications as Debian packages them are moved there and back between two lab hosts, in use all the time by
clients that check what they get. Ends with 1 when a row fails."""

import argparse
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from labkit.api import Lab, LabError  # noqa: E402
from labkit.options import result_file  # noqa: E402
from matrixkit import docs, run, table  # noqa: E402
from matrixkit.apps import APPS  # noqa: E402
from matrixkit.verdict import FAIL, judge  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(prog="./dev matrix", description=__doc__)
    parser.add_argument("--app", action="append", metavar="NAME", help="only this one (again for more): " + ", ".join(APPS))
    parser.add_argument("--moves", type=int, default=5, help="there and back, of each application (default 5)")
    parser.add_argument("--rate", default="1gbit", help="of every host's link (default 1gbit)")
    parser.add_argument("--cutover", choices=["tunnel", "hook"], default="tunnel", help="how traffic follows (default: tunnel)")
    parser.add_argument("--json", metavar="FILE", type=result_file, help="write the results there")
    parser.add_argument("--docs", metavar="FILE", type=result_file, nargs="?", const=docs.PAGE,
                        help="write the table into this page (default docs/applications.md); needs all applications")
    parser.add_argument("--lab", default="matrix", help="name of the lab (default matrix)")
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    args = parser.parse_args()
    if unknown := [name for name in args.app or [] if name not in APPS]:
        parser.error(f"there is no application {', '.join(unknown)}; there are: {', '.join(APPS)}")
    if not 1 <= args.moves <= 1000:
        parser.error("--moves is 1 to 1000")
    if args.docs and args.app:
        parser.error("--docs is for all applications, and --app chooses some")
    return args


def say(text):
    print(f"  {text}", flush=True)


def main() -> int:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the lab goes down
    lab, rows = Lab(args.lab), []
    try:
        lab.up(rate=args.rate)  # cleans up by itself; a lab that was up before is another's
    except LabError as e:
        print(f"matrix: {e}", file=sys.stderr)
        return 1
    try:
        if args.cutover == "tunnel":
            lab.use_cutover("tunnel")
        for name in args.app or APPS:
            begin = time.monotonic()
            print(f"{name}: {APPS[name].what}", flush=True)
            rows.append(run.run(lab, APPS[name], args.moves, say))
            say(f"{' '.join(judge(rows[-1]))} ({time.monotonic() - begin:.0f} s)")
    except LabError as e:
        print(f"matrix: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("matrix: interrupted", file=sys.stderr)
        return 130
    finally:
        if not args.keep:
            lab.down()
    print("\n" + table.for_terminal(rows))
    if args.json:
        args.json.write_text(table.as_json(rows), encoding="utf-8")
    if args.docs:
        docs.write(args.docs, rows, args.moves)
    return 1 if any(judge(row)[0] == FAIL for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
