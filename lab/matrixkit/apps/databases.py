"""The large databases."""

import re
import subprocess

from demokit.postgres import PostgresLoad

from ..app import App
from ..client import Client
from ..verdict import Report

BIN = "/usr/lib/postgresql/17/bin"


class MariaDb(App):
    name = "mariadb"
    what = "MariaDB, transactions"
    packages = ("mariadb-server",)
    needs = "`innodb_buffer_pool_size_max` not far above the pool's size: it reserves that many addresses (8 TiB by itself), and CRIU cannot"
    promises = ("transactions", "same connections", "accounts at the end", "histories at the end", "fillings at the end", "CHECK TABLE")
    checks = "4 connections: what each transaction reads; at the end all rows, and CHECK TABLE EXTENDED"

    def ready(self, host):
        return self.inside(host, "mariadb", "--no-defaults", "-S", "/run/mariadb.sock", "-e", "USE lab", check=False).returncode == 0

    def start_load(self, host):
        self.clients = [Client(self.client_host, "mariadb_client.py", self.address, 3306, helpers=("mysql.py",))]


class Postgres(App):
    name = "postgres"
    what = "PostgreSQL, shared buffers of 1 GiB, pgbench"
    buffers, table = 1024, 640  # MiB
    scale = 10                  # of pgbench: 100,000 accounts each
    settings: tuple[str, ...] = ()
    packages = ("postgresql-17",)
    promises = ("transactions", "pgbench transactions", "sums of pgbench", "pg_amcheck", "pages with their checksums")
    checks = "a client that checks each transaction and in the end all rows; pgbench's sums; pg_amcheck of all; pg_checksums"
    needs = "`dynamic_shared_memory_type = sysv`: files in /dev/shm are on a mount of the engine's, which each host makes anew"
    options = ("-e", "INITDB_OPTIONS=--data-checksums")

    @property
    def command(self):
        words = ["sh", "/usr/lib/start-postgres"]
        for setting in (f"shared_buffers={self.buffers}MB", *self.settings):
            words += ["-c", setting]
        return words

    def ready(self, host):
        return self.ask("SELECT 1", host=host, check=False) == "1"

    def ask(self, query: str, host=None, check=True) -> str:
        argv = [f"{BIN}/psql", "-h", self.address, "-U", "postgres", "-Atc", query]
        return (host or self.client_host).run(argv, check=check, timeout=120).stdout.strip()

    def start_load(self, host):
        self.client_host.run(self.pgbench("-i", "-q", "-s", self.scale), timeout=300)
        self.clients.append(Transactions(self))
        self.clients.append(PgBench(self))
        self.clients.append(Pages(self))

    def pgbench(self, *words) -> list:
        return [f"{BIN}/pgbench", "-h", self.address, "-U", "postgres", *words, "postgres"]


class Transactions:
    """The load of `./dev bench postgres`."""

    name = "postgres_load"

    def __init__(self, app: Postgres):
        self.load = PostgresLoad(app.lab, app.address, app.table)

    def progress(self):
        """It does not say."""

    def stop(self) -> Report:
        said = self.load.stop()
        wrong = [text for text in (said["error"], *said["wrong"]) if text]
        return Report(self.name, {"transactions": said["transactions"]}, wrong, [tuple(s) for s in said["silences"]])

    def close(self):
        self.load.close()


class PgBench:
    """Four connections; it gives up one that breaks, and says so in the end. What it has done is in the sums of its tables."""

    name = "pgbench"
    SUMS = ("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
            "(SELECT sum(bbalance) FROM pgbench_branches), sum(delta), count(*) FROM pgbench_history")

    def __init__(self, app: Postgres):
        self.app = app
        self.process = app.client_host.popen(app.pgbench("-n", "-c", 4, "-j", 2, "-R", 200, "-T", 100_000),
                                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def progress(self):
        """It does not say."""

    def stop(self) -> Report:
        if self.process.poll() is None:
            self.app.client_host.run("kill -ALRM $(pidof pgbench)")  # as if its time were over
        said, _ = self.process.communicate(timeout=120)
        done = re.search(r"^number of transactions actually processed: (\d+)", said, re.M)
        failed = re.search(r"^number of failed transactions: (\d+)", said, re.M)
        if self.process.returncode != 0 or not done or not failed or failed[1] != "0":
            return Report(self.name, {}, [f"it ended with {self.process.returncode}: {said[-1000:]}"])
        *sums, count = self.app.ask(self.SUMS).split("|")
        wrong = [] if len(set(sums)) == 1 else [f"the sums of its tables are {sums}"]
        if count != done[1]:
            wrong.append(f"it did {done[1]} transactions, and there are {count}")
        return Report(self.name, {"pgbench transactions": int(done[1]), "sums of pgbench": len(sums) if not wrong else 0}, wrong)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Pages:
    """Looks at everything in the end: tables against indexes while it runs, then the checksum of every page on the disk."""

    name = "pages"

    def __init__(self, app: Postgres):
        self.app = app

    def progress(self):
        pass

    def stop(self) -> Report:
        checked, wrong = {}, []
        argv = [f"{BIN}/pg_amcheck", "-h", self.app.address, "-U", "postgres", "--all", "--install-missing", "--heapallindexed"]
        done = self.app.client_host.run(argv, check=False, timeout=300)
        if done.returncode == 0:
            checked["pg_amcheck"] = 1
        else:
            wrong.append(f"pg_amcheck ended with {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")
        host = next(h for h in self.app.lab.clouds() if self.app.copies(h))
        host.run(["podman", "stop", "-t", "90", self.app.name], timeout=120)
        done = host.run(f'chroot "$(podman mount {self.app.name})" env LD_PRELOAD=/usr/lib/not-root.so {BIN}/pg_checksums --check -D /data; '
                        f"code=$?; podman unmount {self.app.name} >/dev/null; exit $code", check=False, timeout=300)
        blocks = re.search(r"^Blocks scanned: *(\d+)", done.stdout, re.M)
        if done.returncode == 0 and blocks and re.search(r"^Bad checksums: *0$", done.stdout, re.M):
            checked["pages with their checksums"] = int(blocks[1])
        else:
            wrong.append(f"pg_checksums ended with {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")
        return Report(self.name, checked, wrong)

    def close(self):
        pass
