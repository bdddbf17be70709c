"""What is known not to move: it must be refused with its reason, and its clients notice nothing."""

from .databases import MariaDb, Postgres
from .redis import RedisVolume
from .sessions import Go


class SharedVolume(RedisVolume):
    name = "shared-volume"
    what = "Redis with a volume that another container uses as well"
    limit = "the two would write to two copies of it"

    def before_start(self, host):
        host.run(["podman", "run", "-d", "--name", "neighbour", "-v", f"{self.name}:/data", self.lab.image("redis"), "sleep", "100000"], timeout=60)

    def close(self):
        for host in self.lab.clouds():
            host.run(["podman", "rm", "-f", "-t", "0", "-i", "neighbour"], check=False, timeout=60)
        super().close()


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
