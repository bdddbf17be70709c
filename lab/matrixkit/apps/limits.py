"""What is known not to move: it must be refused with its reason, and its clients notice nothing."""

from .databases import MariaDb, Postgres
from .redis import Redis
from .sessions import Go


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


class Multipath(Go):
    name = "go-mptcp"
    image = "go"
    what = "a Go server as it is"
    limit = "multipath TCP: CRIU cannot dump it"
    needs = ""
    options = ("-e", "GODEBUG=multipathtcp=1")


class IoUring(MariaDb):
    name = "mariadb-uring"
    image = "mariadb"
    what = "MariaDB with io_uring, which Podman's seccomp filter forbids as it is"
    limit = "io_uring: CRIU cannot dump it"
    options = ("--security-opt", "seccomp=unconfined")


class PostgresPosix(Postgres):
    name = "postgres-posix"
    image = "postgres"
    what = "PostgreSQL with dynamic shared memory as it is"
    limit = "files in /dev/shm, which is a mount of the engine's"
    needs = ""
    buffers, table, scale = 128, 10, 1
    settings = ("dynamic_shared_memory_type=posix",)
