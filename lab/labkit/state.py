"""What is written down about a lab: one JSON file, one lock file, one directory."""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

from . import config
from .errors import LabError


def lab_dir(lab: str) -> Path:
    return config.LAB_DIR / lab


def state_file(lab: str) -> Path:
    return lab_dir(lab) / "state.json"


def load(lab: str) -> dict | None:
    try:
        return json.loads(state_file(lab).read_text())
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise LabError(f"{state_file(lab)} is damaged: {e}", hint="run `down`, it does not need the file") from e


def save(lab: str, state: dict) -> None:
    target = state_file(lab)
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps(state, indent=1) + "\n")
    os.replace(temporary, target)


def known_labs() -> list[str]:
    """Labs that have a directory, up or not."""
    if not config.LAB_DIR.is_dir():
        return []
    return sorted(p.name for p in config.LAB_DIR.iterdir() if p.is_dir() and not p.name.startswith("."))


@contextlib.contextmanager
def locked(lab: str, timeout: float = 60.0):
    """Only one `up`, `down`, `shape` or `deploy` of a lab at a time."""
    config.LAB_DIR.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    while (lock := try_lock(lock_file(lab))) is None:
        if time.monotonic() > deadline:
            raise LabError(f"another command has been changing the lab {lab!r} for {timeout:g} s",
                           hint="wait for it to end, then try again")
        time.sleep(0.02)
    with lock:
        yield


def lock_file(lab: str) -> Path:
    return config.LAB_DIR / f".{lab}.lock"


def try_lock(path: Path):
    """The locked file, or None if somebody else has it or has just removed it."""
    lock = open(path, "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None


def remove_files(lab: str) -> None:
    """Removes everything a lab keeps on disk."""
    import shutil  # here, because `exec` does not need it and it is slow to import

    directory = lab_dir(lab)
    failures: list[str] = []
    shutil.rmtree(directory, onexc=lambda _f, path, e: failures.append(f"{path}: {e}"))
    if directory.exists():
        raise LabError(f"cannot remove {directory}: {failures[0] if failures else 'unknown reason'}",
                       hint="look whether something is mounted below it, then run `down` again")
    lock_file(lab).unlink(missing_ok=True)


def start_time(pid: int) -> int:
    """When a process began, in clock ticks: together with the pid it names a process for good. 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def alive(host: dict) -> bool:
    return start_time(host["pid"]) == host["start_time"]
