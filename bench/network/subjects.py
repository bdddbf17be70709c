"""The lab with the driver `tunnel`, moves in it, and containers that go when a part of the bench has ended."""

import contextlib
import json
import sys
import time

from labkit import deploy, shape
from labkit.api import Host, Lab
from labkit.errors import LabError

HOME, AWAY = "aws", "azure"


class Scene:
    def __init__(self, name: str):
        self.lab = Lab(name)

    def up(self) -> None:
        if not deploy.programs_exist():
            raise LabError(f"{deploy.DEFAULT_BUILD} has not all of {', '.join(deploy.PROGRAMS)}", hint="./dev build first")
        self.lab.up()
        self.lab.use_cutover("tunnel")
        self.home, self.away, self.client = self.lab.host(HOME), self.lab.host(AWAY), self.lab.host("client")
        end = time.monotonic() + 20
        while not self.tunnel_answers():
            if time.monotonic() > end:
                raise LabError(f"{AWAY} does not answer through the tunnel")
            time.sleep(0.1)

    def down(self) -> None:
        self.lab.down()

    def tunnel_answers(self) -> bool:
        lines = self.home.run(["transship", "peer", "ls", "--json"]).stdout.splitlines()
        return any(p["name"] == AWAY and p.get("tunnel_answers") for p in map(json.loads, lines))

    @contextlib.contextmanager
    def shaped(self, rate: str, delay_ms: float):
        """`delay_ms`: of the way between the two clouds, half of it on either's link."""
        try:
            for host in (self.home, self.away):
                half = f"{shape.parse_delay(f'{delay_ms}ms') // 2}us" if delay_ms else None
                self.lab.shape(host.name, rate=rate, delay=half)
            yield
        finally:
            for host in (self.home, self.away):
                self.lab.clear_shape(host.name)

    @contextlib.contextmanager
    def container(self, subject):
        """Runs at home; anywhere it may be, it is removed."""
        try:
            subject.create(self.home)
            yield subject
        finally:
            for host in (self.home, self.away):
                subject.remove(host)
            self.lab.unroute(subject.address)

    def move(self, reference: str, source: Host, destination: Host, *options) -> dict:
        """Its summary."""
        argv = ["transship", "move", reference, "--to", destination.name, "--json", *options]
        done = source.run(argv, timeout=600, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        summary = next((line for line in lines if line["message_type"] == "summary"), None)
        if done.returncode != 0 or summary is None:
            error = next((line["message"] for line in lines if line["message_type"] == "error"), done.stderr[-1000:])
            raise LabError(f"transship move ended with {done.returncode}: {error}")
        return summary


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
