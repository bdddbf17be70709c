"""One host: its files, its start."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

from . import cgroup, config, state
from .config import HostSpec
from .errors import LabError
from .network import host_file

BOOT = Path(__file__).with_name("boot.py")
READY_TIMEOUT = 15.0


def prepare_files(lab: str, spec: HostSpec) -> Path:
    """Makes the directories of a host and what differs from the common root. Returns the host's directory."""
    base = state.lab_dir(lab) / "hosts" / spec.name
    for part in ("upper", "work", "root", "containers"):
        (base / part).mkdir(parents=True)
    upper = base / "upper"
    write(upper / "etc/hostname", spec.name + "\n")
    write(upper / "etc/hosts", host_file())
    write(upper / "etc/machine-id", uuid.uuid4().hex + "\n")
    write(upper / "etc/resolv.conf", "")
    copy_guest(upper, "init.py", "usr/lib/transship-lab/init.py")
    return base


def write(path: Path, text: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)


def copy_guest(upper: Path, name: str, target: str, mode: int = 0o644) -> None:
    write(upper / target, (config.GUEST / name).read_bytes(), mode)


def start(lab: str, spec: HostSpec, binds: list[tuple[str, str, bool]]) -> dict:
    """Starts the host's namespaces and init; `binds` are (source here, target there, read only). Returns its record."""
    base = state.lab_dir(lab) / "hosts" / spec.name
    group = cgroup.create_host(lab, spec.name)
    boot_spec = {
        "name": spec.name, "cgroup": str(group), "leaf": cgroup.LEAF, "lower": str(config.ROOT),
        "upper": str(base / "upper"), "work": str(base / "work"), "root": str(base / "root"),
        "binds": [(str(base / "containers"), "/var/lib/containers", False), *binds],
    }
    spec_file = base / "boot.json"
    spec_file.write_text(json.dumps(boot_spec))
    pid = boot(spec.name, spec_file)
    return {
        "name": spec.name, "role": spec.role, "pid": pid, "start_time": state.start_time(pid), "cgroup": str(group),
        "address": spec.address if spec.subnet else "", "address6": spec.address6 if spec.subnet else "",
    }


def boot(name: str, spec_file: Path) -> int:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as ready:
        booter = subprocess.Popen(
            [sys.executable, "-I", "-S", str(BOOT), str(spec_file), str(write_end)], pass_fds=(write_end,),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, cwd="/",
        )
        os.close(write_end)
        try:
            return wait_ready(name, booter, ready)
        finally:
            if booter.poll() is None:
                booter.kill()
            booter.wait()
            booter.stdout.close()
            booter.stderr.close()


def wait_ready(name: str, booter: subprocess.Popen, ready) -> int:
    deadline = time.monotonic() + READY_TIMEOUT
    data = b""
    while b"\n" not in data:
        if not select.select([ready], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise LabError(f"host {name} did not come up in {READY_TIMEOUT:g} s")
        part = os.read(ready.fileno(), 4096)
        if not part:
            _, errors = booter.communicate(timeout=5)
            raise LabError(f"host {name} ended while it was starting: {data.decode()} {errors.decode(errors='replace')[-2000:]}")
        data += part
    if data != b"ready\n":
        raise LabError(f"host {name} could not be started: {data.decode().strip()}")
    return int(booter.stdout.readline())


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free
