"""Every way in which memory can travel, and what happens where it cannot."""

import time

import pytest

from demokit import leftovers
from demokit.churn import Churn
from moving import DONE, NOT_CONVERGED, RunningMove, link_cut, move

TRAVELS_AS = {"pre-copy": "pre-copy", "post-copy": "post-copy", "stop-copy": "stop-copy", "auto": "pre-copy"}


@pytest.fixture
def slow(moving_lab):
    """The clouds at 100 Mbit/s."""
    for host in ("aws", "azure"):
        moving_lab.shape(host, rate="100mbit")
    yield moving_lab
    for host in ("aws", "azure"):
        moving_lab.clear_shape(host)


def done(outcome) -> dict:
    assert outcome.code == DONE, outcome.lines[-1]
    return outcome.summary


@pytest.mark.parametrize("mode", TRAVELS_AS)
def test_there_and_back(scene, mode):
    s = scene(mib=48, clients=4)
    aws, azure = s.lab.host("aws"), s.lab.host("azure")
    for source, destination in ((aws, azure), (azure, aws)):
        summary = done(move(source, "redis", destination.name, "--mode", mode))
        assert summary["mode"] == TRAVELS_AS[mode]
        assert (summary["rounds"] > 0) == (summary["mode"] == "pre-copy")
        assert summary["bytes_memory"] > 48 << 20, summary
    s.check_runs_on("aws")


# 30 seconds are longer than a connection lives.
@pytest.mark.parametrize("seconds,clients", [(3, 4), (30, 2)])
def test_the_link_is_cut_while_memory_follows(scene, slow, seconds, clients):
    s = scene(mib=32, clients=clients)
    running = RunningMove(s.home, "redis", "azure", ("--mode", "post-copy"))
    assert running.wait_phase("follow"), running.outcome().lines[-1]
    time.sleep(0.5)
    with link_cut(s.lab.host("azure")):
        time.sleep(seconds)
        assert running.process.poll() is None
    done(running.outcome())
    s.check_runs_on("azure", seconds=30)


def test_a_gap_that_cannot_be_kept_is_not_begun(scene):
    s = scene(mib=8)
    outcome = move(s.home, "redis", "azure", "--max-gap", "1")
    assert outcome.code == NOT_CONVERGED, outcome.lines[-1]
    assert outcome.error["phase"] == "memory" and outcome.error["source_running"]
    assert "--max-gap" in outcome.error["remedy"]
    assert not any(line["phase"] == "dump" for line in outcome.of("phase"))
    s.check_runs_on("aws")


@pytest.mark.parametrize("how", ["none", "lz4", "zstd", "auto"])
def test_compression(scene, slow, how):
    s = scene(mib=4, clients=2)
    s.home.run(["redis-cli", "-h", s.redis.address, "DEBUG", "POPULATE", "16000", "filler", "1000"], timeout=30)
    summary = done(move(s.home, "redis", "azure", "--compress", how))
    if how != "auto":
        assert summary["compression"] == how
    print(f"{how}: as {summary['compression']}, {summary['bytes_memory']} of {summary['resident_bytes']} bytes")
    if how == "none":
        assert summary["bytes_memory"] > 20 << 20
    else:  # 100 Mbit/s is slow enough that compressing is always worth it
        assert summary["bytes_memory"] < 14 << 20
    s.check_runs_on("azure")


@pytest.mark.parametrize("mode,phase", [("pre-copy", "memory"), ("stop-copy", "gap"), ("post-copy", "follow")])
def test_bandwidth_limit(scene, mode, phase):
    s = scene(mib=16, clients=2)
    summary = done(move(s.home, "redis", "azure", "--mode", mode, "--bwlimit", "80mbit", "--compress", "none"))
    ms = summary["gap_ms"] if phase == "gap" else summary["total_parts_ms"][phase]
    rate = summary["bytes_sent"] * 8 / ms / 1000
    print(f"{mode}: {rate:.0f} Mbit/s of 80 in {ms:.0f} ms")
    assert ms >= summary["bytes_memory"] * 8 / 80e3 * 0.85
    s.check_runs_on("azure")


# ---- a program that rewrites its memory faster than the link carries it

@pytest.fixture
def writer(slow):
    before = {h.name: leftovers.collect(h) for h in slow.clouds()}
    subject = Churn(slow, address="10.88.0.41")
    subject.create(slow.host("aws"), mib=8, write_mib=0, writers=1)
    yield subject
    for host in slow.clouds():
        subject.remove(host)
    slow.unroute(subject.address)
    left = [line for h in slow.clouds() for line in leftovers.left_behind(h, before[h.name], ("firewall: ",), patience=10)]
    assert left == []


def not_slowed(subject, host):
    """Nothing holds it back any more: what is written now is as much as before, or nearly."""
    held = [line for line in leftovers.collect(host) if line.startswith(("slowed: ", "frozen: ", "traced: ", "followed memory: "))]
    print(held)
    assert [line for line in held if not line.endswith(" ()")] == []  # a cgroup without anybody in it, on its way out
    begin = subject.counters()["writes"]
    time.sleep(1)
    return subject.counters()["writes"] - begin


def decisions(outcome) -> str:
    return "\n".join(line["decision"] for line in outcome.of("progress") if line.get("decision"))


def test_what_does_not_converge_is_slowed_down_and_then_given_up(writer):
    aws = writer.lab.host("aws")
    before = not_slowed(writer, aws)
    outcome = move(aws, writer.reference, "azure", "--compress", "none")
    print(decisions(outcome))
    assert outcome.code == NOT_CONVERGED, outcome.lines[-1]
    assert outcome.error["source_running"] and "--allow-post-copy" in outcome.error["remedy"]
    for percent in (20, 40, 60, 80):
        assert f"{percent} % less CPU time" in decisions(outcome)
    assert not any(line["phase"] == "dump" for line in outcome.of("phase"))
    after = not_slowed(writer, aws)
    print(f"writes in a second: {before} before, {after} afterwards")
    assert after > before / 2
    writer.wait_progress(aws)


def test_what_does_not_converge_and_must_not_be_slowed_down(writer):
    aws = writer.lab.host("aws")
    outcome = move(aws, writer.reference, "azure", "--compress", "none", "--no-throttle")
    assert outcome.code == NOT_CONVERGED, outcome.lines[-1]
    assert "less CPU time" not in decisions(outcome)
    writer.wait_progress(aws)


def test_what_does_not_converge_follows_when_it_may(writer):
    aws, azure = writer.lab.host("aws"), writer.lab.host("azure")
    outcome = move(aws, writer.reference, "azure", "--compress", "none", "--allow-post-copy")
    summary = done(outcome)
    assert summary["mode"] == "post-copy" and summary["rounds"] > 1 and summary["throttle_percent"] > 0
    assert not_slowed(writer, azure) > 0
    writer.wait_progress(azure)
