"""A flow of datagrams, and transfers through nginx, while it moves there and back."""

import time

from demokit.web import PodmanWeb
from labkit.errors import LabError

from .subjects import Scene, say

MIB = 1 << 20


def there_and_back(scene: Scene, web, client) -> list[dict]:
    summaries = []
    for source, destination in ((scene.home, scene.away), (scene.away, scene.home)):
        time.sleep(0.5)
        summaries.append(scene.move(web.reference, source, destination, "--max-gap", "1000"))
        if not client.running():
            raise LabError("what was to go on during the moves was over before them: a longer one is needed")
    return summaries


def held(summaries: list[dict]) -> dict:
    return {"gap_ms": [s["gap_ms"] for s in summaries], "held": sum(s["packets_held"] for s in summaries),
            "dropped": sum(s["packets_dropped"] for s in summaries)}


def datagrams(scene: Scene, per_second: int, seconds: float, runs: int) -> dict:
    total = {"per_second": per_second, "sent": 0, "received": 0, "held": 0, "dropped": 0, "duplicates": 0, "moves": 0}
    with scene.container(PodmanWeb(scene.lab)) as web:
        for _ in range(runs):
            web.datagrams(forget=True)
            flow = web.client("datagrams", per_second, seconds)
            try:
                was = held(there_and_back(scene, web, flow))
                sent = flow.report()["sent"]
            finally:
                flow.close()
            time.sleep(0.5)
            came = web.datagrams()
            say(f"datagrams: sent {sent}, {came}, {was}")
            for key, value in (("sent", sent), ("received", came["received"]), ("duplicates", came["duplicates"]), ("moves", 2),
                               ("held", was["held"]), ("dropped", was["dropped"])):
                total[key] += value
    return total


def transfers(scene: Scene, mib: int, rate: str) -> list[dict]:
    rows = []
    with scene.shaped(rate, 0), scene.container(PodmanWeb(scene.lab)) as web:
        digest = web.make_file(scene.home, mib * MIB)
        for what in ("download", "upload"):
            client = web.client("get", "/file") if what == "download" else web.client("put", mib * MIB)
            try:
                was = held(there_and_back(scene, web, client))
                report = client.report(900)
            finally:
                client.close()
            right = digest if what == "download" else report["answer"]["sha256"]
            rows.append({"what": what, "bytes": report["bytes"], "right": report["sha256"] == right and report["bytes"] == mib * MIB,
                         "silence_ms": report["silence_ms"], **was})
            say(f"transfer: {rows[-1]}")
    return rows


def show(flow: dict | None, rows: list[dict]) -> None:
    if flow:
        print(f"{flow['per_second']} datagrams/s during {flow['moves']} moves: {flow['sent']} sent, {flow['sent'] - flow['received']} lost, "
              f"{flow['duplicates']} twice; held {flow['held']}, dropped {flow['dropped']}")
    for r in rows:
        print(f"HTTP {r['what']} of {r['bytes'] / MIB:.0f} MiB across 2 moves: checksum {'right' if r['right'] else 'WRONG'}, longest silence "
              f"{r['silence_ms']:.0f} ms, gaps {r['gap_ms']} ms, held {r['held']}, dropped {r['dropped']}")


def good(flow: dict | None, rows: list[dict]) -> bool:
    return all(r["right"] for r in rows) and (not flow or (flow["sent"] == flow["received"] and flow["duplicates"] == 0))
