"""One run: a Redis in use on the source, one system moves it, and everything is looked at before, meanwhile and after."""

import time
from dataclasses import dataclass, field

from demokit.runc_subject import RuncRedis
from demokit.subject import IMAGE
from demokit.tcp import Repeated, repeated
from labkit import deploy, shape
from labkit.api import Lab
from labkit.errors import LabError

from . import measure
from .systems import System
from .systems.base import DESTINATION, SOURCE
from .workload import Workload, longest_silence, served_ratio

USUAL = 2.0     # s of load before the move, for comparison
WARM_UP = 0.5   # s of load before that
SETTLE = 0.5    # s of load afterwards
# A client whose packets were lost tries again later and later: at most this long is waited for it.
ANSWER_AFTER = 130.0


@dataclass(frozen=True)
class Cell:
    """What the rows that are compared with each other have in common."""

    size_mib: int
    write_rate: int
    values: str


@dataclass
class Run:
    """What one move was like. `error`: why it failed; then nothing else counts."""

    error: str = ""
    gap_ms: float = 0.0
    reachable_ms: float = 0.0
    total_ms: float = 0.0
    running_ms: float | None = None
    max_gap_kept: bool | None = None
    link_share: float | None = None
    sent_bytes: int = 0
    container_bytes: int = 0
    served_ratio: float | None = None
    wrong_bytes: int = 0
    lost_connections: int = 0
    extra_bytes: int = 0
    daemon_bytes: int = 0
    did: str = ""
    parts_ms: dict[str, float] = field(default_factory=dict)
    # By the TCP of the clients: a packet that was lost in a move makes its silence longer by what TCP waits for.
    repeated: Repeated = Repeated(0, 0)


class Scene:
    """The lab, and what the runs in it share."""

    def __init__(self, name: str, rate: str, delay: str):
        self.lab, self.rate = Lab(name), rate
        # Half of the delay on the link of either host.
        self.delay = f"{shape.parse_delay(delay) // 2}us"

    def up(self) -> None:
        if not deploy.programs_exist():
            raise LabError(f"{deploy.DEFAULT_BUILD} has not all of {', '.join(deploy.PROGRAMS)}", hint="./dev build first")
        self.lab.up()
        for host in (self.lab.host(SOURCE), self.lab.host(DESTINATION)):
            host.run(["podman", "pull", "-q", IMAGE], timeout=90)

    def down(self) -> None:
        self.lab.down()

    def shape(self) -> None:
        for host in (SOURCE, DESTINATION):
            self.lab.shape(host, rate=self.rate, delay=None if self.delay == "0us" else self.delay)

    def clear_shape(self) -> None:
        for host in (SOURCE, DESTINATION):
            self.lab.clear_shape(host)

    def run(self, system: System, cell: Cell, link_bits_per_second: float) -> Run:
        """Whatever goes wrong in a run is its row's error: the other rows go on."""
        try:
            try:
                run = self._run(system, cell)
            finally:
                self.clean_up(system)
            if system.copied and run.did == "pre-copy":
                copied, ms = system.copied
                run.link_share = copied * 8000 / ms / link_bits_per_second
            return run
        except LabError as e:
            return Run(error=str(e))
        except Exception as e:
            return Run(error=f"{type(e).__name__}: {e}")

    def clean_up(self, system: System) -> None:
        """A lab in which something cannot be removed is thrown away: the next run gets a new one."""
        try:
            try:
                system.clean_up()
            finally:
                self.remove(system)
            self.check_gone(system)
        except Exception:
            self.down()
            self.up()

    def remove(self, system: System) -> None:
        for host in (system.source, system.destination):
            system.redis.remove(host)
            host.run(["rm", "-rf", RuncRedis.bundle, f"/var/lib/transship/bundles/{system.redis.name}"])
        if system.redis.address in self.lab.routes():
            self.lab.unroute(system.redis.address)
        self.clear_shape()

    def check_gone(self, system: System) -> None:
        end = time.monotonic() + 5
        for host in (system.source, system.destination):
            while measure.resident(host, measure.PROGRAM):
                if time.monotonic() > end:
                    raise LabError(f"a {measure.PROGRAM} still runs on {host.name}")
                time.sleep(0.05)

    def _run(self, system: System, cell: Cell) -> Run:
        redis = system.redis
        redis.create(system.source)
        redis.write_mark(system.source)
        workload = Workload(self.lab.host("client"), redis.address, cell.size_mib, cell.values, cell.write_rate)
        try:
            self.shape()
            system.prepare()
            run = self.measured_move(system, workload)
            self.clear_shape()
            run.wrong_bytes = workload.check(cell.size_mib)["wrong_bytes"]
        finally:
            workload.close()
        self.check_moved(system)
        return run

    def measured_move(self, system: System, workload: Workload) -> Run:
        run = Run(container_bytes=measure.resident(system.source, measure.PROGRAM))
        workload.start()
        time.sleep(WARM_UP)
        before = time.monotonic()
        time.sleep(USUAL)
        client = self.lab.host("client")
        again = repeated(client)
        watch = measure.MemoryWatch(system.source, system.destination)
        try:
            sent, begin = measure.sent_bytes(system.source), time.monotonic()
            run.parts_ms = system.move()
            end = time.monotonic()
            run.sent_bytes = measure.sent_bytes(system.source) - sent
            filled = measure.wait_filled(system.destination, measure.PROGRAM)
        finally:
            watch.stop()
        run.did, run.running_ms = system.did, system.running_ms
        run.total_ms = (end - begin) * 1000
        workload.wait_answer_after(end, ANSWER_AFTER)
        time.sleep(SETTLE)
        run.repeated = repeated(client) - again
        report = workload.end()
        if report["unfinished"]:
            raise LabError(f"clients never got their answer: {', '.join(report['unfinished'])}; {'; '.join(report['errors'])}")
        if report["wrong_answers"]:
            raise LabError(f"{report['wrong_answers']} answers to the probe were not the value of the key it asked for")
        run.gap_ms, run.reachable_ms = longest_silence(report, begin)
        run.max_gap_kept = system.max_gap_kept
        run.served_ratio = served_ratio(report, before, begin, end)
        run.lost_connections = report["lost"]
        run.extra_bytes = watch.extra(filled)
        run.daemon_bytes = watch.daemon_most if system.has_daemon else 0
        return run

    def check_moved(self, system: System) -> None:
        copies = system.redis.copies(system.source), system.redis.copies(system.destination)
        if copies != (0, 1):
            raise LabError(f"{copies[0]} copies on the source and {copies[1]} on the destination")
        if (mark := system.redis.mark(system.destination)) != "kept":
            raise LabError(f"the file in the root file system did not come along: {mark!r}")
