"""`up` and `down`."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import deploy as deploying
from . import cgroup, config, images, network, services, shape, state
from .config import HOSTS, ROUTER
from .errors import LabError
from . import host as host_module

SMALLEST_FREE = 2 << 30


def check_machine() -> None:
    """Everything that would make `up` fail halfway, said before anything is changed."""
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces and mounts, so it must run as root", hint="use sudo, or ./dev lab as root")
    if not (config.ROOT / "usr/bin/python3").exists():
        raise LabError(f"{config.ROOT} is not a Debian root with Python in it", hint="run ./dev setup, or set TRANSSHIP_ROOT")
    config.LAB_DIR.mkdir(parents=True, exist_ok=True)
    free = host_module.free_bytes(config.LAB_DIR)
    if free < SMALLEST_FREE:
        raise LabError(f"{config.LAB_DIR} has only {free >> 20} MiB free, the lab wants {SMALLEST_FREE >> 20}",
                       hint="free some space, or set TRANSSHIP_LAB_DIR to a bigger disk (ext4 or xfs)")
    kind = file_system(config.LAB_DIR)
    if kind in ("overlay", "tmpfs", "nfs", "fuse"):
        raise LabError(f"{config.LAB_DIR} is on {kind}; container storage on it would not work",
                       hint="set TRANSSHIP_LAB_DIR to a directory on ext4, xfs or btrfs")


def file_system(path: Path) -> str:
    """The type of the file system a path is on."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return "unknown"


def up(lab: str, rate: str = "", say=lambda text: None) -> dict:
    """Brings a lab up; when that fails, takes down what it had made and says what failed."""
    check_machine()
    if rate:
        shape.parse_rate(rate)
    with state.locked(lab):
        if state.load(lab) is not None or cgroup.lab_cgroup(lab).exists() or state.lab_dir(lab).exists():
            raise LabError(f"the lab {lab!r} is up already, or was left half made", hint="run `down` first; `status` shows it")
        try:
            return _up(lab, rate, say)
        except BaseException:
            say("up failed, cleaning up")
            _down(lab)
            raise


def _up(lab: str, rate: str, say) -> dict:
    begin = time.monotonic()
    layouts = {name: images.ensure(name, say) for name in images.AT_UP}
    lab_state = start_hosts(lab)
    state.save(lab, lab_state)
    hosts = lab_state["hosts"]
    say(f"hosts started after {time.monotonic() - begin:.1f} s")
    wan = hosts[ROUTER.name]
    network.make_router(wan)
    network.connect(wan, {name: hosts[name] for name in HOSTS})
    for name in HOSTS if rate else ():
        shape.apply(lab_state, name, {"rate": rate})
    services.start_all(lab_state)
    services.wait_ready(lab_state)
    for name, layout in layouts.items():
        images.push(lab_state, name, layout)
    if deploying.programs_exist():
        deploying.deploy(lab_state)
        say("programs installed, daemons started")
    lab_state["up_seconds"] = round(time.monotonic() - begin, 2)
    state.save(lab, lab_state)
    say(f"lab {lab!r} is up after {lab_state['up_seconds']:.1f} s")
    return lab_state


def start_hosts(lab: str) -> dict:
    specs = [ROUTER, *HOSTS.values()]
    state.lab_dir(lab).mkdir(parents=True)
    services.make_ssh_keys(lab)
    for spec in specs:
        base = host_module.prepare_files(lab, spec)
        services.prepare_files(lab, spec, base)
    with ThreadPoolExecutor(len(specs)) as pool:
        records = list(pool.map(lambda spec: host_module.start(lab, spec, services.binds(spec)), specs))
    return {"name": lab, "created": time.time(), "hosts": {r["name"]: r for r in records}, "shape": {}}


def down(lab: str, say=lambda text: None) -> None:
    """Takes a lab down, whatever state it is in. Does nothing when there is none."""
    begin = time.monotonic()
    with state.locked(lab):
        _down(lab)
    say(f"lab {lab!r} is down after {time.monotonic() - begin:.1f} s")


def _down(lab: str) -> None:
    """Kills by cgroup: that needs no state file, and hung processes cannot escape. Namespaces, mounts and links go with
    the processes that held them."""
    group = cgroup.lab_cgroup(lab)
    pids = cgroup.kill(group)
    cgroup.remove(group)
    state.remove_files(lab)
    cgroup.wait_reaped(pids)


def leftovers(lab: str) -> list[str]:
    """What exists of a lab that is not up."""
    found = []
    group = cgroup.lab_cgroup(lab)
    if group.exists():
        pids = cgroup.processes(group)
        found.append(f"cgroup {group} with {len(pids)} processes")
        found += [f"process {cgroup.describe(pid)}" for pid in pids]
    if state.lab_dir(lab).exists():
        found.append(f"directory {state.lab_dir(lab)}")
    return found
