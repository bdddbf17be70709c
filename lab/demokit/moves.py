"""Moves by the command line program, and what it said of them."""

import json
import subprocess
import threading
import time
from dataclasses import dataclass, field

from labkit.api import Host

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
