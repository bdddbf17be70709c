"""The Debian root with more packages in it, for as long as an image is being made of them.

What only one image needs, or only to compile something for it, would make the root of everybody larger; it is installed in a
throw-away layer over the root instead. Package lists and archives are kept beside the images.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from . import config
from .errors import LabError
from .run import run

KEPT = config.IMAGES / ".packages"
LISTS_FOR = 6 * 3600  # s, before they are fetched again
# The directories of the kept files and where apt wants them.
BINDS = {"lists": "var/lib/apt/lists", "archives": "var/cache/apt/archives"}
APT = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=3", "-o", "APT::Keep-Downloaded-Packages=true",
       "-o", "DPkg::Options::=--force-unsafe-io", "-o", "Acquire::Languages=none"]


@contextlib.contextmanager
def root_with(packages: list[str], work: Path) -> Iterator[Path]:
    """A root to take files from and to `chroot` into; `work` must be on a disk or tmpfs, and goes away afterwards."""
    if not packages:
        yield config.ROOT
        return
    with contextlib.ExitStack() as stack:
        root = mount_root(stack, work)
        with locked():  # apt has locks of its own, but with them a second build would fail instead of waiting
            install(root, packages)
        yield root


@contextlib.contextmanager
def locked(timeout: float = 900.0) -> Iterator[None]:
    KEPT.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + timeout
    with open(KEPT / "lock", "w", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LabError(f"another build has used the packages in {KEPT} for {timeout:g} s") from None
                time.sleep(0.2)
        yield


def mount_root(stack: contextlib.ExitStack, work: Path) -> Path:
    upper, inner, root = (work / f"root-{name}" for name in ("upper", "work", "all"))
    for directory in (upper, inner, root):
        directory.mkdir()
    mount(stack, root, "-t", "overlay", "-o", f"lowerdir={config.ROOT},upperdir={upper},workdir={inner}", "packages")
    for kept, place in BINDS.items():
        (KEPT / kept / "partial").mkdir(parents=True, exist_ok=True)
        mount(stack, root / place, "--bind", KEPT / kept)
    mount(stack, root / "proc", "-t", "proc", "proc")
    mount(stack, root / "dev", "--rbind", "/dev")
    return root


def mount(stack: contextlib.ExitStack, target: Path, *words) -> None:
    run(["mount", *words, target])
    run(["mount", "--make-rprivate", target])  # else taking it away takes what is below it away from everybody
    stack.callback(run, ["umount", "-R", "-l", target])


def install(root: Path, packages: list[str]) -> None:
    # Nothing is started that a package brings, and names are resolved as here.
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    for name in ("resolv.conf", "hosts"):
        with contextlib.suppress(FileNotFoundError):
            (root / "etc" / name).write_text(Path("/etc", name).read_text())
    names = {key: value for key, value in os.environ.items() if key.endswith("_proxy") or key == "PATH"}
    environment = {**names, "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"}
    try:
        if not fresh_lists():
            run(["chroot", root, *APT, "update"], timeout=300, env=environment)
            (KEPT / "lists-fetched").touch()
        run(["chroot", root, *APT, "install", *packages], timeout=900, env=environment)
    except LabError as e:
        raise LabError(f"cannot install {' '.join(packages)} for an image: {e}",
                       hint="it is fetched from the Debian mirror of the root: check the network and http_proxy") from e


def fresh_lists() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return 0 <= time.time() - (KEPT / "lists-fetched").stat().st_mtime < LISTS_FOR
    return False


def versions(root: Path, packages: list[str]) -> str:
    if not packages:
        return ""
    found = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}, ", *dict.fromkeys(packages)]).stdout
    return found.strip(", ")
