"""The clients, as the bench drives them: programs on the lab's client host that take orders."""

import json
import queue
import subprocess
import threading
import time
from pathlib import Path

from labkit.api import Host
from labkit.errors import LabError

GUEST = Path(__file__).with_name("guest")
ON_CLIENT = "/usr/lib/transship-lab/bench"
WRITERS = 4


class Program:
    """One of the guest programs. Killed by close()."""

    def __init__(self, client: Host, name: str, address: str):
        self.name = name
        for source in GUEST.glob("*.py"):
            client.put(f"{ON_CLIENT}/{source.name}", source.read_bytes())
        self.process = client.popen(["python3", f"{ON_CLIENT}/{name}.py", address],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.answers: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def ask(self, op: str, timeout=30.0, **order) -> dict:
        try:
            self.process.stdin.write(json.dumps({"op": op, **order}) + "\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=timeout)
        except queue.Empty:
            raise LabError(f"{self.name} on the client did not answer to {op} in {timeout:g} s") from None
        except OSError as e:
            raise LabError(f"{self.name} on the client ended before {op}: {e}") from None
        if not line:
            self.process.wait(10)
            raise LabError(f"{self.name} on the client ended in {op}: {self.process.stderr.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"{self.name} on the client: {answer['error']}")
        return answer

    def close(self):
        self.process.kill()
        self.process.wait(10)
        self.reader.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except OSError:
                pass  # an order that was never read


class Workload:
    """A filled Redis at an address, written to and watched from start() to end()."""

    def __init__(self, client: Host, address: str, mib: int, values: str, write_rate: int):
        self.write_rate, self.report = write_rate, {}
        self.writers = Program(client, "writers", address)
        try:
            self.probe = Program(client, "probe", address)
        except BaseException:
            self.writers.close()
            raise
        try:
            self.keys = self.writers.ask("fill", timeout=60 + mib * 0.2, mib=mib, values=values)["keys"]
        except BaseException:
            self.close()
            raise

    def close(self):
        self.writers.close()
        self.probe.close()

    def start(self) -> None:
        self.writers.ask("start", rate=self.write_rate, connections=WRITERS)
        self.probe.ask("start", keys=self.keys)

    def wait_answer_after(self, moment: float, seconds: float) -> None:
        """Until the probe has had an answer later than `moment` (time.monotonic()), or has given up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            last = self.probe.ask("last")
            if last["last_answer"] > moment or not last["alive"]:
                return
            time.sleep(0.05)
        raise LabError(f"no client got an answer in {seconds:g} s after the move")

    def end(self) -> dict:
        """Ends the clients and returns what they have seen."""
        probe = self.probe.ask("end", timeout=140)
        writers = self.writers.ask("end", timeout=140)
        return {
            "silences": probe["silences"], "served": writers["written"] if self.write_rate else probe["answers"],
            "lost": probe["lost"] + writers["lost"], "wrong_answers": probe["wrong"],
            # A lost connection is counted; what is left here nobody expects.
            "unfinished": probe["unfinished"] + writers["unfinished"], "errors": probe["errors"] + writers["errors"],
        }

    def check(self, mib: int) -> dict:
        return self.writers.ask("check", timeout=60 + mib * 0.3)


def longest_silence(report: dict, begin: float) -> tuple[float, float]:
    """(until the connection is answered, until a new one is answered) in ms, of those that were over after `begin`."""
    after = [s for s in report["silences"] if s[0] >= begin]
    return 1000 * max((s[1] for s in after), default=0.0), 1000 * max((s[2] for s in after), default=0.0)


def served_ratio(report: dict, before: float, begin: float, end: float) -> float | None:
    """Requests per second from begin to end, as a share of those from before to begin."""
    def per_second(start, stop):
        return sum(n for at, n in report["served"] if start <= at < stop) / max(0.1, stop - start)

    usual = per_second(before, begin)
    return per_second(begin, end) / usual if usual else None
