"""./dev bench move and postgres, the smallest there are: the result is complete, every byte is right and nothing stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit import cgroup, deploy, state

BENCH = Path(__file__).resolve().parents[2] / "bench/move"
LAB = f"test-{os.getpid()}-bench"


def test_ended_in_the_middle_it_leaves_nothing_behind():
    """Within the system that changes most: a setting of the whole machine, daemons on both hosts."""
    pipes = Path("/proc/sys/fs/pipe-max-size")
    before = pipes.read_text()
    if int(before) >= 4 << 20:
        pytest.skip("fs.pipe-max-size is 4 MiB or more on this machine, so criu-lazy changes nothing")
    process = subprocess.Popen([sys.executable, BENCH, "--sizes", "64", "--write-rates", "500", "--runs", "1", "--modes", "none",
                                "--against", "criu-lazy", "--lab", LAB, "--cold"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 90
        while pipes.read_text() == before:  # changed just before the move begins
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 143
    finally:
        process.kill()
        process.wait(10)
    assert pipes.read_text() == before
    assert LAB not in state.known_labs() and LAB not in cgroup.labs_with_cgroups()


def test_a_tiny_bench(tmp_path):
    if not deploy.programs_exist():
        pytest.fail(f"{deploy.DEFAULT_BUILD} has no programs: ./dev build first")
    result = tmp_path / "result.json"
    done = subprocess.run([sys.executable, BENCH, "--sizes", "16", "--write-rates", "500", "--runs", "1", "--modes", "stop-copy",
                           "--against", "none", "--lab", LAB, "--cold", "--json", result], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["machine"]["cpus"] >= 1 and found["machine"]["kernel"]
    (row,) = found["rows"]
    assert (row["system"], row["mode"], row["size_mib"], row["write_rate"], row["runs"]) == ("transship", "stop-copy", 16, 500, 1)
    assert (row["wrong_bytes"], row["lost_connections"], row["errors"]) == (0, 0, [])
    assert 0 < row["gap_ms_median"] <= row["total_ms_median"]
    assert row["bytes_median"] > 16 << 20                    # all of the random values went over the link
    assert row["container_bytes_median"] > 16 << 20
    assert 0 < row["throughput_during_ratio"] <= 1.5
    assert row["link_bits_per_second"] > 100_000_000
    assert "transship stop-copy" in done.stdout
    assert LAB not in state.known_labs()


def test_a_tiny_postgres_bench(tmp_path):
    result = tmp_path / "result.json"
    done = subprocess.run([sys.executable, BENCH.parent / "postgres", "--buffers", "16", "--runs", "1", "--against", "none", "--lab", LAB,
                           "--cold", "--json", result], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(result.read_text())["rows"]
    assert (row["system"], row["runs"], row["wrong"], row["errors"]) == ("transship", 1, 0, [])
    assert 0 < row["gap_ms_median"] <= row["total_ms_median"]
    assert {"freeze", "dump", "restore", "release"} <= row["parts_ms_median"].keys()
    assert "PostgreSQL with 16 MiB" in done.stdout
    assert LAB not in state.known_labs()
