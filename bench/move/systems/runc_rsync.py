"""runc checkpoint, rsync, runc restore: the bundle goes ahead while the container runs, what changed and the images after."""

from demokit.runc_subject import RuncRedis
from labkit.errors import LabError

from ..measure import Stopwatch
from .base import DESTINATION, SSH, WORK, ByHand, error_lines

IMAGES, LOGS = f"{WORK}/images", f"{WORK}/logs"


class Bundle(ByHand):
    """What both ways with plain runc share."""

    def __init__(self, lab):
        super().__init__(lab)
        self.redis = RuncRedis(lab)

    def prepare(self) -> None:
        super().prepare()
        for host in (self.source, self.destination):
            host.run(f"mkdir {IMAGES} {LOGS}")

    def rsync(self, *paths: str) -> None:
        self.source.run(["rsync", "-aHR", "--numeric-ids", "-e", SSH, *paths, f"root@{DESTINATION}:/"], timeout=600)

    def restore(self, *options: str) -> None:
        """Its own standard streams must not be ours: the restored container keeps them."""
        restore = f"runc restore --detach --tcp-established {' '.join(options)} --image-path {IMAGES} --work-path {LOGS} {self.redis.name}"
        done = self.destination.run(f"cd {self.redis.bundle} && {restore} </dev/null >{LOGS}/out 2>&1", timeout=300, check=False)
        if done.returncode:
            said = self.destination.run(f"tail -n 2 {LOGS}/out", check=False).stdout.strip()
            raise LabError(f"runc restore: {said} {error_lines(self.destination, f'{LOGS}/restore.log')}")


class RuncRsync(Bundle):
    name = "runc-rsync"

    def move(self) -> dict[str, float]:
        watch = Stopwatch()
        self.rsync(self.redis.bundle)
        watch.lap("bundle")
        checkpoint = ["runc", "checkpoint", "--tcp-established", "--image-path", IMAGES, "--work-path", LOGS, self.redis.name]
        done = self.source.run(checkpoint, timeout=300, check=False)
        if done.returncode:
            raise LabError(f"runc checkpoint: {done.stderr.strip()[-300:]} {error_lines(self.source, f'{LOGS}/dump.log')}")
        watch.lap("checkpoint")
        self.rsync(self.redis.bundle, IMAGES)
        watch.lap("copy")
        self.restore()
        watch.lap("restore")
        self.route_to_destination()
        watch.lap("route")
        return watch.parts
