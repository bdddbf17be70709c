"""Called as `python3 bench/network ARGS`."""

import argparse
import json
import signal
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[0:1] = [str(CHECKOUT / "bench"), str(CHECKOUT / "lab")]

from labkit.errors import LabError  # noqa: E402
from labkit.options import result_file  # noqa: E402
from network import gap, throughput, traffic  # noqa: E402
from network.subjects import Scene  # noqa: E402

PARTS = ["gap", "datagrams", "transfer", "throughput"]


def parse(arguments: list[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="./dev bench network", description="What a move costs those who talk to the container, by the tunnel.")
    p.add_argument("--only", default=",".join(PARTS), metavar="PART,…", help=f"of {', '.join(PARTS)}")
    p.add_argument("--runs", type=int, default=5, help="of each, there and back (default 5)")
    p.add_argument("--rate", default="1gbit", help="of both hosts' links (default 1gbit)")
    p.add_argument("--delays", default="1,10,40", metavar="MS,…", help="of the way between them, for the gap (default 1,10,40)")
    p.add_argument("--per-second", type=int, default=10_000, help="datagrams (default 10000)")
    p.add_argument("--seconds", type=int, default=8, help="of a flow of datagrams (default 8)")
    p.add_argument("--mib", type=int, default=1024, help="of a transfer (default 1024)")
    p.add_argument("--json", type=result_file, metavar="FILE")
    p.add_argument("--lab", default="bench", help="name of the lab (default bench)")
    options = p.parse_args(arguments)
    options.only = options.only.split(",")
    try:
        options.delays = [float(d) for d in options.delays.split(",")]
    except ValueError:
        p.error("--delays are numbers of milliseconds, separated by commas")
    if unknown := set(options.only) - set(PARTS):
        p.error(f"--only does not know {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if not (1 <= options.runs <= 1000 and 64 <= options.mib <= 16384 and 1 <= options.per_second <= 100_000 and 4 <= options.seconds <= 600):
        p.error("--runs is 1 to 1000, --mib 64 to 16384, --per-second 1 to 100000, --seconds 4 to 600")
    if any(not 0 <= d <= 1000 for d in options.delays):
        p.error("--delays are 0 to 1000 ms")
    return options


def measure(scene: Scene, o: argparse.Namespace) -> tuple[dict, bool]:
    found: dict = {}
    if "gap" in o.only:
        found["gap"] = gap.measure(scene, o.delays, o.rate, o.runs)
    if "datagrams" in o.only:
        found["datagrams"] = traffic.datagrams(scene, o.per_second, o.seconds, o.runs)
    if "transfer" in o.only:
        found["transfers"] = traffic.transfers(scene, o.mib, o.rate)
    if "throughput" in o.only:
        found["throughput"] = throughput.measure(scene, o.rate, o.runs, 5)
    gap.show(found["gap"]) if "gap" in found else None
    traffic.show(found.get("datagrams"), found.get("transfers", []))
    throughput.show(found["throughput"]) if "throughput" in found else None
    return found, gap.good(found.get("gap", [])) and traffic.good(found.get("datagrams"), found.get("transfers", []))


def main() -> int:
    options = parse(sys.argv[1:])
    # As an exception, so that a bench that is told to end cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scene = Scene(options.lab)
    try:
        scene.up()
        found, good = measure(scene, options)
    finally:
        scene.down()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as e:
        print(f"bench: {e}", file=sys.stderr)
        sys.exit(1)
