"""A container moved by hand, with gate_drill: each step of a dump and of a restore under the test's control."""

import contextlib
import json
import queue
import threading
import time
from pathlib import Path

from labkit import config
from labkit.api import REGISTRY

IMAGE = f"{REGISTRY}/redis:lab"
NAME = "gated"
ADDRESS = "10.88.0.40"
RUNTIME = "/usr/bin/transship-runtime"
DRILL = "/usr/bin/gate_drill"
IMAGES, WORK = "/run/gate-test/images", "/run/gate-test/work"

# Replies of a moved connection are a new flow to the host's connection tracking.
NOTRACK = f"""table ip gate_test {{ chain pre {{ type filter hook prerouting priority raw;
  ip saddr {ADDRESS} notrack; ip daddr {ADDRESS} notrack
}}
}}"""

# One connection; INCR as fast as it goes. Prints what it saw when its standard input ends.
CLIENT = f"""
import socket, sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
s = socket.create_connection(("{ADDRESS}", 6379), timeout=60)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
f, last, gap = s.makefile("rb"), 0, 0.0
print("connected", flush=True)
while not stop.is_set():
    t = time.monotonic()
    s.sendall(b"INCR counter\\r\\n")
    value = int(f.readline()[1:])
    assert last == 0 or value == last + 1, (last, value)
    last, gap = value, max(gap, time.monotonic() - t)
print(last, round(gap * 1000), flush=True)
"""


def wait_for(what: str, condition, timeout: float = 10.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"no {what} within {timeout:g} s")


class Drill:
    """A running gate_drill. Its steps are read as they come."""

    running: list["Drill"] = []

    def __init__(self, host, *words, env=None):
        Drill.running.append(self)
        self.process = host.popen([DRILL, *words], env=env, stdin=-1, stdout=-1, stderr=-1, text=True)
        self.steps, self.log = queue.Queue(), []
        self.readers = [
            threading.Thread(target=lambda: [self.steps.put(json.loads(line)) for line in self.process.stdout], daemon=True),
            threading.Thread(target=lambda: [self.log.append(line) for line in self.process.stderr], daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def step(self, name: str, timeout: float = 20.0) -> dict:
        try:
            got = self.steps.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no step {name!r} within {timeout:g} s; log: {''.join(self.log)}") from None
        assert got["step"] == name and "error" not in got, f"{got}; log: {''.join(self.log)}"
        return got

    def failure(self, timeout: float = 20.0) -> str:
        got = self.steps.get(timeout=timeout)
        assert "error" in got, got
        return got["error"]

    def say(self, word: str):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def decide(self, word: str):
        """What the drill asked for: commit or rollback. It must work."""
        self.say(word)
        self.step(word)
        assert self.end() == 0

    def kill(self):
        self.process.kill()
        self.end()

    @staticmethod
    def kill_all():
        for drill in list(Drill.running):
            drill.kill()

    def end(self) -> int:
        if self in Drill.running:
            Drill.running.remove(self)
        self.process.stdin.close()
        code = self.process.wait(timeout=20)
        for reader in self.readers:
            reader.join(timeout=5)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


class Client:
    def __init__(self, lab):
        self.process = lab.host("client").popen(["python3", "-c", CLIENT], stdin=-1, stdout=-1, stderr=-1, text=True)
        assert self.process.stdout.readline() == "connected\n", self.process.stderr.read()

    def end(self) -> tuple[int, int]:
        """Last value, longest gap in ms. Fails when the connection broke or a value was lost."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        last, gap = out.split()
        return int(last), int(gap)


def install(lab) -> None:
    for name in ("aws", "azure"):
        host = lab.host(name)
        for program in ("transship-runtime", "gate_drill"):
            host.put(f"/usr/bin/{program}", (Path(config.BUILD) / "bin" / program).read_bytes(), 0o755)
        host.run(["nft", "-f", "-"], input=NOTRACK)
        host.run(["podman", "pull", "-q", IMAGE])


def container_pid(host) -> int:
    return int(host.run(["podman", "inspect", "-f", "{{.State.Pid}}", NAME]).stdout)


def bundle(host) -> str:
    return str(Path(host.run(["podman", "inspect", "-f", "{{.OCIConfigPath}}", NAME]).stdout.strip()).parent)


def fresh_dirs(host) -> None:
    host.run(f"rm -rf {IMAGES} {WORK}; mkdir -p {IMAGES} {WORK}")


def create(host, *options, command=()) -> str:
    """A container that does not run yet, under our runtime; returns its id."""
    words = ["podman", "create", "--name", NAME, "--runtime", RUNTIME, "--ip", ADDRESS, *options, IMAGE, *command]
    return host.run(words).stdout.strip()


def start_in_background(host):
    return host.popen(["podman", "start", NAME], stdin=-3, stdout=-1, stderr=-2, text=True)


def dump(host, then="ask", memory="full") -> Drill:
    fresh_dirs(host)
    return Drill(host, "dump", "--pid", str(container_pid(host)), "--bundle", bundle(host), "--images", IMAGES, "--work", WORK,
                 "--then", then, "--memory", memory)


def dump_complete(host) -> Drill:
    """The images are there, and the drill waits for its decision."""
    dumped = dump(host)
    dumped.step("start")
    dumped.step("dump")
    return dumped


def carry_descriptors(source, destination) -> None:
    """What the destination needs before the images: where standard input and output of the container lead."""
    fds = source.run(f"for i in 0 1 2; do readlink /proc/{container_pid(source)}/fd/$i; done").stdout.split()
    destination.put(f"{IMAGES}/descriptors.json", json.dumps(fds))


def carry_images(source, destination) -> None:
    for file in source.path(IMAGES).iterdir():
        destination.put(f"{IMAGES}/{file.name}", file.read_bytes())


class Arrival:
    """The destination's half of a move, up to the gate."""

    def __init__(self, source, destination, *options, hold=20000, command=(), lazy=False):
        self.host = destination
        fresh_dirs(destination)
        carry_descriptors(source, destination)
        self.id = create(destination, *options, command=command)
        self.drill = Drill(destination, "gate", "--id", self.id, "--images", IMAGES, "--work", WORK, "--hold", str(hold), "--ask",
                           "--then", "ask", *(("--lazy", "yes") if lazy else ()))
        self.drill.step("armed")
        self.start = start_in_background(destination)
        self.runtime_pid = self.drill.step("waiting")["pid"]

    def prepare(self):
        self.drill.say("go")
        self.drill.step("prepared")

    def restore(self) -> dict:
        self.drill.say("go")
        parked = self.drill.step("parked")
        out = self.start.communicate(timeout=20)[0]
        assert self.start.returncode == 0, out
        return parked

    def start_fails(self) -> str:
        out = self.start.communicate(timeout=20)[0]
        assert self.start.returncode != 0, out
        return out


def move(lab, source, destination, *options, command=()) -> dict:
    """All of it; returns the steps' numbers."""
    arrival = Arrival(source, destination, *options, command=command)
    arrival.prepare()
    dumped = dump(source)
    dumped.step("start")
    times = {"dump": dumped.step("dump")}
    carry_images(source, destination)
    times["parked"] = arrival.restore()
    dumped.decide("commit")
    lab.route(ADDRESS, destination.name)
    arrival.drill.say("release")
    times["released"] = arrival.drill.step("released")
    assert arrival.drill.end() == 0
    source.run(["podman", "rm", "-f", "-t0", NAME])
    return times


def kill_at_exit(host, pid: int):
    """SIGKILL when the process wants to exit, instead. Returns what does it, once it follows the process."""
    tracer = host.popen(["strace", "-f", "-p", pid, "-e", "trace=exit_group", "-e", "inject=exit_group:signal=KILL"], stdin=-3, stdout=-3,
                        stderr=-1, text=True)
    assert "attached" in (line := tracer.stderr.readline()), line
    return tracer


def tidy(hosts) -> None:
    """The end of a test: complains of what stayed on the hosts, and takes it away all the same, for the next test's sake."""
    Drill.kill_all()
    left = []
    for host in hosts:
        host.run(["podman", "rm", "-f", "-t0", "--ignore", NAME], timeout=60)
        left += lasting_leftovers(host, 5)  # what Podman starts to clean up after it may not be through yet
        host.run([DRILL, "clean"], check=False)
        host.run("for id in /run/runc/*; do [ -e $id ] && runc delete --force ${id##*/}; done", check=False, timeout=60)
    assert left == [], f"left behind: {left}"


def lasting_leftovers(host, seconds=10.0) -> list[str]:
    """A killed program's heirs may take a moment."""
    with contextlib.suppress(AssertionError):
        wait_for("clean host", lambda: leftovers(host) == [], seconds)
    return leftovers(host)


def wait_clean(host) -> None:
    what = lasting_leftovers(host)
    assert what == [], f"left behind: {what}; {host.run(['ps', '-eo', 'pid,ppid,stat,wchan:30,args']).stdout}"


def leftovers(host) -> list[str]:
    """What a failed or finished arrival must not leave on a host, beside the container in Podman's own list."""
    found = host.run("ls -d /run/transship/gates/* /run/runc/* 2>/dev/null; nft list tables | grep -v -e netavark -e gate_test -e transship_tunnel -e transship_names;"
                     "pgrep -x criu; pgrep -x runc; pgrep -f 'transship-runtime [c]reate'; pgrep -x redis-server; ls -d /tmp/.criu* 2>/dev/null; true").stdout
    return found.split("\n")[:-1]
