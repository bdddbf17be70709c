from labkit.errors import LabError

from ..app import App
from ..client import ON_HOST, PROGRAMS
from ..verdict import Progress, Report

RESULT = "/data/result"


class OpenMp(App):
    name = "openmp"
    what = "a job that only computes, C++ with OpenMP"
    packages = ("libgomp1",)
    promises = ("rounds", "results")
    checks = "its result against one found by another algorithm; rounds never go back"
    place = None  # where it was seen last

    def ready(self, host):
        self.place = host
        return bool(self.read(host))

    def read(self, host) -> list[int]:
        return [int(word) for word in self.inside(host, "cat", RESULT, check=False).stdout.split()]

    def start_load(self, host):
        self.clients = [Sums(self)]


class Sums:
    """Looks at what it writes, wherever it is, and computes it anew."""

    name = "sieve"

    def __init__(self, app: OpenMp):
        self.app, self.rounds, self.last, self.wrong = app, 0, [0, 0, 0], []

    def look(self) -> None:
        found = next((f for f in map(self.app.read, self.app.lab.clouds()) if f), None)
        if found is None:
            raise LabError("the job is gone: " + "; ".join(f"{h.name}: {self.app.said(h)}" for h in self.app.lab.clouds()))
        if found[0] < self.last[0]:
            self.wrong.append(f"it was at {self.last[0]}, and is at {found[0]} now")
        if found[0] > self.last[0]:
            self.rounds += 1
        self.last = found

    def progress(self):
        self.look()
        return Progress({"rounds": self.rounds}, len(self.wrong))

    def stop(self) -> Report:
        self.look()
        client = self.app.client_host
        client.put(f"{ON_HOST}/sieve.py", (PROGRAMS / "sieve.py").read_bytes())
        numbers, *have = self.last
        want = [int(w) for w in client.run(["python3", f"{ON_HOST}/sieve.py", numbers], timeout=300).stdout.split()]
        if have != want:
            self.wrong.append(f"below {numbers}: {have} instead of {want}")
        return Report(self.name, {"rounds": self.rounds, "results": int(have == want)}, self.wrong)

    def close(self):
        pass
