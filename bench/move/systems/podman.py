"""Podman's own: an archive of the checkpoint, copied, restored, and the route changed."""

from ..measure import Stopwatch
from .base import DESTINATION, SSH_SOCKET, WORK, ByHand

ARCHIVE = f"{WORK}/checkpoint.tar"


class PodmanArchive(ByHand):
    name = "podman"
    contest = "podman"

    def __init__(self, lab, compression: str):
        super().__init__(lab)
        self.mode = compression

    def move(self) -> dict[str, float]:
        watch = Stopwatch()
        name = self.redis.name
        self.source.run(["podman", "container", "checkpoint", "--tcp-established", "--compress", self.mode, "--export", ARCHIVE, name],
                        timeout=300)
        watch.lap("checkpoint")
        self.source.run(["scp", "-q", "-o", f"ControlPath={SSH_SOCKET}", ARCHIVE, f"root@{DESTINATION}:{ARCHIVE}"], timeout=600)
        watch.lap("copy")
        self.destination.run(["podman", "container", "restore", "--tcp-established", "--import", ARCHIVE], timeout=300)
        watch.lap("restore")
        self.route_to_destination()
        watch.lap("route")
        self.source.run(["podman", "rm", name])
        watch.lap("remove")
        return watch.parts
