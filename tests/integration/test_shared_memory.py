"""Shared memory travels before the freeze, like all other memory, and arrives as it was."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from demokit import leftovers
from demokit.load import longest_silence_ms
from demokit.postgres import PodmanPostgres, PostgresLoad
from moving import DONE, move

ADDRESS = "10.88.0.40"
MIB = 1 << 20


@pytest.fixture
def shaped(moving_lab):
    for host in ("aws", "azure"):
        moving_lab.shape(host, rate="1gbit")
    yield moving_lab
    for host in ("aws", "azure"):
        moving_lab.clear_shape(host)


def nothing_left(lab, before, name: str, home="aws", seconds=20.0) -> None:
    """But the container itself. The hold on packets lives on for some seconds: clients may still send to the old host."""
    allowed = {home: (f"container: {name} running", "firewall: ", "gate: ")}
    end = time.monotonic() + seconds
    while left := [line for h in lab.clouds() for line in leftovers.left_behind(h, before[h.name], allowed.get(h.name, ()))]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


class SharingProgram:
    """tests/integration/shared_memory.c in a container of the lab's Redis image."""

    name = "shared-memory"

    def __init__(self, lab, directory: Path, sizes, pages_per_second: int):
        self.lab = lab
        self.before = {h.name: leftovers.collect(h) for h in lab.clouds()}
        program = directory / "shared_memory"
        source = Path(__file__).with_name("shared_memory.c")
        subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True, timeout=60)
        host = lab.host("aws")
        host.put("/tmp/shared_memory", program.read_bytes(), 0o755)
        command = ["/shared_memory", *map(str, sizes), str(pages_per_second)]
        host.run(["podman", "create", "--name", self.name, "--ip", ADDRESS, lab.image("redis"), *command], timeout=60)
        host.run(["podman", "cp", "/tmp/shared_memory", f"{self.name}:/shared_memory"])
        host.run(["podman", "start", self.name])
        self.wait_fine("aws")

    def lines(self, host: str) -> list[str]:
        return self.lab.host(host).run(["podman", "logs", self.name]).stdout.splitlines()

    def wait_fine(self, host: str, rounds=2, seconds=90.0) -> None:
        """Every process has looked at everything so often; nobody complains."""
        begin, end = self.lines(host), time.monotonic() + seconds
        while True:
            lines = self.lines(host)
            assert not [line for line in lines if "BAD" in line], lines[-5:]
            if all(lines.count(f"{n} fine") >= begin.count(f"{n} fine") + rounds for n in range(3)):
                return
            assert time.monotonic() < end, lines[-5:]
            time.sleep(0.2)

    def longest_silence(self, host: str) -> float:
        return max((float(line.split()[2]) for line in self.lines(host) if "silent" in line), default=0.0)

    def close(self):
        for host in self.lab.clouds():
            host.run(["podman", "rm", "-f", "-t", "0", "-i", self.name], check=False, timeout=30)
            host.run("rm -f /tmp/shared_memory")


@pytest.fixture
def sharing(shaped, tmp_path):
    programs = []

    def start(sizes, pages_per_second):
        programs.append(SharingProgram(shaped, tmp_path, sizes, pages_per_second))
        return programs[-1]

    yield start
    for p in programs:
        p.close()


def told(outcome) -> str:
    s = outcome.summary
    return f"{s['mode']} gap {s['gap_ms']} ms, last round {s["bytes_last_round"] / MIB:.1f} MiB, {s["transfer_ms_at_link_rate"]} ms on the wire while frozen, parts {json.dumps(s['gap_parts_ms'])}"


def objects_inherited(destination) -> int:
    """How many shared objects CRIU took over as they were, in the last move."""
    log = destination.get("/var/log/transship/transshipd.log").decode()
    last = [line for line in log.splitlines() if "inherited=" in line][-1]
    return int(last.split("inherited=")[1].split()[0])


@pytest.mark.parametrize("mode", ["pre-copy", "stop-copy"])
def test_shared_memory_of_all_kinds(sharing, mode):
    """64 MiB anonymous, 32 MiB memfd, 32 MiB System V, at 1 Gbit/s: in CRIU's images that would be 1.1 s."""
    p = sharing((64, 32, 32), pages_per_second=500)
    for source, destination in (("aws", "azure"), ("azure", "aws")):
        outcome = move(p.lab.host(source), p.name, destination, "--mode", mode)
        assert outcome.code == DONE, outcome.lines[-1]["message"]
        p.wait_fine(destination)
        print(f"{told(outcome)}, longest silence {p.longest_silence(destination):.0f} ms")
        assert outcome.summary["mode"] == mode
        if mode != "stop-copy":
            assert objects_inherited(p.lab.host(destination)) == 1  # of three: see memory.md
            assert outcome.summary["transfer_ms_at_link_rate"] < 200
    nothing_left(p.lab, p.before, p.name)


@pytest.fixture
def postgres(shaped):
    """With 128 MiB of shared buffers, full, and a client in the middle of its transactions."""
    shaped.image("postgres")
    server, load = PodmanPostgres(shaped), None
    server.before = {h.name: leftovers.collect(h) for h in shaped.clouds()}
    try:
        server.create(shaped.host("aws"))
        server.load = load = PostgresLoad(shaped, server.address)
        yield server
    finally:
        if load:
            load.close()
        for host in shaped.clouds():
            server.remove(host)
        shaped.unroute(server.address)


def test_a_postgresql_in_the_middle_of_transactions(postgres):
    silences = []
    for source, destination in (("aws", "azure"), ("azure", "aws")):
        time.sleep(1)
        begin = time.monotonic()
        outcome = move(postgres.lab.host(source), postgres.name, destination, "--mode", "pre-copy")
        assert outcome.code == DONE, outcome.lines[-1]["message"]
        print(told(outcome))
        time.sleep(1)
        silences.append((begin, time.monotonic()))
        assert outcome.summary["transfer_ms_at_link_rate"] < 500
    report = postgres.load.stop()
    for begin, end in silences:
        print(f"longest silence for the client {longest_silence_ms(report, begin, end):.0f} ms")
    print(f"{report['transactions']} transactions in one connection")
    assert (report["error"], report["wrong_count"], report["wrong"]) == ("", 0, [])
    assert report["transactions"] > 100
    nothing_left(postgres.lab, postgres.before, postgres.name)
