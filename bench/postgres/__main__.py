"""Called as `python3 bench/postgres ARGS`: what shared memory costs. A PostgreSQL in use, its shared buffers full, is moved
by Transship and by Podman's archive in turns."""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from statistics import median

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[0:1] = [str(CHECKOUT / "bench"), str(CHECKOUT / "lab")]

from demokit.load import longest_silence_ms  # noqa: E402
from demokit.memory import OwnMemory  # noqa: E402
from demokit.postgres import PodmanPostgres, PostgresLoad  # noqa: E402
from labkit.errors import LabError  # noqa: E402
from labkit.options import result_file  # noqa: E402
from move.scene import Scene  # noqa: E402
from move.systems.base import DESTINATION, SOURCE, System  # noqa: E402
from move.systems.podman import PodmanArchive  # noqa: E402
from move.systems.transship import Transship  # noqa: E402

BEFORE, AFTER = 1.0, 2.0  # s of load around a move


def parse(arguments: list[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="./dev bench postgres", description=__doc__)
    p.add_argument("--buffers", type=int, default=128, metavar="MIB", help="shared_buffers, 16 to 4096 (default 128)")
    p.add_argument("--rate", default="1gbit", help="of both hosts' links (default 1gbit)")
    p.add_argument("--delay", default="1ms", help="of the way between them (default 1ms)")
    p.add_argument("--runs", type=int, default=5, help="of each system (default 5)")
    p.add_argument("--against", choices=["podman", "none"], default="podman")
    p.add_argument("--json", type=result_file, metavar="FILE")
    p.add_argument("--lab", default="bench", help="name of the lab (default bench)")
    p.add_argument("--cold", action="store_true", help="do not touch the machine's memory once beforehand")
    options = p.parse_args(arguments)
    if not 16 <= options.buffers <= 4096 or not 1 <= options.runs <= 1000:
        p.error("--buffers is 16 to 4096, --runs 1 to 1000")
    return options


def one_run(scene: Scene, system: System, postgres: PodmanPostgres) -> dict:
    load = None
    try:
        postgres.create(system.source)
        # The rest of the buffers is PostgreSQL's own tables, and what the transactions write.
        load = PostgresLoad(scene.lab, postgres.address, postgres.buffers_mib * 3 // 4)
        scene.shape()
        system.prepare()
        time.sleep(BEFORE)
        begin = time.monotonic()
        parts = system.move()
        total = time.monotonic() - begin
        postgres.wait_answer(system.destination)
        time.sleep(AFTER)
        end = time.monotonic()
        scene.clear_shape()
        report = load.stop()
    finally:
        if load:
            load.close()
        scene.clear_shape()
        system.clean_up()
        for host in (system.source, system.destination):
            postgres.remove(host)
        if postgres.address in scene.lab.routes():
            scene.lab.unroute(postgres.address)
    if report["error"]:
        raise LabError(f"the client's connection did not survive: {report['error']}")
    return {"gap_ms": longest_silence_ms(report, begin, end), "total_ms": total * 1000, "wrong": report["wrong_count"],
            "transactions": report["transactions"], "parts_ms": parts}


def row(name: str, runs: list[dict], errors: list[str]) -> dict:
    gaps = [run["gap_ms"] for run in runs]
    parts = {part: round(median(run["parts_ms"][part] for run in runs), 1) for part in (runs[0]["parts_ms"] if runs else {})}
    return {"system": name, "runs": len(runs), "gap_ms_median": round(median(gaps), 1) if gaps else None,
            "gap_ms_min": min(gaps, default=None), "gap_ms_max": max(gaps, default=None),
            "total_ms_median": round(median(run["total_ms"] for run in runs)) if runs else None,
            "wrong": sum(run["wrong"] for run in runs), "parts_ms_median": parts, "errors": errors}


def show(rows: list[dict], options: argparse.Namespace) -> None:
    print(f"PostgreSQL with {options.buffers} MiB of shared buffers, link {options.rate}, delay {options.delay}")
    ours = rows[0]["gap_ms_median"]
    for r in rows:
        if not r["runs"]:
            print(f"  {r['system']}: failed: {' '.join(r['errors'][0].split())[:400]}")
            continue
        ratio = f"{r['gap_ms_median'] / ours:.1f} x ours" if ours else ""
        gaps = f"{r['gap_ms_median']:.0f} ms ({r['gap_ms_min']:.0f}..{r['gap_ms_max']:.0f}, {r['runs']} runs)"
        print(f"  {r['system']:<10} gap {gaps} {ratio}, total {r['total_ms_median'] / 1000:.1f} s, wrong answers {r['wrong']}")
        print("             " + ", ".join(f"{part} {ms:.0f}" for part, ms in r["parts_ms_median"].items()))


def measure(scene: Scene, options: argparse.Namespace) -> list[dict]:
    for host in (SOURCE, DESTINATION):
        scene.lab.host(host).run(["podman", "pull", "-q", scene.lab.image("postgres")], timeout=180)
    postgres = PodmanPostgres(scene.lab, buffers_mib=options.buffers)
    systems = [Transship(scene.lab, "podman", "auto")]
    systems += [PodmanArchive(scene.lab, "none")] if options.against == "podman" else []
    runs, errors = {s: [] for s in systems}, {s: [] for s in systems}
    for number in range(options.runs):
        for system in systems:
            system.redis = postgres
            try:
                runs[system].append(one_run(scene, system, postgres))
                outcome = f"gap {runs[system][-1]['gap_ms']:.0f} ms"
            except LabError as e:
                errors[system].append(str(e))
                outcome = f"failed: {e}"
            print(f"run {number + 1}: {system.name}: {outcome}", file=sys.stderr, flush=True)
    return [row(s.name, runs[s], errors[s]) for s in systems]


def main() -> int:
    options = parse(sys.argv[1:])
    # As an exception, so that a bench that is told to end cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    memory = None if options.cold else OwnMemory(mib=2048 + 8 * options.buffers)
    if memory:
        print(memory.what, file=sys.stderr, flush=True)
    scene = Scene(options.lab, options.rate, options.delay)
    scene.up()
    try:
        rows = measure(scene, options)
    finally:
        scene.down()
    show(rows, options)
    if options.json:
        options.json.write_text(json.dumps({"buffers_mib": options.buffers, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return int(any(not r["runs"] or r["wrong"] for r in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as e:
        print(f"bench: {e}", file=sys.stderr)
        sys.exit(1)
