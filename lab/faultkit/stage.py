"""The lab for faults: two hosts whose disks are small, daemons that a supervisor starts again, one container under load."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demokit import leftovers
from demokit.churn import INSIDE, PROGRAM, Churn
from demokit.load import Load
from demokit.subject import PodmanRedis
from labkit import config, deploy, namespace, services
from labkit.api import Host, Lab
from labkit.errors import LabError

from .witness import Witness

POINTS_DIR = "/run/lab-fault-points"
CLOCK = "/run/lab-clock"
STORAGE, STATE = "/var/lib/containers/storage", "/var/lib/transship"
# As systemd would (packaging/systemd/transshipd.service), a second sooner.
RESTART_AFTER = 1.0
TUNNEL_LIMIT = 60.0
MIB = 24
RESTART_POLICY = "on-failure:3"
WITNESS = config.BUILD / "bin/witness"
LAB_CLOCK = config.BUILD / "bin/lab-clock.so"
NEEDED = (*deploy.PROGRAMS, "lab-forwarder", "memory_churn", "witness", "lab-clock")  # to be built
# Late packets are passed on for 3 s after a move otherwise, and every run would wait for that.
SETTINGS = "\n[move]\nreservation_ttl_s = 10\n[hold]\ngrace_ms = 500\n"


class Subject(PodmanRedis):
    """A Redis beside the witness."""

    def create(self, host: Host, options=()) -> None:
        host.put("/tmp/witness", WITNESS.read_bytes(), 0o755)
        command = ["/usr/bin/witness", "redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes",
                   "--bind", "0.0.0.0"]
        host.run(["podman", "create", "--name", self.name, "--ip", self.address, *options, self.image, *command], timeout=90)
        host.run(["podman", "cp", "/tmp/witness", f"{self.name}:/usr/bin/witness"], timeout=30)
        host.run(["podman", "start", self.name], timeout=30)
        self.lab.route(self.address, host.name)
        self.wait_answer(host)


class ChurnSubject(Churn):
    """The program that checks all of its memory, beside the witness."""

    def create(self, host: Host, options=()) -> None:
        host.put("/tmp/witness", WITNESS.read_bytes(), 0o755)
        host.put("/tmp/memory_churn", PROGRAM.read_bytes(), 0o755)
        command = ["/usr/bin/witness", INSIDE, "--mib", "8", "--write-mib", "10", "--writers", "1"]
        host.run(["podman", "create", "--name", self.name, "--ip", self.address, *options, self.lab.image("redis"), *command], timeout=90)
        for program, inside in (("/tmp/witness", "/usr/bin/witness"), ("/tmp/memory_churn", INSIDE)):
            host.run(["podman", "cp", program, f"{self.name}:{inside}"], timeout=30)
        host.run(["podman", "start", self.name], timeout=30)
        self.lab.route(self.address, host.name)
        self.wait_progress(host)


class Stage:
    """Up until close(). `host`: where the container is."""

    here = Path(__file__).resolve().parent

    def __init__(self, name: str, say=lambda text: None):
        self.lab, self.say = Lab(name), say
        self.hosts = [self.lab.host("aws"), self.lab.host("azure")]
        self.witness = self.subject = self.load = self.host = None
        self.driver, self.workload, self.digest = "", "", ""
        self.maimed = False  # the container needs to be made anew
        self.before = {}

    # ---- the lab

    def up(self):
        if not deploy.programs_exist() or not WITNESS.is_file():
            raise LabError(f"{config.BUILD} does not have all programs", hint="./dev build first")
        self.lab.up()
        self.lab.host("openstack").stop_service("transshipd")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.prepare, self.hosts))
        self.driver = ""
        self.witness = Witness(self.hosts)

    def prepare(self, host: Host):
        """File systems of its own for what may become full, and the image on them already."""
        deploy.stop_daemon(host.record)
        host.stop_service("podman")
        host.run(f"mkdir -p -m 0700 {POINTS_DIR}; head -c 8 /dev/zero > {CLOCK}")
        host.run(f"mount -t tmpfs -o size=600m tmpfs {STORAGE} && mount -t tmpfs -o size=48m,mode=700 tmpfs {STATE};"
                 "rm -rf /run/containers/storage /run/libpod")
        host.put("/usr/lib/transship-lab/lab-clock.so", LAB_CLOCK.read_bytes(), 0o755)
        namespace.ask_init(host.record, services.PODMAN)
        services.wait_until("Podman's service", lambda: services.podman_listens(host.record))
        host.run(["podman", "pull", "-q", "registry.lab:5000/redis:lab"], timeout=60)

    def down(self):
        if self.load:
            self.load.process.kill()
            self.load.process.wait(10)
            self.load = None
        if self.witness:
            self.witness.close()
            self.witness = None
        self.lab.down()
        self.subject = None

    def use(self, driver: str, workload: str):
        """The daemons with that way of cutover, and a new container of that kind on aws."""
        if self.driver != driver:
            for host in self.hosts:
                self.stop_daemon(host)
                text = deploy.configuration(host.record, driver)
                deploy.install(host.record, deploy.CONFIG, (text + SETTINGS).encode(), 0o644)
                self.start_daemon(host)
            deploy.pin_all([h.record for h in self.hosts])
            self.driver = driver
            self.wait_tunnel()
        self.new_container(workload)

    def wait_tunnel(self):
        """It is there with either driver, and what it makes on a host is not what a move has left behind."""
        end = time.monotonic() + TUNNEL_LIMIT
        while not all(deploy.tunnel_answers(h.record, p.record) for h, p in (self.hosts, self.hosts[::-1])):
            if time.monotonic() > end:
                raise LabError(f"the tunnel between the hosts did not come up in {TUNNEL_LIMIT:g} s")
            time.sleep(0.2)

    def stop_daemon(self, host: Host):
        """Also one that is about to be started again."""
        host.stop_service("transshipd")
        services.wait_until(f"the end of transshipd on {host.name}", lambda: not deploy.daemon_pid(host.record))

    def start_daemon(self, host: Host):
        env = {"TRANSSHIP_FAULT_POINTS": POINTS_DIR, "LAB_CLOCK": CLOCK, "LD_PRELOAD": "/usr/lib/transship-lab/lab-clock.so"}
        if config.SANITIZED:
            del env["LD_PRELOAD"]
        host.run("rm -f /run/transship/transshipd.sock")
        namespace.ask_init(host.record, {**deploy.DAEMON, "restart": True, "restart_after": RESTART_AFTER, "env": env})
        services.wait_until(f"transshipd on {host.name}", lambda: host.path("/run/transship/transshipd.sock").exists())

    # ---- the container

    def new_container(self, workload: str):
        self.remove_container()
        self.host, self.workload, self.maimed = self.hosts[0], workload, False
        self.before = {h.name: self.facts(h) for h in self.hosts}
        self.subject = Subject(self.lab) if workload == "redis" else ChurnSubject(self.lab)
        self.subject.create(self.host, ["--restart", RESTART_POLICY])
        if workload == "redis":
            self.subject.fill(self.host, MIB)
            self.digest = self.subject.data_digest(self.host, MIB * 16)

    def remove_container(self):
        if self.subject is None:
            return
        for host in self.hosts:
            for _ in range(3):  # without its monitor Podman needs more than one attempt, and leaves the storage until the last
                self.subject.remove(host)
                if self.subject.name not in host.run("podman ps -a --external --format '{{.Names}}'", timeout=60).stdout.split():
                    break
        end = time.monotonic() + 10
        # What leads to it goes some time later, with the next look at it.
        while any(f"route: {self.subject.address} " in line for h in self.hosts for line in self.facts(h)) and time.monotonic() < end:
            time.sleep(0.3)
        if self.subject.address in self.lab.routes():
            self.lab.unroute(self.subject.address)
        self.subject = None

    def begin_load(self):
        if self.workload == "redis":
            self.load = Load(self.lab.host("client"), self.subject.address, counters=1, values=1, keepers=1, pause=0.002, patience=90)

    def end_load(self) -> dict:
        report, load = {}, self.load
        self.load = None
        if load:
            report = load.stop()
        return report

    def lost(self):
        """The container is no more, and its clients wait in vain."""
        if self.load:
            self.load.process.kill()
            self.load.process.wait(10)
            self.load = None
        self.maimed = True

    def facts(self, host: Host) -> set[str]:
        return leftovers.collect(host) | {line for line in host.run(MORE, timeout=30).stdout.splitlines() if line.strip()}

    def moves(self, host: Host) -> list[dict]:
        """All of them: one that began while the clock was wrong is not among the latest."""
        out = host.run(["transship", "moves", "--limit", "1000", "--json"], timeout=20, check=False)
        if out.returncode != 0:
            raise LabError(f"transshipd on {host.name} does not answer: {out.stderr}")
        return [json.loads(line) for line in out.stdout.splitlines() if line.startswith('{"')]

    def running_moves(self, host: Host, timeout=20) -> int:
        out = host.run(["transship", "node", "info", "--json"], timeout=timeout).stdout
        return json.loads(out)["moves_running"]


# Beside what demokit.leftovers looks at.
MORE = r"""
ls /run/runc 2>/dev/null | sed 's/^/runc: /'
ls -d /tmp/.criu* 2>/dev/null | sed 's/^/criu directory: /'
ls -d /sys/fs/cgroup/libpod_parent/libpod-* 2>/dev/null | sed 's/.*\//cgroup: /'
ls /var/lib/transship/bundles 2>/dev/null | sed 's/^/bundle: /'
podman ps -a --external --filter status=unknown --format 'storage: {{.Names}}' 2>/dev/null
n=$(pgrep -fc '^podman --runtime transship system service'); [ $n -gt 1 ] && echo "services: $n"
for p in /proc/[0-9]*; do
  read -r comm < $p/comm 2>/dev/null
  case "$comm" in witness|redis-server|memory_churn) echo "task: $comm";; esac
done
true
"""
