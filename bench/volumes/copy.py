"""The same tree over the same link: the volume of a container that moves, and a directory by `rsync -a`."""

import time
from statistics import median

from demokit.moves import move
from labkit.errors import LabError
from move.systems.base import DESTINATION, SOURCE, SSH, SSH_SOCKET

from . import tree

CONTAINER, ADDRESS, VOLUME = "keeper", "10.88.0.40", "data"
# On the disk that the engine's volumes are on.
RSYNC = "/var/lib/containers/rsync"


def volume_path(host) -> str:
    return host.run(["podman", "volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME]).stdout.strip()


def moved(host, destination: str) -> dict:
    outcome = move(host, CONTAINER, destination, timeout=3600)
    if outcome.code:
        raise LabError(f"transship move: {outcome.lines[-1] if outcome.lines else outcome.stderr}")
    return outcome.summary


def rsync(source, destination: str) -> tuple[float, float]:
    """Seconds until it has ended, and until what it wrote is on the disk as well."""
    begin = time.monotonic()
    source.run(["rsync", "-aHAX", "--delete", "--numeric-ids", "-e", SSH, f"{RSYNC}/", f"root@{destination}:{RSYNC}/"], timeout=3600)
    ended = time.monotonic() - begin
    source.run(f"{SSH} root@{destination} sync -f {RSYNC}", timeout=600)
    return ended, time.monotonic() - begin


class CopyScene:
    def __init__(self, scene, mib: int):
        self.scene, self.mib = scene, mib
        self.source, self.destination = scene.lab.host(SOURCE), scene.lab.host(DESTINATION)

    def set_up(self, seed: int) -> None:
        s = self.source
        s.run(["podman", "volume", "create", VOLUME])
        tree.make(s, volume_path(s), self.mib, seed)
        s.run(["cp", "-a", volume_path(s), RSYNC], timeout=600)
        self.destination.run(["mkdir", "-p", RSYNC])
        s.run(["podman", "run", "-d", "--name", CONTAINER, "--ip", ADDRESS, "-v", f"{VOLUME}:/data", self.scene.lab.image("redis"),
               "sleep", "100000"], timeout=90)
        self.scene.lab.route(ADDRESS, SOURCE)
        for host, other in ((s, DESTINATION), (self.destination, SOURCE)):
            host.run(["sync"], timeout=600)
            host.run(f"{SSH} -o ControlMaster=yes -fN root@{other} </dev/null >/dev/null 2>&1")
        self.scene.shape()

    def run(self, seed: int, ours_first: bool) -> dict:
        """Seconds of the four copies; ours is the phase `volumes` of the move, which ends on the disk."""
        found = {}

        def ours(name, host, destination):
            summary = moved(host, destination)
            found[name] = {"s": summary["total_parts_ms"]["volumes"] / 1000, "bytes": summary["bytes_volumes"]}

        def theirs(name, host, destination):
            ended, on_disk = rsync(host, destination)
            found[name] = {"s": ended, "on_disk_s": on_disk}

        def in_turn(*steps):
            for step, arguments in steps if ours_first else reversed(steps):
                step(*arguments)

        in_turn((ours, ("first", self.source, DESTINATION)), (theirs, ("rsync_first", self.source, DESTINATION)))
        for top in (volume_path(self.destination), RSYNC):
            tree.change(self.destination, top, self.mib, seed + 1)
        self.destination.run(["sync"], timeout=600)
        expected = tree.digest(self.destination, volume_path(self.destination))
        in_turn((ours, ("again", self.destination, SOURCE)), (theirs, ("rsync_again", self.destination, SOURCE)))
        found["equal"] = tree.digest(self.source, volume_path(self.source)) == expected
        return found

    def clean_up(self) -> None:
        self.scene.clear_shape()
        for host in (self.source, self.destination):
            host.run(f"ssh -o ControlPath={SSH_SOCKET} -O exit root@x 2>/dev/null; podman rm -f -t 0 -i {CONTAINER}; podman volume rm -f {VOLUME};"
                     f" rm -rf {RSYNC}", check=False, timeout=300)
        if ADDRESS in self.scene.lab.routes():
            self.scene.lab.unroute(ADDRESS)


def measure(scene, mib: int, runs: int, say) -> dict:
    all_runs = []
    for number in range(runs):
        one = CopyScene(scene, mib)
        try:
            one.set_up(seed=number * 10)
            all_runs.append(one.run(seed=number * 10, ours_first=number % 2 == 0))
        finally:
            one.clean_up()
        r = all_runs[-1]
        say(f"run {number + 1}: first {r['first']['s']:.2f} s, rsync {r['rsync_first']['s']:.2f} s; "
            f"after 1 % {r['again']['s']:.2f} s, rsync {r['rsync_again']['s']:.2f} s; equal: {r['equal']}")

    def ratio(ours, theirs, what="s"):
        return round(median(r[theirs][what] / r[ours]["s"] for r in all_runs), 2)

    return {"mib": mib, "runs": len(all_runs), "equal": all(r["equal"] for r in all_runs),
            "first_s_median": round(median(r["first"]["s"] for r in all_runs), 2),
            "again_s_median": round(median(r["again"]["s"] for r in all_runs), 2),
            "first_ratio": ratio("first", "rsync_first"), "again_ratio": ratio("again", "rsync_again"),
            "first_ratio_on_disk": ratio("first", "rsync_first", "on_disk_s"), "again_ratio_on_disk": ratio("again", "rsync_again", "on_disk_s"),
            "again_bytes_median": median(r["again"]["bytes"] for r in all_runs), "each_run": all_runs}
