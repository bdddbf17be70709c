"""The longest silence of a client against the time that the container stood still, at several delays."""

import time
from statistics import median

from demokit.load import Load, longest_silence_ms, problems
from demokit.subject import PodmanRedis
from labkit.errors import LabError

from .subjects import Scene, say

CLIENTS = 4
ALLOWED_MS = 30.0  # besides two round trips

ROUND_TRIP = ("import socket,sys,time\n"
              "s=socket.create_connection((sys.argv[1],6379),10); s.setsockopt(6,1,1); best=9.0\n"
              "for _ in range(30):\n"
              "    begin=time.monotonic(); s.sendall(b'PING\\r\\n'); s.recv(64); best=min(best,time.monotonic()-begin)\n"
              "print(best*1000)\n")


def round_trip_ms(scene: Scene, address: str) -> float:
    return float(scene.client.run(["python3", "-c", ROUND_TRIP, address], timeout=60).stdout)


def one_move(scene: Scene, redis, source, destination) -> dict:
    load = Load(scene.client, redis.address, counters=CLIENTS // 2, values=CLIENTS // 2)
    try:
        time.sleep(0.5)
        before = round_trip_ms(scene, redis.address)
        begin = time.monotonic()
        summary = scene.move(redis.reference, source, destination, "--max-gap", "1000")
        time.sleep(1.5)
        end = time.monotonic()
        after = round_trip_ms(scene, redis.address)
        report = load.stop()
    finally:
        if load.report is None:
            load.process.kill()
            load.process.wait(10)
    if found := problems(report) or [k for k in ("lost_writes", "wrong_values", "tcp_resets") if report[k]]:
        raise LabError(f"clients complain: {found}")
    # The slower of the two: away from home it has one way more.
    rtt, silence = max(before, after), longest_silence_ms(report, begin, end)
    return {"to": destination.name, "frozen_ms": summary["gap_ms"], "rtt_ms": round(rtt, 1), "silence_ms": round(silence, 1),
            "over_ms": round(silence - summary["gap_ms"] - 2 * rtt, 1), "held": summary["packets_held"],
            "dropped": summary["packets_dropped"]}


def measure(scene: Scene, delays: list[float], rate: str, runs: int) -> list[dict]:
    rows = []
    for delay in delays:
        moves = []
        with scene.shaped(rate, delay), scene.container(PodmanRedis(scene.lab, name="gap", address="10.88.0.61")) as redis:
            redis.fill(scene.home, 8)
            for _ in range(runs):
                for source, destination in ((scene.home, scene.away), (scene.away, scene.home)):
                    moves.append(one_move(scene, redis, source, destination))
                    say(f"gap, delay {delay:g} ms: {moves[-1]}")
        for to in (scene.away.name, scene.home.name):
            some = [m for m in moves if m["to"] == to]
            row = {"delay_ms": delay, "to": to, "moves": len(some)}
            row |= {key: median(m[key] for m in some) for key in ("frozen_ms", "rtt_ms", "silence_ms", "over_ms")}
            row |= {"over_ms_max": max(m["over_ms"] for m in some), "held": sum(m["held"] for m in some),
                    "dropped": sum(m["dropped"] for m in some)}
            rows.append(row)
    return rows


def show(rows: list[dict]) -> None:
    print("longest silence of a client, median (over: beyond frozen time and two round trips; must be at most 30 ms)")
    for r in rows:
        print(f"  delay {r['delay_ms']:>4g} ms, to {r['to']:<6} silence {r['silence_ms']:>6.1f} ms, frozen {r['frozen_ms']:>4.0f}, round trip "
              f"{r['rtt_ms']:>5.1f}, over {r['over_ms']:>6.1f} (most {r['over_ms_max']:.1f}), held {r['held']}, dropped {r['dropped']}, "
              f"{r['moves']} moves")


def good(rows: list[dict]) -> bool:
    return all(r["over_ms"] <= ALLOWED_MS and r["dropped"] == 0 for r in rows)
