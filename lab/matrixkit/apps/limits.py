"""What is known not to move: it must be refused with its reason, and its clients notice nothing."""

from .redis import Redis


class Volume(Redis):
    name = "volume"
    image = "redis"
    what = "Redis with a volume"
    limit = "volumes and bind mounts do not move yet"
    options = ("-v", "volume:/data")

    def close(self):
        super().close()
        for host in self.lab.clouds():
            host.run(["podman", "volume", "rm", "-f", "volume"], check=False, timeout=60)
