"""Helpers of the tests of moves: run one, and check what must be true afterwards."""

import contextlib
import time

from demokit import leftovers
from demokit.load import Load, problems
from demokit.moves import (  # noqa: F401  (tests take them from here)
    CANCELLED, DONE, FAILED, NOT_CONVERGED, REFUSED, ROLLED_BACK, USAGE, Outcome, RunningMove, move)
from demokit.subject import PodmanRedis
from labkit.api import Lab


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
