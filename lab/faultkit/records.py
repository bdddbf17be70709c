"""The totals of many runs, and what a failing one leaves behind for whoever looks into it."""

import json
import shutil
from collections import Counter
from pathlib import Path

from labkit.errors import LabError

from .run import GONE_WRONG, Outcome
from .stage import Stage


class Records:
    def __init__(self, args):
        self.args, self.counts, self.failures, self.broken = args, Counter(), [], ""
        self.kinds, self.times = Counter(), []

    def add(self, outcome: Outcome):
        self.counts["runs"] += 1
        self.counts[outcome.ended.replace("-", "_")] += 1
        self.counts["needs_operator"] += bool(outcome.needs_operator)
        for what in outcome.wrong:
            self.counts[what] += 1
        for fault in outcome.draw.faults:
            self.kinds[fault.kind] += 1
        self.times.append(outcome.seconds)
        if outcome.wrong or outcome.needs_operator:
            self.failures.append([outcome.draw.seed, outcome.draw.number, outcome.source])

    def failed(self) -> bool:
        return bool(self.failures or self.broken)

    def totals(self, seconds: float) -> dict:
        names = ("runs", "committed", "rolled_back", "lost", "needs_operator", *GONE_WRONG, "unexpected")
        totals = {name: self.counts[name] for name in names}
        totals["seeds_of_failures"] = self.failures
        totals["faults"] = dict(self.kinds)
        totals["seconds"] = round(seconds)
        if self.times:
            totals["median_run_s"] = round(sorted(self.times)[len(self.times) // 2], 1)
        if self.broken:
            totals["ended_early"] = self.broken
        return totals


def keep_logs(top: Path, stage: Stage, outcome: Outcome, since: dict[str, int]) -> Path:
    """Both daemons' logs of this run, their journals, CRIU's and the pager's logs as far as there still are any."""
    d = outcome.draw
    directory = top / (f"seed-{d.seed}-run-{d.number}" if d.seed else f"point-{d.number}")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "outcome").write_text(outcome.line() + "\n\n" + "\n".join(outcome.notes) + "\n", encoding="utf-8")
    for host in stage.hosts:
        own = directory / host.name
        own.mkdir()
        try:
            (own / "transshipd.log").write_bytes(host.get("/var/log/transship/transshipd.log")[since[host.name]:])
            (own / "moves.json").write_text("\n".join(map(json.dumps, stage.moves(host)[:3])), encoding="utf-8")
            show = host.run(["transship", "show", outcome.move_id, "--json"], check=False) if outcome.move_id else None
            (own / "show.json").write_text(show.stdout if show else "", encoding="utf-8")
            state = host.run("podman ps -a; ps -eo pid,ppid,stat,wchan:24,args; cat /run/transship/podman/service.log; "
                             "nft list tables; ip route; findmnt -R /run; ls -R /run/transship /run/runc; podman inspect " + stage.subject.name,
                             check=False)
            (own / "state").write_text(state.stdout + state.stderr, encoding="utf-8")
            host.run("mkdir -p /tmp/kept; for f in /run/transship/moves/*/work/*.log; do [ -e $f ] && cp --parents $f /tmp/kept; done", check=False)
            if host.path("/tmp/kept").exists():
                shutil.copytree(host.path("/tmp/kept"), own / "work", dirs_exist_ok=True)
        except (LabError, OSError, ValueError) as e:
            (own / "not-everything").write_text(str(e), encoding="utf-8")
    return directory
