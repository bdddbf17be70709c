"""Fixtures on the lab. Everything here needs root and real namespaces, so tests run inside the Debian root (./dev test)."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit.api import Lab  # noqa: E402


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the lab needs root"))


@pytest.fixture(scope="session")
def lab():
    """A lab of this test run's own. Tests leave its hosts as they found them."""
    lab = Lab(f"test-{os.getpid()}")
    lab.up()
    yield lab
    lab.down()
