"""What is compared: one file for each way to move a container."""

from .base import System
from .criu_lazy import CriuLazy
from .podman import PodmanArchive
from .runc_rsync import RuncRsync
from .transship import Transship, TransshipByEtcd

__all__ = ["System", "chosen"]


def chosen(lab, options, can_choose_mode: bool) -> list[System]:
    """Systems in the order of the result: ours first."""
    peers = {
        "podman": [PodmanArchive(lab, "none"), PodmanArchive(lab, "zstd")],
        "runc-rsync": [RuncRsync(lab)],
        "criu-lazy": [CriuLazy(lab)],
    }
    ours = [Transship(lab, options.engine, mode) for mode in options.modes]
    if ours and not can_choose_mode:
        ours = [Transship(lab, options.engine, None)]
    if options.arbiter == "etcd":
        ours += [TransshipByEtcd(lab, options.engine, mode) for mode in options.modes if can_choose_mode]
    return ours + [system for name in options.against for system in peers[name]]
