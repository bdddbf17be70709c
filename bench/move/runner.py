"""All rows, in turns."""

import platform
import sys
import time
from pathlib import Path
from statistics import median

from demokit.link import measure_link
from demokit.memory import OwnMemory, available_mib

from .options import Options
from .report import Row, as_json
from .scene import Cell, Scene
from .systems import chosen
from .systems.base import DESTINATION, SOURCE
from .systems.transship import can_choose_mode


class Bench:
    def __init__(self, options: Options):
        self.options = options
        self.scene = Scene(options.lab, options.rate, options.delay)
        self.memory = None
        self.measured: list[tuple[list[Row], list[float]]] = []  # rows of a cell, and the link's rates by iperf3

    def run(self) -> None:
        if not self.options.cold:
            self.memory = OwnMemory(mib=1024 + 6 * max(self.options.sizes))
            say(self.memory.what)
        self.scene.up()
        try:
            for cell in self.cells():
                self.run_cell(cell)
        finally:
            self.scene.down()

    def cells(self) -> list[Cell]:
        o = self.options
        return [Cell(size, rate, values) for size in o.sizes for values in o.values for rate in o.write_rates]

    def run_cell(self, cell: Cell) -> None:
        can_choose = can_choose_mode(self.scene.lab.host(SOURCE))
        systems = chosen(self.scene.lab, self.options, can_choose)
        rows = {system: Row(system.name, system.mode, cell, system.note) for system in systems}
        shown, rates = list(rows.values()), []
        self.measured.append((shown, rates))
        for number in range(self.options.runs):
            rates.append(self.link_rate())
            # Another one begins each time, so that none always follows the same neighbour.
            turn = number % len(systems)
            for system in systems[turn:] + systems[:turn]:
                if rows[system].given_up:
                    continue
                say(f"{cell.size_mib} MiB {cell.values}, {cell.write_rate} SET/s, run {number + 1}: {system.name} {system.mode}", end="")
                begin = time.monotonic()
                run = self.scene.run(system, cell, rates[-1])
                rows[system].runs.append(run)
                outcome = f"failed: {' '.join(run.error.split())[:300]}" if run.error else f"gap {run.gap_ms:.0f} ms, total {run.total_ms:.0f} ms"
                say(f": {outcome} ({time.monotonic() - begin:.0f} s)")
            if number == 0:
                systems = self.best_of_contests(systems, rows)
                shown[:] = [rows[system] for system in systems]

    def link_rate(self) -> float:
        self.scene.shape()
        try:
            return measure_link(self.scene.lab.host(SOURCE), self.scene.lab.host(DESTINATION))
        finally:
            self.scene.clear_shape()

    @staticmethod
    def best_of_contests(systems: list, rows: dict) -> list:
        """Of variants of one tool the one that could be reached again first stays; its note says what the others took.
        (Not by the gap: what TCP adds to it when it tries again depends on luck.)"""
        kept = []
        for system in systems:
            rivals = [s for s in systems if s.contest == system.contest] if system.contest else [system]
            best = min(rivals, key=lambda s: (not rows[s].good, rows[s].median("reachable_ms") or 0.0))
            if best is system:
                kept.append(system)
                others = [s for s in rivals if s is not system]
                rows[system].note += "; ".join(f"faster than {s.mode}, which took {said(rows[s])}" for s in others)
        return kept

    def rows(self) -> list[dict]:
        """What has been measured, also when the bench was ended in the middle."""
        link = {"link": self.options.rate, "delay": self.options.delay}
        return [as_json(row, link | {"link_bits_per_second": round(median(rates))})
                for rows, rates in self.measured for row in rows if row.runs]

    def result(self) -> dict:
        return {"machine": machine(), "rows": self.rows()}


def said(row: Row) -> str:
    return f"{row.median('reachable_ms'):.0f} ms in its run" if row.good else "no time, it failed"


def machine() -> dict:
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
              if line.startswith("model name")]
    return {"cpus": len(models), "cpu": models[0] if models else platform.machine(), "kernel": platform.release(),
            "memory_available_mib": available_mib(), "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def say(text: str, end="\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
