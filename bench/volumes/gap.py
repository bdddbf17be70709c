"""How much longer clients wait for a container with a large volume that is written to than for one with an empty one."""

import time
from statistics import median

from demokit.load import Load, longest_silence_ms, problems
from labkit.errors import LabError
from move import measure as link
from move.systems.base import DESTINATION, SOURCE

from .copy import ADDRESS, CONTAINER, VOLUME, moved, volume_path

# What the writer writes at once, and how often in a second.
WRITE_KIB, WRITES = 100, 10
# Beside Redis in its container; the number of its writes is in a file of the root file system.
WRITER = """
blocks=$(($1 * 1024 / {kib})); n=0
while :; do
  dd if=/dev/urandom of=/data/big bs={kib}k count=1 seek=$(shuf -i 0-$((blocks - 1)) -n 1) conv=notrunc 2>/dev/null
  n=$((n + 1)); echo $n >/run/writes; sleep {pause}
done
"""


def create(scene, host, mib: int) -> None:
    host.run(["podman", "volume", "create", VOLUME])
    if mib:
        host.run(f"head -c {mib}M /dev/urandom >{volume_path(host)}/big; sync", timeout=3600)
    writer = WRITER.format(kib=WRITE_KIB, pause=1 / WRITES) if mib else "sleep 100000"
    host.run(["podman", "run", "-d", "--name", CONTAINER, "--ip", ADDRESS, "-v", f"{VOLUME}:/data", scene.lab.image("redis"), "sh", "-c",
              f"( {writer} ) & exec redis-server --save '' --protected-mode no --bind 0.0.0.0", "sh", mib], timeout=90)
    scene.lab.route(ADDRESS, host.name)
    time.sleep(3)


def writes(host) -> int:
    return int(host.run(["podman", "exec", CONTAINER, "cat", "/run/writes"], check=False).stdout or 0)


def one_move(scene, host, destination: str) -> dict:
    scene.shape()
    load = Load(scene.lab.host("client"), ADDRESS, counters=1, values=1)
    try:
        before, sent, begin = writes(host), link.sent_bytes(host), time.monotonic()
        summary = moved(host, destination)
        end = time.monotonic()
        sent = link.sent_bytes(host) - sent
        changed = writes(scene.lab.host(destination)) - before
        time.sleep(1)
    finally:
        report = load.stop()
        scene.clear_shape()
    if problems(report) or report["tcp_resets"]:
        raise LabError(f"the clients: {problems(report)}, {report['tcp_resets']} resets")
    return {"gap_ms": round(longest_silence_ms(report, begin, end + 0.5), 1), "own_gap_ms": summary["gap_ms"], "sent_bytes": sent,
            "changed_bytes": changed * WRITE_KIB * 1024, "volume_bytes_sent": summary["bytes_volumes"], "total_s": round(end - begin, 1),
            "volume_rounds": summary["volume_rounds"], "gap_parts_ms": summary["gap_parts_ms"]}


def clean_up(scene) -> None:
    scene.clear_shape()
    for name in (SOURCE, DESTINATION):
        scene.lab.host(name).run(f"podman rm -f -t 0 -i {CONTAINER}; podman volume rm -f {VOLUME}", check=False, timeout=300)
    if ADDRESS in scene.lab.routes():
        scene.lab.unroute(ADDRESS)


def there_and_back(scene, mib: int) -> dict:
    a, b = scene.lab.host(SOURCE), scene.lab.host(DESTINATION)
    try:
        create(scene, a, mib)
        return {"there": one_move(scene, a, DESTINATION), "back": one_move(scene, b, SOURCE)}
    finally:
        clean_up(scene)


def measure(scene, mib: int, runs: int, say) -> dict:
    empty, full = [], []
    for number in range(runs):
        empty.append(there_and_back(scene, 0))
        full.append(there_and_back(scene, mib))
        e, f = empty[-1], full[-1]
        say(f"run {number + 1}: empty {e['there']['gap_ms']:.0f} and {e['back']['gap_ms']:.0f} ms; {mib} MiB {f['there']['gap_ms']:.0f} and "
            f"{f['back']['gap_ms']:.0f} ms, {f['there']['total_s']} and {f['back']['total_s']} s")
    size = mib << 20

    def gap(rows, way):
        return median(r[way]["gap_ms"] for r in rows)

    return {"mib": mib, "runs": runs, "gap_ms_empty": gap(empty, "there"), "gap_ms": gap(full, "there"),
            "gap_ms_more": round(gap(full, "there") - gap(empty, "there"), 1), "gap_ms_more_back": round(gap(full, "back") - gap(empty, "back"), 1),
            "sent_ratio": round(median(r["there"]["sent_bytes"] / (size + r["there"]["changed_bytes"]) for r in full), 4),
            "sent_back_bytes": median(r["back"]["volume_bytes_sent"] for r in full),
            "changed_before_and_during_back": median(r["there"]["changed_bytes"] + r["back"]["changed_bytes"] for r in full),
            "each_run": {"empty": empty, "full": full}}
