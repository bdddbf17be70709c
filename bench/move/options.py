"""The command line of `./dev bench move`, checked before anything is started."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from labkit import shape
from labkit.errors import LabError
from labkit.options import result_file

MODES = ("auto", "pre-copy", "post-copy", "stop-copy")
PEERS = ("podman", "runc-rsync", "criu-lazy")
VALUES = ("random", "compressible")
LARGEST_MIB = 16384
FASTEST_RATE = 100_000

DESCRIPTION = "Moves a Redis in use between two lab hosts, with Transship and with other tools, and compares."
EPILOG = """\
A row of the result is one system, size, write rate and kind of values. Its runs take turns with those of the other rows,
so that all see the same machine. What is measured:

  gap          longest time between two answers that a client on one connection gets; it asks every 2 ms
  reachable    the same until a new connection is answered: what a client that connects anew sees
  runs         from the command until it runs on the destination; known of Transship only
  total        from the command until everything is done, the source included
  bytes        sent by the source's link meanwhile (interface counter: headers and answers to clients are in it)
  throughput   acknowledged requests per second during the move, as a share of those before it
  wrong bytes  all values are read back: the last acknowledged write of every key must be there
  extra        most memory in use on the destination at any time, less the container's own once it is filled
"""


@dataclass(frozen=True)
class Options:
    sizes: tuple[int, ...]
    write_rates: tuple[int, ...]
    values: tuple[str, ...]
    rate: str
    delay: str
    runs: int
    modes: tuple[str, ...]
    against: tuple[str, ...]
    engine: str
    arbiter: str
    json: Path | None
    lab: str
    cold: bool


def numbers(text: str, largest: int, smallest: int) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers like 64,1024") from None
    if not all(smallest <= n <= largest for n in found):
        raise argparse.ArgumentTypeError(f"{text!r}: from {smallest} to {largest}")
    return found


def words(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """`none` is no word at all."""
    if text == "none":
        return ()
    found = tuple(dict.fromkeys(text.split(",")))
    for word in found:
        if word not in known:
            raise argparse.ArgumentTypeError(f"there is no {word!r}; there are {', '.join(known)}")
    return found


def link(text: str, parse) -> str:
    try:
        parse(text)
    except LabError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def build_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="./dev bench move", description=DESCRIPTION, epilog=EPILOG,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", metavar="MIB,…", type=lambda t: numbers(t, LARGEST_MIB, 1), help="values in Redis (default 1024)")
    p.add_argument("--write-rates", metavar="N,…", type=lambda t: numbers(t, FASTEST_RATE, 0),
                   help="SET/s, over a fifth of the keys (default 0,5000)")
    p.add_argument("--values", choices=[*VALUES, "both"], default="random", help="compressible: about 4 to 1 (default random)")
    p.add_argument("--rate", default="1gbit", type=lambda t: link(t, shape.parse_rate),
                   help="of the links of source and destination (default 1gbit)")
    p.add_argument("--delay", default="0ms", type=lambda t: link(t, shape.parse_delay),
                   help="from source to destination, one way (default 0ms)")
    p.add_argument("--runs", type=int, metavar="N", help="of each row (default 5)")
    p.add_argument("--modes", default=",".join(MODES), metavar="MODE,…", type=lambda t: words(t, MODES),
                   help=f"of transship: {', '.join(MODES)} (default all)")
    p.add_argument("--against", default=",".join(PEERS), metavar="SYSTEM,…", type=lambda t: words(t, PEERS),
                   help=f"{', '.join(PEERS)}, or none (default all)")
    p.add_argument("--engine", choices=["podman", "runc"], default="podman", help="under which transship's container runs (default podman)")
    p.add_argument("--arbiter", choices=["none", "etcd"], default="none",
                   help="etcd: transship's rows once more, with its moves decided by three nodes of etcd (default none)")
    p.add_argument("--json", metavar="FILE", type=result_file, help="write the results there")
    p.add_argument("--quick", action="store_true", help="64 MiB, 0 and 2000 SET/s, one run, mode auto: under three minutes")
    p.add_argument("--lab", default="bench", help="name of the lab (default bench)")
    p.add_argument("--cold", action="store_true", help="do not touch the machine's memory beforehand")
    return p


def parse(argv: list[str]) -> Options:
    parser = build_parser()
    args = parser.parse_args(argv)
    sizes, rates, runs, modes = ((64,), (0, 2000), 1, ("auto",)) if args.quick else ((1024,), (0, 5000), 5, args.modes)
    runs = runs if args.runs is None else args.runs
    if not 1 <= runs <= 100:
        parser.error("--runs: from 1 to 100")
    if not args.modes and not args.against:
        parser.error("--modes none and --against none leave nothing to measure")
    if args.quick and args.modes != MODES:
        modes = args.modes
    return Options(
        sizes=args.sizes or sizes, write_rates=args.write_rates or rates,
        values=VALUES if args.values == "both" else (args.values,), rate=args.rate, delay=args.delay, runs=runs, modes=modes,
        against=args.against, engine=args.engine, arbiter=args.arbiter, json=args.json, lab=args.lab, cold=args.cold)
