"""Makes a fault happen to a move that runs, and ends it again."""

import threading
import time

from labkit import deploy, services
from labkit.api import Host
from labkit.errors import LabError
from labkit.namespace import ask_init

from .draw import Draw, Fault
from .stage import CLOCK, POINTS_DIR, STATE, STORAGE, Stage

REACH = 30.0   # seconds that a fault waits for its moment, at most
POINT_STALL = 150  # ms that a point is held while something else is made to happen there
HOOK = "/usr/lib/transship/hooks/lab-route"
PODMAN_PID = "/run/transship/podman/service.pid"


class Injector:
    """All faults of one run. begin() before the move starts, started() when it has, end() when it is over."""

    def __init__(self, stage: Stage, source: Host, destination: Host, draw: Draw):
        self.stage, self.draw, self.hosts = stage, draw, {"source": source, "destination": destination}
        self.stop, self.threads, self.undo, self.log = threading.Event(), [], [], []
        self.unreached: list[str] = []  # fault points
        self.lock = threading.Lock()
        self.move = None

    # ---- the run's three moments

    def begin(self):
        for fault in self.draw.faults:
            if fault.kind == "point":
                name, _, order = fault.what.partition(" ")
                self.put_point(name, order)
            elif fault.kind == "delay":
                self.stage.lab.shape(self.hosts[fault.side].name, delay=fault.what)
                self.later(lambda host=self.hosts[fault.side]: self.stage.lab.clear_shape(host.name))
            elif fault.when == "point":
                self.put_point(fault.at, f"stall {POINT_STALL}")
            elif fault.kind == "program":
                self.spawn(self.strike, fault)

    def started(self, move):
        self.move = move
        for fault in self.draw.faults:
            if fault.kind not in ("point", "delay") and (fault.kind != "program" or fault.when == "point"):
                self.spawn(self.wait_and_do, fault)

    def busy(self) -> bool:
        """Something is still to happen, or lasts."""
        return any(t.is_alive() for t in self.threads) or any(any(h.path(POINTS_DIR).iterdir()) for h in self.hosts.values())

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        for undo in reversed(self.undo):
            undo()
        self.undo.clear()
        for host in self.hosts.values():
            left = sorted(p.name for p in host.path(POINTS_DIR).iterdir())
            self.unreached += left
            for point in left:
                host.path(f"{POINTS_DIR}/{point}").unlink(missing_ok=True)

    # ---- waiting for the moment

    def spawn(self, target, fault: Fault):
        thread = threading.Thread(target=self.guarded, args=(target, fault), daemon=True)
        self.threads.append(thread)
        thread.start()

    def guarded(self, target, fault: Fault):
        try:
            target(fault)
        except (LabError, OSError) as e:
            self.note(fault, f"could not be done: {e}")

    def wait_and_do(self, fault: Fault):
        if fault.when == "phase" and not self.wait_phase(fault.at):
            return
        if fault.when == "point" and not self.wait_point(fault.at):
            return
        if self.stop.wait(fault.delay):
            return
        getattr(self, "do_" + fault.kind.replace("-", "_"))(fault, self.hosts[fault.side])

    def wait_phase(self, phase: str) -> bool:
        end = time.monotonic() + REACH
        while time.monotonic() < end and not self.stop.is_set():
            if any(line.get("phase") == phase for line in list(self.move.lines)):
                return True
            if not self.move.reader.is_alive():
                return False
            time.sleep(0.003)
        return False

    def wait_point(self, point: str) -> bool:
        path = self.point_path(point)
        end = time.monotonic() + REACH
        while time.monotonic() < end and not self.stop.is_set():
            if not path.exists():
                return True
            time.sleep(0.003)
        return False

    def point_path(self, point: str):
        side = "source" if point.startswith("source") else "destination"
        return self.hosts[side].path(f"{POINTS_DIR}/{point}")

    def put_point(self, point: str, order: str):
        self.point_path(point).write_text(order, encoding="ascii")

    def note(self, fault: Fault, text: str):
        with self.lock:
            self.log.append(f"{time.monotonic():.3f} {fault}: {text}")

    def later(self, undo):
        with self.lock:
            self.undo.append(undo)

    def hold(self, fault: Fault, undo):
        """The fault lasts as long as it was drawn, or until the move is over."""
        lock, done = threading.Lock(), []

        def once():
            with lock:
                if not done:
                    done.append(True)
                    undo()
        self.later(once)
        self.note(fault, "begins")
        self.stop.wait(fault.seconds)
        once()
        self.note(fault, "ends")

    # ---- the faults

    def strike(self, fault: Fault):
        host = self.hosts[fault.side]
        host.put("/usr/lib/transship-lab/strike.py", (self.stage.here / "strike.py").read_bytes())
        process = host.popen(["python3", "-I", "-S", "/usr/lib/transship-lab/strike.py", fault.what, str(1000 * fault.delay), str(REACH)],
                             stdout=-1, text=True)
        process.stdout.readline()
        while process.poll() is None and not self.stop.wait(0.05):
            pass
        process.kill()
        pid = process.communicate()[0].strip()
        if pid and pid != "0":
            self.note(fault, f"killed {pid}")
            if fault.what == "conmon":
                self.stage.maimed = True

    def do_program(self, fault: Fault, host: Host):
        self.strike(fault)

    def do_daemon(self, fault: Fault, host: Host):
        pid = deploy.daemon_pid(host.record)
        if pid:
            host.run(["kill", "-KILL", pid], check=False)
            self.note(fault, f"killed {pid}")

    def do_stop(self, fault: Fault, host: Host):
        pid = deploy.daemon_pid(host.record)
        if not pid:
            return
        host.run(["kill", "-STOP", pid], check=False)
        self.hold(fault, lambda: host.run(["kill", "-CONT", pid], check=False))

    def do_cut(self, fault: Fault, host: Host):
        other = self.other(fault)
        self.drop(fault, host, f"ip saddr {other.address} drop", f"ip daddr {other.address} drop")

    def do_one_way(self, fault: Fault, host: Host):
        self.drop(fault, host, "", f"ip daddr {self.other(fault).address} drop")

    def do_alone(self, fault: Fault, host: Host):
        self.drop(fault, host, 'iifname "eth0" drop', 'oifname "eth0" drop')

    def drop(self, fault: Fault, host: Host, incoming: str, outgoing: str):
        rules = [("input", incoming), ("output", outgoing), ("forward", outgoing), ("forward", incoming)]
        chains = "".join(f"chain c{n} {{ type filter hook {hook} priority -350; {rule}; }}\n" for n, (hook, rule) in enumerate(rules) if rule)
        host.run(["nft", f"table ip lab_cut {{\n{chains}}}"])
        self.hold(fault, lambda: host.run("nft delete table ip lab_cut", check=False))

    def other(self, fault: Fault) -> Host:
        return self.hosts["destination" if fault.side == "source" else "source"]

    def do_disk(self, fault: Fault, host: Host):
        self.fill(fault, host, {"storage": STORAGE, "state": STATE}[fault.what])

    def do_images(self, fault: Fault, host: Host):
        found = host.run("ls -d /run/transship/moves/*", check=False).stdout.split()
        if found:
            self.fill(fault, host, found[0])

    def fill(self, fault: Fault, host: Host, directory: str):
        """Only file systems that are small: see Stage, and a move's own."""
        script = (f"d={directory}; free=$(df --output=avail -B1 $d | tail -1); test $free -lt 2000000000 && "
                  "{ fallocate -l $free $d/lab-filler; head -c 100000 /dev/zero >> $d/lab-filler; }")
        host.run(script, check=False)
        self.hold(fault, lambda: host.run(f"rm -f {directory}/lab-filler", check=False))

    def do_hook(self, fault: Fault, host: Host):
        true = host.get(HOOK)
        host.put(HOOK, "#!/bin/sh\necho 'the router is being mended' >&2; exit 1\n", 0o755)
        self.hold(fault, lambda: host.put(HOOK, true, 0o755))

    def do_clock(self, fault: Fault, host: Host):
        """It stays so for the rest of the run."""
        host.path(CLOCK).write_bytes(int(fault.what).to_bytes(8, "little", signed=True))
        self.note(fault, "jumped")
        self.later(lambda: host.path(CLOCK).write_bytes(bytes(8)))

    def do_engine(self, fault: Fault, host: Host):
        whose, signal = fault.what.split()
        if whose == "own":  # the daemon starts it again when it needs it
            host.run(f"kill -{signal} $(cut -d' ' -f1 {PODMAN_PID})", check=False)
        else:
            host.stop_service("podman")
            services.wait_until("the end of podman", lambda: not host.services()["podman"]["pid"])
            ask_init(host.record, services.PODMAN)
        self.note(fault, "done")
