from demokit.subject import PodmanRedis

from ..app import App
from ..client import RedisClients
from ..verdict import Report

MIB = 64


class Redis(App):
    name = "redis"
    what = f"Redis, {MIB} MiB of random values"
    packages = ("redis-server",)
    promises = ("answers", "untouched values")
    checks = "4 connections: counters without a gap, values as written; all other values by their digest"

    def create(self, host):
        super().create(host)
        self.redis = PodmanRedis(self.lab, self.name, self.address)
        self.redis.fill(host, MIB)
        self.digest = self.redis.data_digest(host, MIB * 16)

    def ready(self, host):
        return host.run(["redis-cli", "-h", self.address, "-t", "2", "PING"], check=False, timeout=5).stdout.strip() == "PONG"

    def start_load(self, host):
        self.clients = [RedisClients(self.client_host, self.address), Untouched(self)]


class Untouched:
    """Looks at the end at what fill() wrote."""

    name = "digest"

    def __init__(self, app):
        self.app = app

    def progress(self):
        pass

    def stop(self):
        same = self.app.redis.data_digest(self.app.client_host, MIB * 16) == self.app.digest
        return Report(self.name, {"untouched values": MIB * 16} if same else {}, [] if same else ["values that nobody has touched are others"])

    def close(self):
        pass


class RedisVolume(Redis):
    name = "redis-volume"
    image = "redis"
    what = "Redis that writes each command to a file in a volume before it answers"
    command = ("redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes", "--bind", "0.0.0.0", "--appendonly", "yes",
               "--appendfsync", "always")

    @property
    def options(self):
        return ("-v", f"{self.name}:/data")

    def close(self):
        super().close()
        for host in self.lab.clouds():
            host.run(["podman", "volume", "rm", "-f", self.name], check=False, timeout=60)
