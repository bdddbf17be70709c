"""./dev bench: its options, its arithmetic, and clients that see what is wrong. The moves themselves: tests/integration."""

import os
import socket
import subprocess
import sys
import time

import pytest
from conftest import SOURCE

sys.path[0:0] = [str(SOURCE / "bench"), str(SOURCE / "lab")]

from labkit.errors import LabError  # noqa: E402
from move import measure, options, report  # noqa: E402
from move.runner import Bench  # noqa: E402
from move.scene import Cell, Run, Scene  # noqa: E402
from move.workload import longest_silence, served_ratio  # noqa: E402

BENCH = [sys.executable, SOURCE / "bench/move"]


@pytest.mark.parametrize("arguments, complaint", [
    (["--sizes", "0"], "from 1 to"), (["--sizes", "64,x"], "whole numbers"), (["--write-rates", "-5"], "from 0 to"),
    (["--rate", "fast"], "not a rate"), (["--delay", "1"], "not a delay"), (["--runs", "0"], "from 1 to 100"),
    (["--modes", "magic"], "auto, pre-copy"), (["--against", "docker"], "podman, runc-rsync"),
    (["--modes", "none", "--against", "none"], "nothing to measure"), (["--json", "/no/such/dir/r.json"], "cannot be written"), (["--values", "zero"], "random"),
])
def test_wrong_options_are_refused_before_anything_starts(arguments, complaint):
    done = subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert complaint in done.stderr and done.stdout == ""


def test_defaults_and_quick():
    o = options.parse([])
    assert (o.sizes, o.write_rates, o.values, o.runs, o.modes) == ((1024,), (0, 5000), ("random",), 5, options.MODES)
    assert o.against == options.PEERS
    quick = options.parse(["--quick", "--runs", "2", "--values", "both"])
    assert (quick.sizes, quick.write_rates, quick.values, quick.runs, quick.modes) == ((64,), (0, 2000), options.VALUES, 2, ("auto",))


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "fly"], ["bench", "micro", "--all"], ["bench", "micro", "a", "b"]])
def test_dev_bench_wrong_usage(ready_dev, arguments):
    process = ready_dev.run(*arguments)
    assert process.returncode == 2, process.stderr_text
    assert "./dev help" in process.stderr_text


def test_dev_bench_move_help(ready_dev):
    process = ready_dev.run("bench", "move", "--help")
    assert process.returncode == 0 and "--write-rates" in process.stdout_text


def test_silences_count_from_the_move_on():
    found = {"silences": [(9.0, 5.0, 5.0, False), (12.0, 0.3, 0.2, False), (13.0, 0.1, 0.1, False)]}
    assert longest_silence(found, begin=10.0) == pytest.approx((300, 200))
    assert longest_silence({"silences": []}, begin=10.0) == (0.0, 0.0)


def test_throughput_is_compared_with_what_it_was():
    served = {"served": [[t / 10, 100] for t in range(0, 20)] + [[2.5, 100], [2.6, 100], [3.0, 100], [5.0, 100]]}
    assert served_ratio(served, before=0.0, begin=2.0, end=4.0) == pytest.approx(0.15)
    assert served_ratio({"served": []}, 0.0, 2.0, 4.0) is None


def test_memory_files_count_once():
    before = measure.memory_file_bytes([os.getpid()])
    fd = os.memfd_create("pages")
    again = os.dup(fd)
    try:
        os.ftruncate(fd, 64 << 20)  # what was never written takes no memory
        os.pwrite(fd, b"x" * (3 << 20), 8 << 20)
        assert measure.memory_file_bytes([os.getpid(), os.getpid()]) - before == 3 << 20
    finally:
        os.close(fd)
        os.close(again)


CELL = Cell(64, 2000, "random")
LINK = {"link": "1gbit", "delay": "0ms", "link_bits_per_second": 940_000_000}


def row(system, *runs, mode=""):
    return report.as_json(report.Row(system, mode, CELL, runs=list(runs)), LINK)


def good(gap, **more):
    return Run(**{"gap_ms": gap, "reachable_ms": gap, "total_ms": 2 * gap, "sent_bytes": 300, "container_bytes": 100} | more)


def test_a_row_is_its_good_runs_and_says_what_failed():
    r = row("podman", good(10), good(30, lost_connections=2), Run(error="no luck"), good(20, wrong_bytes=7, daemon_bytes=5))
    assert (r["runs"], r["gap_ms_median"], r["gap_ms_min"], r["gap_ms_max"]) == (3, 20, 10, 30)
    assert (r["wrong_bytes"], r["lost_connections"], r["connections_survived"]) == (7, 2, False)
    assert (r["bytes_over_rss"], r["source_daemon_rss_max"], r["errors"]) == (3.0, 5, ["no luck"])


def test_what_only_ours_can_tell():
    r = row("transship", good(10, max_gap_kept=True, link_share=0.9), good(400, max_gap_kept=False, link_share=0.8), good(20, max_gap_kept=True, link_share=0.7))
    assert (r["max_gap_kept_ratio"], r["link_share"]) == (0.667, 0.8)
    assert "67%" in report.table([r]) and "0.80" in report.table([r])
    other = row("podman", good(10))
    assert (other["max_gap_kept_ratio"], other["link_share"]) == (None, None)


def test_what_never_works_is_given_up():
    def given_up(*runs):
        return report.Row("criu-lazy", "", CELL, runs=list(runs)).given_up

    bad = Run(error="no")
    assert not given_up() and not given_up(bad) and not given_up(good(1), bad, bad) and given_up(bad, bad)


@pytest.mark.parametrize("error, words", [(LabError("podman said no"), "podman said no"), (KeyError("x"), "KeyError")])
def test_an_error_in_a_run_is_its_rows_and_everything_is_cleaned_up(monkeypatch, error, words):
    def fail(*_):
        raise error

    scene, done = Scene("never-up", "1gbit", "1ms"), []
    monkeypatch.setattr(scene, "_run", fail)
    monkeypatch.setattr(scene, "clean_up", done.append)
    assert words in scene.run("system", CELL, 1e9).error
    assert done == ["system"]


def test_a_lab_that_cannot_be_cleaned_up_is_replaced(monkeypatch):
    class Stubborn:
        def clean_up(self):
            raise LabError("it hangs")

    scene, done = Scene("never-up", "1gbit", "1ms"), []
    for name in ("remove", "check_gone"):
        monkeypatch.setattr(scene, name, lambda _, name=name: done.append(name))
    for name in ("down", "up"):
        monkeypatch.setattr(scene, name, lambda name=name: done.append(name))
    scene.clean_up(Stubborn())
    assert done == ["remove", "down", "up"]
    assert scene.delay == "500us"


def test_the_table_has_ratios_to_ours_and_every_failure():
    rows = [row("transship", Run(error="fell over"), mode="auto"), row("transship", good(50, did="stop-copy"), mode="stop-copy"),
            row("transship", good(60, did="post-copy"), good(60, did="pre-copy"), mode="auto"),
            row("podman", good(125, lost_connections=1), mode="none"), row("criu-lazy", Run(error="Error (criu/x.c:1): why"))]
    text = report.table(rows)
    assert "64 MiB of random values, 2000 SET/s" in text and "940 Mbit/s" in text
    podman = next(line for line in text.splitlines() if line.startswith("  podman none "))
    assert podman.split()[2:9] == ["125", "125..125", "-", "125", "2.50", "-", "0.25"]
    assert "criu-lazy: failed: Error (criu/x.c:1): why" in text and "transship auto: failed: fell over" in text
    assert "podman none: connections did not survive" in text
    assert "transship auto: was done as post-copy, pre-copy" in text and "was done as stop-copy" not in text


def test_only_the_best_of_a_contest_goes_on():
    class Variant:
        def __init__(self, mode, contest):
            self.mode, self.contest = mode, contest

    ours, slow, fast, broken = Variant("auto", ""), Variant("zstd", "p"), Variant("none", "p"), Variant("xz", "p")
    rows = {ours: report.Row("transship", "auto", CELL, runs=[good(500)]), slow: report.Row("podman", "zstd", CELL, runs=[good(90)]),
            fast: report.Row("podman", "none", CELL, runs=[good(60, gap_ms=200)]), broken: report.Row("podman", "xz", CELL, runs=[Run(error="x")])}
    assert Bench.best_of_contests([ours, slow, fast, broken], rows) == [ours, fast]
    assert "zstd, which took 90 ms" in rows[fast].note and "xz, which took no time, it failed" in rows[fast].note


@pytest.fixture
def redis(tmp_path, monkeypatch):
    """A real one on loopback, with the writers' program beside it."""
    monkeypatch.syspath_prepend(str(SOURCE / "bench/move/guest"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path,
                                "--enable-debug-command", "yes"],
                               stdout=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert time.monotonic() < end, "redis-server did not start"
        time.sleep(0.05)
    yield "127.0.0.1", port
    process.kill()
    process.wait(10)


@pytest.mark.parametrize("kind", ["random", "compressible"])
def test_writers_see_every_wrong_byte(redis, kind):
    import writers
    from connection import Connection
    from values import set_request

    program = writers.Program(redis)
    keys = program.fill({"values": kind, "mib": 2})["keys"]
    program.start({"rate": 2000, "connections": 4})
    time.sleep(0.5)
    report = program.end({})
    assert report["errors"] == [] and report["lost"] == 0 and 500 < sum(n for _, n in report["written"]) < 1500
    assert program.check({}) == {"wrong_bytes": 0, "wrong_keys": 0, "keys": keys}
    written = next(k for k, version in enumerate(program.store.versions) if version)
    never = next(k for k in range(keys) if k % 5)
    spoil = Connection(redis)
    right = bytearray(program.store.values.value(never, 0))
    right[-1] ^= 1
    spoil.send(set_request(never, bytes(right)) + set_request(written, program.store.values.value(written, 0)) + b"DEL k:00000006\r\n")
    for _ in range(3):
        spoil.line(time.monotonic() + 5)
    spoil.close()
    found = program.check({})
    assert found["wrong_keys"] == 3
    assert found["wrong_bytes"] > 1000 + 1


def test_a_write_without_an_answer_may_have_happened_or_not(redis):
    import writers

    program = writers.Program(redis)
    program.fill({"values": "random", "mib": 1})
    program.store.uncertain[5] = [1]
    assert program.check({})["wrong_keys"] == 0          # it has not happened
    program.store.versions[5], program.store.uncertain[5] = 1, [0]
    assert program.check({})["wrong_keys"] == 0          # it has
    program.store.uncertain.clear()
    assert program.check({})["wrong_keys"] == 1          # an acknowledged one must have


def test_the_probe_records_silence_and_lost_connections(redis):
    import probe
    import writers
    from connection import Connection

    writers.Program(redis).fill({"values": "random", "mib": 1})
    program = probe.Program(redis)
    program.start({"keys": 1000})
    time.sleep(0.3)
    control = Connection(redis)
    begin = time.monotonic()
    control.send(b"CLIENT PAUSE 800 ALL\r\n")
    control.line(time.monotonic() + 5)
    time.sleep(1.0)
    control.send(b"CLIENT KILL TYPE normal SKIPME yes\r\n")
    control.line(time.monotonic() + 5)
    time.sleep(0.3)
    found = program.end({})
    control.close()
    silence, reachable = longest_silence(found, begin)
    assert 750 < silence < 1000 and reachable <= silence
    assert found["lost"] == 1 and found["wrong"] == 0 and found["unfinished"] == []
    assert any(reconnected for *_, reconnected in found["silences"])
