"""What the tests of ./dev share. They run inside the Debian 13 root, where ./dev works as it does on any Debian 13."""

import os
import pathlib
import signal
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DEV = SOURCE / "dev"


class Dev:
    """./dev with a cache of its own, empty at first."""

    def __init__(self, cache):
        self.program = DEV
        self.cache = cache
        inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.environment = inherited | {"TRANSSHIP_CACHE": str(cache)}

    def start(self, *arguments, before=(), **environment):
        """`before`: a command that runs ./dev, such as setpriv with its options."""
        return subprocess.Popen(
            [*before, str(self.program), *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background ignores Ctrl-C, and a shell cannot undo what it inherits.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            start_new_session=True,
        )

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        try:
            process.stdout_text, process.stderr_text = process.communicate(timeout=60)
        finally:
            process.kill()
        return process


@pytest.fixture
def dev(tmp_path):
    return Dev(tmp_path / "cache")


@pytest.fixture
def ready_dev(dev):
    """A cache with a root in it: the pristine one that this very test runs above."""
    root_id = os.environ.get("TRANSSHIP_ROOT_ID")
    if root_id is None:
        pytest.skip("not inside the root that ./dev makes: run it by ./dev test")
    dev.cache.mkdir()
    (dev.cache / f"root-{root_id}").symlink_to("/var/lib/transship-root")
    return dev


@pytest.fixture
def copied_dev(ready_dev, tmp_path):
    """ready_dev in a copy of the checkout: for verbs that change it."""
    ready_dev.checkout = tmp_path / "checkout"
    (ready_dev.checkout / "build/release").mkdir(parents=True)
    subprocess.run(["cp", "-a", DEV, SOURCE / "tools", ready_dev.checkout], check=True, timeout=60)
    ready_dev.program = ready_dev.checkout / "dev"
    return ready_dev
