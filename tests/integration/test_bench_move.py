"""./dev bench move, the smallest there is: the result is complete, every byte is right and nothing stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import deploy, state

BENCH = Path(__file__).resolve().parents[2] / "bench/move"
LAB = f"test-{os.getpid()}-bench"


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
