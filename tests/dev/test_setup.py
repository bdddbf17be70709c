"""Making the root: whole or not at all, once however many ask, nothing left when it fails.

Making the real one takes minutes and is what continuous integration does; here mmdebstrap and the mirror are ones whose
failures can be had at will.
"""

import http.server
import os
import signal
import threading
import time

import pytest

MMDEBSTRAP = """#!/bin/bash
echo started >>"$CALLS"
for last; do :; done
eval "$BEHAVIOUR"
target=${*: -2:1}
mkdir -p "$target/etc"
echo whole >"$target/etc/marker"
"""


class Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"Suite: stable\nOrigin: Debian\n" if self.path.startswith("/debian") else b"Origin: Somebody\n"
        self.send_response(200 if self.path.endswith("/InRelease") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def mirror():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/debian"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def setup_dev(dev, mirror, tmp_path):
    """./dev whose mmdebstrap does `BEHAVIOUR` and then makes a tree."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mmdebstrap").write_text(MMDEBSTRAP)
    (tools / "mmdebstrap").chmod(0o755)
    dev.calls = tmp_path / "calls"
    dev.environment |= {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CALLS": str(dev.calls),
        "BEHAVIOUR": ":",
        "TRANSSHIP_MIRROR": mirror,
        "TRANSSHIP_MIN_FREE_GB": "0",
    }
    return dev


def roots(dev):
    return sorted(path.name for path in dev.cache.iterdir() if path.name.startswith(("root-", "new-")))


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 30 s"
        time.sleep(0.02)


def test_makes_it_once_and_then_does_nothing(setup_dev):
    for _ in range(2):
        process = setup_dev.run("setup")
        assert process.returncode == 0, process.stderr_text
    assert setup_dev.calls.read_text() == "started\n"
    (root,) = roots(setup_dev)
    assert (setup_dev.cache / root / "etc/marker").read_text() == "whole\n"


def test_two_at_once_make_one(setup_dev):
    processes = [setup_dev.start("setup", BEHAVIOUR="sleep 1") for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert setup_dev.calls.read_text() == "started\n"
    assert len(roots(setup_dev)) == 1


def test_a_failure_quotes_the_log_and_leaves_no_root(setup_dev):
    process = setup_dev.run("setup", BEHAVIOUR='mkdir -p "${*: -2:1}/half"; echo "E: no such package: g++" >&2; exit 25')
    assert process.returncode == 1
    assert "E: no such package: g++" in process.stderr_text
    assert str(setup_dev.cache / "setup.log") in process.stderr_text
    assert roots(setup_dev) == []
    assert setup_dev.run("setup").returncode == 0, "the next call starts from the beginning"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_and_leaves_no_root(setup_dev, tmp_path, number):
    pid_file = tmp_path / "pid"
    half = f'mkdir -p "${{*: -2:1}}/half"; echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; sleep 1000'
    process = setup_dev.start("setup", BEHAVIOUR=half)
    wait_for(pid_file.exists)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number, errors
    assert roots(setup_dev) == []
    wait_for(lambda: not os.path.exists(f"/proc/{pid_file.read_text().strip()}"))


def test_what_a_killed_call_left_is_removed_by_the_next(setup_dev):
    (setup_dev.cache / "new-abcdef" / "root").mkdir(parents=True)
    assert setup_dev.run("setup").returncode == 0
    (root,) = roots(setup_dev)
    assert root.startswith("root-")


def test_a_repository_of_somebody_else_is_not_a_mirror(setup_dev, mirror):
    process = setup_dev.run("setup", TRANSSHIP_MIRROR=mirror.replace("/debian", "/other"))
    assert process.returncode == 4
    assert "not a mirror of Debian" in process.stderr_text
    assert not setup_dev.cache.exists()
