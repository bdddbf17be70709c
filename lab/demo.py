#!/usr/bin/env python3
"""`./dev demo`: a Redis that clients are using moves from aws to azure and back, and nothing is lost.

Ends with 1 when anything is not as it must be: a lost write, a wrong value, a reset, two copies, something left behind.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from demokit import leftovers, subject  # noqa: E402
from demokit.link import measure_link  # noqa: E402
from demokit.load import Load, longest_silence_ms, problems  # noqa: E402
from demokit.memory import OwnMemory  # noqa: E402
from demokit.runc_subject import RuncRedis  # noqa: E402
from demokit.tcp import repeated  # noqa: E402
from labkit.api import CommandFailed, Lab, LabError  # noqa: E402
from labkit.options import result_file  # noqa: E402

# What the gap may be beyond the images' time on the wire.
GAP_ALLOWANCE_MS = 350
# Late packets are passed on for 3 s after a move.
PATIENCE = 8.0


def parse_args():
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("--engine", choices=["podman", "runc"], default="podman")
    parser.add_argument("--moves", type=int, default=2, help="moves there and back, one after the other (default 2)")
    parser.add_argument("--cutover", choices=["tunnel", "hook"], help="how traffic follows (default: tunnel; hook with runc)")
    parser.add_argument("--mib", type=int, default=256, help="random data in the Redis (default 256)")
    parser.add_argument("--rate", default="1gbit", help="of every host's link (default 1gbit)")
    parser.add_argument("--clients", type=int, default=4, help="connections that check every answer (default 4)")
    parser.add_argument("--lab", default="demo", help="name of the lab (default demo)")
    parser.add_argument("--cold", action="store_true", help="do not touch the machine's memory beforehand")
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    parser.add_argument("--json", metavar="FILE", type=result_file, help="write the results there")
    return parser.parse_args()


class Demo:
    def __init__(self, args):
        self.args = args
        self.lab = Lab(args.lab)
        self.client = self.lab.host("client")
        kind = {"podman": subject.PodmanRedis, "runc": RuncRedis}[args.engine]
        self.redis = kind(self.lab)
        self.moves, self.left_behind, self.wrong = [], [], []
        self.tunnel, self.timeouts = None, 0
        self.source_copies = self.destination_copies = None
        self.link_rate = 0.0
        self.memory = None

    def run(self) -> dict:
        say("lab", f"hosts aws, azure, openstack, client, registry; every link {self.args.rate}")
        if not self.args.cold:
            self.memory = OwnMemory(mib=1024 + 8 * self.args.mib)
            say("memory", self.memory.what)
        self.lab.up(rate=self.args.rate)
        here, there = self.lab.host("aws"), self.lab.host("azure")
        cutover = self.args.cutover or ("tunnel" if self.args.engine == "podman" else "hook")
        if cutover == "tunnel":
            self.lab.use_cutover("tunnel")
            self.tunnel = json.loads(here.run(["transship", "node", "info", "--json"]).stdout)["tunnel"]["backend"]
            say("tunnel", f"WireGuard ({self.tunnel}) between the clouds; the router goes on sending all that is for the container to aws")
        say("redis", f"{self.args.mib} MiB of random values on {here.name} under {self.args.engine}, and a file in its root file system")
        self.redis.create(here)
        self.redis.fill(here, self.args.mib)
        before = {h.name: leftovers.collect(h) for h in (here, there)}
        self.link_rate = measure_link(here, there)
        say("link", f"{self.link_rate / 1e6:.0f} Mbit/s by iperf3 between {here.name} and {there.name}")
        load = Load(self.client, self.redis.address, counters=self.args.clients - self.args.clients // 2, values=self.args.clients // 2)
        say("clients", f"{self.args.clients} connections from host client, each checks every answer")
        time.sleep(1)
        windows, again = [], repeated(self.client)
        for number in range(self.args.moves):
            windows.append(self.move(number + 1, here, there))
            self.check_copies(here, there)
            here, there = there, here
            time.sleep(1)
        report = load.stop()
        self.timeouts = (repeated(self.client) - again).timeouts
        self.finish(report, windows, here, there, before)
        return report

    def move(self, number, source, destination):
        say(f"move {number}", f"{source.name} -> {destination.name}")
        begin = time.monotonic()
        summary = move(source, self.redis.reference, destination.name)
        time.sleep(0.5)
        return begin, time.monotonic(), source.name, destination.name, summary

    def check_copies(self, source, destination):
        self.source_copies, self.destination_copies = self.redis.copies(source), self.redis.copies(destination)
        if (self.source_copies, self.destination_copies) != (0, 1):
            self.wrong.append(f"{self.source_copies} copies on {source.name}, {self.destination_copies} on {destination.name}")

    def finish(self, report, windows, here, there, before):
        for begin, end, source, destination, summary in windows:
            self.moves.append(self.one_move(report, begin, end, source, destination, summary))
        if self.redis.mark(here) != "kept":
            self.wrong.append("the file in the root file system did not come along")
        name = self.redis.name
        self.left_behind += leftovers.left_behind(here, before[here.name], (f"container: {name} ", "firewall: table inet transship_"), PATIENCE)
        self.left_behind += leftovers.left_behind(there, before[there.name], patience=PATIENCE)
        self.wrong += problems(report)

    def one_move(self, report, begin, end, source, destination, summary):
        gap = longest_silence_ms(report, begin, end)
        transfer = summary["transfer_ms_at_link_rate"]  # of what was sent while it stood still
        limit = transfer + GAP_ALLOWANCE_MS
        result = {
            "from": source, "to": destination, "total_ms": summary["total_ms"], "gap_ms": round(gap, 1),
            "transfer_at_link_rate_ms": round(transfer, 1), "gap_limit_ms": round(limit, 1), "frozen_ms": summary["gap_ms"], "bytes_sent": summary["bytes_sent"],
            "bytes_memory": summary["bytes_memory"], "hold": {"packets": summary["packets_held"], "dropped": summary["packets_dropped"]},
            "parts_ms": {name: round(ms, 1) for name, ms in summary["gap_parts_ms"].items()},
        }
        if gap > limit:
            self.wrong.append(f"{source} -> {destination}: gap {gap:.0f} ms is more than the transfer + {GAP_ALLOWANCE_MS} ms = {limit:.0f} ms")
        return result

    def results(self, report) -> dict:
        return {
            "engine": self.args.engine, "tunnel": self.tunnel, "moves": self.moves,
            "hold": {key: sum(m["hold"][key] for m in self.moves) for key in ("packets", "dropped")},
            "retransmission_timeouts": self.timeouts, "requests": report["requests"], "lost_writes": report["lost_writes"],
            "wrong_values": report["wrong_values"], "tcp_resets": report["tcp_resets"], "source_copies": self.source_copies,
            "destination_copies": self.destination_copies, "left_behind": self.left_behind, "problems": self.wrong,
        }


def move(source, reference, destination, options=(), timeout=300) -> dict:
    """Runs `transship move` and returns its summary."""
    result = source.run(["transship", "move", reference, "--to", destination, "--json", *options], timeout=timeout, check=False)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    summary = next((line for line in lines if line["message_type"] == "summary"), None)
    if result.returncode != 0 or summary is None:
        raise CommandFailed(source.name, ["transship", "move", reference, "--to", destination], result)
    return summary


def say(what, text):
    print(f"{what:>10}  {text}", flush=True)


def print_results(results):
    print()
    for m in results["moves"]:
        parts = ", ".join(f"{name} {ms:.0f}" for name, ms in m["parts_ms"].items())
        print(f"  {m['from']} -> {m['to']}: total {m['total_ms'] / 1000:.2f} s, longest client silence {m['gap_ms']:.0f} ms"
              f" (limit {m['gap_limit_ms']:.0f}), {m['bytes_sent'] / 2**20:.0f} MiB sent")
        print(f"      frozen {m['frozen_ms']} ms: {parts}")
    print(f"  {results['requests']} requests, {results['lost_writes']} lost writes, {results['wrong_values']} wrong values,"
          f" {results['tcp_resets']} resets")
    print(f"  {results['hold']['packets']} packets held and delivered, {results['hold']['dropped']} dropped; {results['retransmission_timeouts']}"
          " retransmission timeouts of the clients")
    print(f"  copies: {results['source_copies']} on the source, {results['destination_copies']} on the destination;"
          f" left behind: {', '.join(results['left_behind']) or 'nothing'}")
    for problem in results["problems"]:
        print(f"  NOT AS IT MUST BE: {problem}")


def as_it_must_be(results) -> bool:
    clean = not (results["lost_writes"] or results["wrong_values"] or results["tcp_resets"] or results["left_behind"] or results["problems"])
    return clean and results["source_copies"] == 0 and results["destination_copies"] == 1


def main() -> int:
    args = parse_args()
    demo = Demo(args)
    try:
        results = demo.results(demo.run())
    except LabError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    finally:
        if not args.keep:
            demo.lab.down()
    print_results(results)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    good = as_it_must_be(results)
    print("\nThe clients noticed nothing but a pause." if good else "\nThis is not how it must be.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
