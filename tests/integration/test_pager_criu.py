"""The pager against the real CRIU: a small tree is dumped, restored with --lazy-pages, and finds its memory as it was."""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labkit import config

DRILL = Path(config.BUILD) / "bin/pager_drill"
PE_LAZY, PE_PRESENT = 2, 4

# Two processes with threads. Each writes the digest of its memory when it is ready and again when "go" appears; the
# parent has memory that it shares with nobody, changed after the fork.
PROGRAM = """
import hashlib, mmap, os, pathlib, threading, time
size = 48 << 20
m = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[:] = os.urandom(size)
who = "parent" if os.fork() else "child"
m[5 << 20 : 6 << 20] = os.urandom(1 << 20)
m.seek(0)
heap = [os.urandom(1000) for _ in range(20000)]
def digest():
    h = hashlib.sha256(m[:])
    for part in heap: h.update(part)
    return h.hexdigest()
threading.Thread(target=lambda: [time.sleep(0.001) for _ in iter(int, 1)], daemon=True).start()
def tell(name):
    pathlib.Path(name + ".tmp").write_text(digest())
    os.rename(name + ".tmp", name)
tell(who + ".before")
while not os.path.exists("go"): time.sleep(0.01)
tell(who + ".after")
os._exit(0)
"""


def wait_for(path: Path, timeout: float = 30.0) -> str:
    end = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} does not come"
        time.sleep(0.01)
    return path.read_text()


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def records(path: Path):
    """Fields of each record of a pagemap image; all of them are numbers."""
    data, at = path.read_bytes(), 8
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at, end = at + 4, at + 4 + size
        fields = {}
        while at < end:
            key, at = varint(data, at)
            fields[key >> 3], at = varint(data, at)
        yield fields


def lazy_pages(images: Path) -> str:
    lines = []
    for pagemap in images.glob("pagemap-[0-9]*.img"):
        pid = pagemap.stem.removeprefix("pagemap-")
        head, *entries = records(pagemap)
        lines.append(f"{pid} 0 0 - 0")
        offset = 0
        for entry in entries:
            address, pages, flags = entry[1], entry.get(5) or entry[2], entry[4]
            if flags & PE_LAZY:
                lines.append(f"{pid} {address} {pages} {images}/pages-{head[1]}.img {offset}")
            if flags & PE_PRESENT:
                offset += pages * 4096
    return "\n".join(lines) + "\n"


def criu(*words) -> None:
    done = subprocess.run(["criu", *words, "-v2"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"criu {words[0]}: {done.stdout}{done.stderr}"


PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def reaper():
    """Orphans become ours: a pid is free for the restore only when its zombie is gone."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        pytest.fail("a process of the test does not end")
    except ChildProcessError:
        pass  # all have ended
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def kill_all(pids) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_tree_finds_its_memory_again(tmp_path, reaper):
    images, work = tmp_path / "images", tmp_path / "work"
    for directory in (images, work):
        directory.mkdir(mode=0o700)
    with open(os.devnull, "r+") as null:
        program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, stdin=null, stdout=null, stderr=null,
                                   start_new_session=True)
    pids, server = [program.pid], None
    try:
        before = {who: wait_for(tmp_path / f"{who}.before") for who in ("parent", "child")}
        assert before["parent"] != before["child"]
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        pids += [int(pid) for pid in children]
        criu("dump", "-t", str(program.pid), "-D", str(images), "--shell-job")
        program.wait(timeout=10)
        for pid in pids[1:]:
            os.waitpid(pid, 0)
        (tmp_path / "list").write_text(lazy_pages(images))
        server = subprocess.Popen([DRILL, "serve", work, tmp_path / "list"], stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"
        criu("restore", "-D", str(images), "-W", str(work), "--shell-job", "--lazy-pages", "-d")
        (tmp_path / "go").touch()
        after = {who: wait_for(tmp_path / f"{who}.after") for who in ("parent", "child")}
        assert after == before
        numbers = json.loads(server.communicate(timeout=30)[0])
        print(numbers)
        assert server.returncode == 0
        assert numbers["tasks"] == 2
        assert numbers["done_pages"] == numbers["expected_pages"] > 2 * (48 << 20) // 4096
    finally:
        kill_all(pids)
        if server and server.poll() is None:
            server.kill()
            server.wait()
