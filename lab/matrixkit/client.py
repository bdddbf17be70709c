"""Clients that run: programs of clients/ on a lab host, and the load of the demo in the same form."""

import json
import selectors
import subprocess
import time
from pathlib import Path

from demokit.load import Load, problems
from labkit.api import Host
from labkit.errors import LabError

from .verdict import Progress, Report

PROGRAMS = Path(__file__).resolve().parent / "clients"
ON_HOST = "/usr/lib/transship-lab/matrix"


class Client:
    """One program of clients/, between "ready" and its report."""

    def __init__(self, host: Host, program: str, *words, helpers=(), patience=180.0):
        for name in ("steady.py", *helpers, program):
            host.put(f"{ON_HOST}/{name}", (PROGRAMS / name).read_bytes())
        self.name, self.patience = program.removesuffix(".py"), patience
        self.process = host.popen(["python3", f"{ON_HOST}/{program}", *map(str, words)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.rest = b""
        try:
            if (said := self.line()) != "ready":
                raise LabError(f"the client {self.name} said {said!r} instead of \"ready\"")
        except BaseException:
            self.close()
            raise

    def line(self) -> str:
        end = time.monotonic() + self.patience
        while b"\n" not in self.rest:
            if not self.selector.select(max(0.0, end - time.monotonic())):
                raise LabError(f"the client {self.name} has said nothing for {self.patience:g} s")
            piece = self.process.stdout.read1(1 << 16)
            if not piece:
                raise LabError(f"the client {self.name} ended: {self.process.stderr.read().decode(errors='replace')[-2000:]}")
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode(errors="replace").strip()

    def ask(self, what: str) -> dict:
        try:
            self.process.stdin.write(what.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # line() says how it ended
        return json.loads(self.line())

    def progress(self) -> Progress:
        said = self.ask("progress")
        return Progress(said["checked"], said["wrong"])

    def stop(self) -> Report:
        said = self.ask("stop")
        self.process.wait(10)
        return Report(self.name, said["checked"], said["wrong"], [tuple(s) for s in said["silences"]])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.selector.close()


class RedisClients:
    """The demo's: they check every answer, and are asked only at the end."""

    name = "redis_load"

    def __init__(self, host: Host, address: str, **options):
        self.load = Load(host, address, **options)

    def progress(self) -> None:
        """It does not say."""

    def stop(self) -> Report:
        said = self.load.stop()
        wrong = problems(said)
        wrong += [f"{said[what]} {what}" for what in ("lost_writes", "wrong_values", "tcp_resets") if said[what]]
        return Report(self.name, {"answers": said["requests"]}, wrong, [tuple(s) for s in said["silences"]])

    def close(self) -> None:
        if self.load.report is None and self.load.process.poll() is None:
            self.load.process.kill()
            self.load.process.wait(10)
