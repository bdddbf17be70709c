"""Ours, by its command line."""

import json

from demokit.runc_subject import RuncRedis
from labkit.errors import LabError

from .base import DESTINATION, System

LONGEST = 600.0  # s
MAX_GAP = 300.0  # ms; what a move without --max-gap aims at


class Transship(System):
    name = "transship"
    has_daemon = True

    def __init__(self, lab, engine: str, mode: str | None):
        """mode None: this build has no choice of modes, it stops and copies."""
        super().__init__(lab)
        if engine == "runc":
            self.redis = RuncRedis(lab)
        self.options = ["--mode", mode] if mode else []
        self.mode = mode or "stop-copy"
        self.note = "" if mode else "this build has no --mode"

    def move(self) -> dict[str, float]:
        argv = ["transship", "move", self.redis.reference, "--to", DESTINATION, "--json", *self.options]
        done = self.source.run(argv, timeout=LONGEST, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        summary = next((line for line in lines if line["message_type"] == "summary"), None)
        if done.returncode != 0 or summary is None:
            error = next((line["message"] for line in lines if line["message_type"] == "error"), done.stderr[-1000:])
            raise LabError(f"transship move ended with {done.returncode}: {error}")
        self.did = summary.get("mode") or ""
        self.copied = summary["bytes_memory"], summary["total_parts_ms"]["memory"]
        # The warning comes before the freeze: it cannot be that short.
        self.max_gap_kept = summary["gap_ms"] <= MAX_GAP or any(w.startswith("gap:") for w in summary["warnings"])
        parts = list(summary["total_parts_ms"].items())
        names = [name for name, _ in parts]
        self.running_ms = sum(ms for _, ms in parts[:names.index("release") + 1])
        return summary["gap_parts_ms"]


class TransshipByEtcd(Transship):
    """The same, and three nodes of etcd decide. They write to memory: no disk of theirs is in the figures."""

    name = "transship+etcd"

    def prepare(self) -> None:
        self.lab.start_etcd()
        self.lab.use_arbiter()

    def clean_up(self) -> None:
        try:
            self.lab.use_no_arbiter()
        finally:
            self.lab.stop_etcd()


def can_choose_mode(host) -> bool:
    return "--mode" in host.run(["transship", "move", "--help"]).stdout
