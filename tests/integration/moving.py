"""Helpers of the tests of moves: run one, and check what must be true afterwards."""

import contextlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field

from demokit import leftovers
from demokit.load import Load, problems
from demokit.subject import PodmanRedis
from labkit.api import Host, Lab

DONE, FAILED, USAGE, ROLLED_BACK, REFUSED, NOT_CONVERGED, CANCELLED = 0, 1, 2, 3, 4, 5, 130


@dataclass
class Outcome:
    code: int
    lines: list[dict]
    stderr: str
    seconds: float
    stdout: str = ""

    def of(self, message_type: str) -> list[dict]:
        return [line for line in self.lines if line["message_type"] == message_type]

    @property
    def summary(self) -> dict:
        assert self.of("summary"), f"no summary, exit code {self.code}: {self.stdout[-3000:]} {self.stderr[-3000:]}"
        return self.of("summary")[0]

    @property
    def error(self) -> dict:
        assert self.of("error"), f"no error, exit code {self.code}: {self.stdout[-3000:]} {self.stderr[-3000:]}"
        return self.of("error")[0]


def move(source: Host, reference: str, destination: str, *options, timeout=180) -> Outcome:
    begin = time.monotonic()
    done = source.run(["transship", "move", reference, "--to", destination, "--json", *options], timeout=timeout, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Outcome(done.returncode, lines, done.stderr, time.monotonic() - begin, done.stdout)


@dataclass
class RunningMove:
    """A move whose events are seen as they come, so that a test can do something in the middle."""

    source: Host
    reference: str
    destination: str
    options: tuple = ()
    lines: list[dict] = field(default_factory=list)

    def __post_init__(self):
        argv = ["transship", "move", self.reference, "--to", self.destination, "--json", *self.options]
        self.begin = time.monotonic()
        self.process = self.source.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                if line.startswith("{"):
                    self.lines.append(json.loads(line))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_phase(self, phase: str, timeout=60.0) -> bool:
        """True when it has begun; False when the move ended before."""
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                if any(line["message_type"] == "phase" and line["phase"] == phase for line in self.lines):
                    return True
                if not self.reader.is_alive() or time.monotonic() > end:
                    return False
                self.changed.wait(0.05)

    def interrupt(self) -> None:
        """Ctrl-C, as the program sees it."""
        self.source.run("kill -INT $(pidof transship)", check=False)

    def kill(self) -> None:
        """SIGKILL to the program."""
        self.source.run("kill -KILL $(pidof transship)", check=False)

    def outcome(self, timeout=120) -> Outcome:
        code = self.process.wait(timeout)
        self.reader.join(5)
        return Outcome(code, self.lines, self.process.stderr.read(), time.monotonic() - self.begin)


@contextlib.contextmanager
def link_cut(host):
    link = host.run("ip route show default").stdout.split()[4]
    default6 = host.run("ip -6 route show default").stdout.split()
    host.run(["sysctl", "-qw", f"net.ipv6.conf.{link}.keep_addr_on_down=1"])  # IPv6 addresses go with the link otherwise
    host.run(["ip", "link", "set", link, "down"])
    try:
        yield
    finally:
        host.run(["ip", "link", "set", link, "up"])
        host.run(["ip", "route", "replace", "default", "via", host.spec.gateway])
        if default6:
            host.run(["ip", "-6", "route", "replace", "default", "via", default6[default6.index("via") + 1], "dev", link])


class Scene:
    """A Redis in use on one host, and the hosts' state before: for one test."""

    def __init__(self, lab: Lab, home="aws", address="10.88.0.30", name="redis", mib=8, options=(), clients=2, redis=None):
        self.lab, self.home = lab, lab.host(home)
        self.redis = redis or PodmanRedis(lab, name=name, address=address)
        self.keys, self.load = mib * 16, None
        self.before = {h.name: leftovers.collect(h) for h in lab.clouds()}
        try:
            self.redis.create(self.home, options)
            self.redis.fill(self.home, mib)
            if clients:
                self.load = Load(lab.host("client"), self.redis.address, counters=(clients + 1) // 2, values=clients // 2)
            self.digest = self.redis.data_digest(self.home, self.keys)
        except BaseException:
            self.close()  # nobody else can: the caller gets no scene
            raise

    def close(self):
        if self.load and self.load.report is None:
            try:
                self.load.process.kill()
            finally:
                self.load.process.wait(10)
        for host in self.lab.clouds():
            self.redis.remove(host)
        if self.redis.address in self.lab.routes():
            self.lab.unroute(self.redis.address)

    def check_runs_on(self, name: str, seconds=15.0) -> None:
        """One copy, there, with its data, its file and its clients; nothing left anywhere else."""
        here = self.lab.host(name)
        end = time.monotonic() + seconds
        while (left := self.left_behind(name)) and time.monotonic() < end:
            time.sleep(0.2)  # the destination cleans up when it hears of the end
        assert left == [], self.redis.how_it_is(here)
        copies = {h.name: self.redis.copies(h) for h in self.lab.clouds()}
        assert copies == {h: int(h == name) for h in copies}
        self.redis.wait_answer(here)
        assert self.redis.data_digest(here, self.keys) == self.digest
        assert self.redis.mark(here) == "kept"
        if self.load:
            report = self.load.stop()
            assert problems(report) == []
            assert (report["lost_writes"], report["wrong_values"], report["tcp_resets"]) == (0, 0, 0)
            assert report["requests"] > 0

    def left_behind(self, name: str) -> list[str]:
        found = []
        for host in self.lab.clouds():
            # What the operator of plain bundles prepared on every host stays.
            allowed = (f"route: {self.redis.address} dev v{self.redis.name} ",)
            if host.name == name:
                allowed += (f"container: {self.redis.name} running", "firewall: ")
            found += leftovers.left_behind(host, self.before[host.name], allowed)
        return found
