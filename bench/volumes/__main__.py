"""Called as `python3 bench/volumes ARGS`: what volumes cost. `copy`: a tree against `rsync -a`, at first and after a hundredth
has changed. `gap`: how much longer clients wait, and what is sent, when the volume is large and written to."""

import argparse
import json
import signal
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[0:1] = [str(CHECKOUT / "bench"), str(CHECKOUT / "lab")]

from labkit.errors import LabError  # noqa: E402
from labkit.options import result_file  # noqa: E402
from move.scene import Scene  # noqa: E402
from volumes import copy, gap  # noqa: E402


def parse(arguments: list[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="./dev bench volumes", description=__doc__)
    p.add_argument("--only", choices=["copy", "gap"], help="one of the two parts")
    p.add_argument("--mib", type=int, default=1024, help="size of the tree of `copy` (default 1024)")
    p.add_argument("--gap-mib", type=int, default=10240, help="size of the volume of `gap` (default 10240)")
    p.add_argument("--rate", default="1gbit", help="of both hosts' links (default 1gbit)")
    p.add_argument("--delay", default="1ms", help="of the way between them (default 1ms)")
    p.add_argument("--runs", type=int, default=3, help="of each part (default 3)")
    p.add_argument("--json", type=result_file, metavar="FILE")
    p.add_argument("--lab", default="bench", help="name of the lab (default bench)")
    options = p.parse_args(arguments)
    if not 128 <= options.mib <= 65536 or not 16 <= options.gap_mib <= 65536 or not 1 <= options.runs <= 100:
        p.error("--mib is 128 to 65536, --gap-mib 16 to 65536, --runs 1 to 100")
    return options


def show(result: dict) -> None:
    if c := result.get("copy"):
        print(f"copy of {c['mib']} MiB: {c['first_s_median']} s, rsync -a takes {c['first_ratio']} times as long "
              f"({c['first_ratio_on_disk']} until it is on the disk, as ours is)")
        print(f"after 1 % has changed: {c['again_s_median']} s, {c['again_bytes_median'] / 2**20:.1f} MiB; rsync {c['again_ratio']} times as long "
              f"({c['again_ratio_on_disk']} on the disk). Trees equal: {'yes' if c['equal'] else 'NO'}")
    if g := result.get("gap"):
        print(f"gap with {g['mib']} MiB written to: {g['gap_ms']:.0f} ms, with an empty volume {g['gap_ms_empty']:.0f} ms: {g['gap_ms_more']:.0f} ms more; "
              f"on the way back {g['gap_ms_more_back']:.0f} ms more")
        print(f"sent: {g['sent_ratio']} of the volume and what changed meanwhile; on the way back {g['sent_back_bytes'] / 2**20:.1f} MiB of "
              f"{g['changed_before_and_during_back'] / 2**20:.1f} MiB that had been written since it was first copied")


def main() -> int:
    options = parse(sys.argv[1:])
    # As an exception, so that a bench that is told to end cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    scene = Scene(options.lab, options.rate, options.delay)
    scene.up()
    result = {"rate": options.rate, "delay": options.delay}
    try:
        if options.only != "gap":
            result["copy"] = copy.measure(scene, options.mib, options.runs, say)
        if options.only != "copy":
            result["gap"] = gap.measure(scene, options.gap_mib, options.runs, say)
    finally:
        scene.down()
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(not result.get("copy", {"equal": True})["equal"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as e:
        print(f"bench: {e}", file=sys.stderr)
        sys.exit(1)
