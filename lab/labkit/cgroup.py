"""Cgroups of a lab: one for the lab, one below it for each host. They are how `down` finds every process."""

import os
import time
from pathlib import Path

from . import config
from .errors import LabError

PREFIX = "transship-lab."
# The init and everything `exec` starts live in this leaf, so that controllers can be enabled beside it (a cgroup that
# holds processes cannot hand controllers to its children).
LEAF = "init"
WANTED = ("cpuset", "cpu", "io", "memory", "pids")


def cgroup2_root() -> Path:
    """The mount point of the cgroup2 tree; mounts one (in this mount namespace) if there is none."""
    with open("/proc/self/mountinfo") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            fields = left.split()
            if right.split()[0] == "cgroup2" and fields[3] == "/":
                return Path(fields[4])
    target = Path("/run/transship-lab-cgroup2")
    target.mkdir(parents=True, exist_ok=True)
    from .run import run
    try:
        run(["mount", "-t", "cgroup2", "cgroup2", target])
    except LabError as e:
        raise LabError(
            f"no cgroup2 file system is mounted, and mounting one failed: {e}",
            hint="the lab needs a kernel with cgroup v2 and to be root",
        ) from e
    return target


def prefix() -> str:
    """Names the lab directory too: two checkouts with caches of their own may each have a lab called the same."""
    config.LAB_DIR.mkdir(parents=True, exist_ok=True)
    status = config.LAB_DIR.stat()
    return f"{PREFIX}{status.st_dev:x}-{status.st_ino:x}."


def lab_cgroup(lab: str) -> Path:
    return cgroup2_root() / (prefix() + lab)


def labs_with_cgroups() -> list[str]:
    return sorted(p.name.removeprefix(prefix()) for p in cgroup2_root().glob(prefix() + "*") if p.is_dir())


def create_host(lab: str, host: str) -> Path:
    """Makes the cgroup of a host, with the controllers the machine can give."""
    top = lab_cgroup(lab)
    own = top / host
    try:
        for path in (top, own, own / LEAF):
            path.mkdir(exist_ok=True)
    except OSError as e:
        raise LabError(f"cannot make the cgroup {own}: {e.strerror}", hint="run as root, on a writable cgroup2 tree") from e
    for path in (top.parent, top, own):
        enable_controllers(path)
    return own


def enable_controllers(path: Path) -> None:
    """Hands on each useful controller; on hybrid machines there is none, and that is fine."""
    available = (path / "cgroup.controllers").read_text().split()
    for name in WANTED:
        if name in available:
            try:
                (path / "cgroup.subtree_control").write_text(f"+{name}")
            except OSError:
                pass  # in use by a v1 tree, or the parent holds processes: the lab works without


def controllers(path: Path) -> list[str]:
    try:
        return (path / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def processes(path: Path) -> list[int]:
    """Every process at or below a cgroup."""
    pids: list[int] = []
    for procs in path.rglob("cgroup.procs"):
        try:
            pids += [int(line) for line in procs.read_text().split()]
        except OSError:
            pass  # the cgroup went away, or is threaded and its parent lists them
    return pids


def kill(path: Path, timeout: float = 8.0) -> list[int]:
    """Kills everything at or below a cgroup, frozen or not, and waits until it is dead. Returns the pids there were."""
    if not path.is_dir():
        return []
    pids = processes(path)
    (path / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + timeout
    while "populated 1" in (path / "cgroup.events").read_text():
        if time.monotonic() > deadline:
            left = ", ".join(describe(p) for p in processes(path)) or "none that can be seen"
            raise LabError(
                f"processes in {path} are still there {timeout:g} s after SIGKILL: {left}",
                hint="they are probably stuck in the kernel; look at /proc/PID/stack, then run `down` again",
            )
        time.sleep(0.005)
    return pids


def wait_reaped(pids: list[int], timeout: float = 2.0) -> None:
    """The inits of hosts are children of the machine's init: gives that one the time to reap them. They are dead anyway."""
    deadline = time.monotonic() + timeout
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)


def remove(path: Path, timeout: float = 3.0) -> None:
    """Removes a cgroup and those below it. A dying process can keep one busy for a moment."""
    if not path.is_dir():
        return
    deadline = time.monotonic() + timeout
    while True:
        error = _remove_once(path)
        if error is None:
            return
        if time.monotonic() > deadline:
            raise LabError(f"cannot remove the cgroup {path}: {error.strerror}", hint="run `down` again")
        time.sleep(0.01)


def _remove_once(path: Path) -> OSError | None:
    try:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    except FileNotFoundError:
        return None if not path.exists() else _remove_once(path)
    except OSError as e:
        return e
    return None


def describe(pid: int) -> str:
    try:
        return f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return str(pid)
