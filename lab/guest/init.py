"""PID 1 of a lab host: reaps, keeps services running, and takes orders on a UNIX socket.

An order is one JSON object on one line, the answer as well:
  {"op": "start", "name": N, "argv": [...], "log": PATH, "restart": bool, "env": {...}}   -> {"ok": true, "pid": P}
      and "restart_after": seconds, else it takes longer each time
  {"op": "stop", "name": N}   {"op": "list"}   {"op": "spawn", "argv": [...], "log": PATH}
Pids are those inside the host. Only the host's own root can reach the socket.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time

SOCKET = "/run/transship-lab/init.sock"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb",
}
LONGEST_ORDER = 1 << 20
STOP_PATIENCE = 3.0  # seconds between SIGTERM and SIGKILL
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0


class Service:
    def __init__(self, order):
        self.name = order["name"]
        self.argv = order["argv"]
        self.log = order.get("log", "/dev/null")
        self.env = order.get("env", {})
        self.restart = order.get("restart", True)
        self.pid = 0
        self.status = None      # how it ended last
        self.starts = 0
        self.restart_after = order.get("restart_after")
        self.backoff = FIRST_BACKOFF
        self.started_at = 0.0
        self.start_again_at = 0.0
        self.kill_at = 0.0      # after a stop: when patience ends
        self.stopping = False

    def start(self):
        self.pid = spawn(self.argv, self.log, self.env)
        self.starts += 1
        self.started_at = time.monotonic()
        self.start_again_at = 0.0

    def ended(self, status):
        self.pid, self.status, self.kill_at = 0, status, 0.0
        now = time.monotonic()
        if now - self.started_at > 10:
            self.backoff = FIRST_BACKOFF
        if self.restart and not self.stopping:
            self.start_again_at = now + (self.backoff if self.restart_after is None else self.restart_after)
            self.backoff = min(self.backoff * 2, LAST_BACKOFF)

    def facts(self):
        return {"name": self.name, "pid": self.pid, "starts": self.starts, "status": self.status}


def spawn(argv, log, env):
    """Starts a program in a session of its own, output appended to the log. Returns its pid."""
    os.makedirs(os.path.dirname(log) or "/", exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawnp(
            argv[0], argv, {**ENVIRONMENT, **env}, setsid=True, setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)],
        )
    finally:
        os.close(out)
        os.close(null)


class Init:
    def __init__(self):
        self.services = {}
        self.selector = selectors.DefaultSelector()
        self.wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.wake_read, selectors.EVENT_READ)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(SOCKET)
        os.chmod(SOCKET, 0o600)
        self.listener.listen(16)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self):
        while True:
            for key, _ in self.selector.select(self.pause()):
                if key.fd == self.wake_read:
                    os.read(self.wake_read, 512)
                else:
                    self.serve_one()
            self.reap()
            self.tend()

    def pause(self):
        times = [t for s in self.services.values() for t in (s.start_again_at, s.kill_at) if t]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.services.values():
                if service.pid == pid:
                    service.ended(os.waitstatus_to_exitcode(status))

    def tend(self):
        now = time.monotonic()
        for service in self.services.values():
            if service.kill_at and now >= service.kill_at:
                service.kill_at = 0.0
                os.kill(service.pid, signal.SIGKILL)
            if service.start_again_at and now >= service.start_again_at:
                try:
                    service.start()
                except OSError as e:
                    print(f"cannot start {service.name} again: {e}", file=sys.stderr, flush=True)
                    service.ended(127)

    def serve_one(self):
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(2.0)
            try:
                answer = self.obey(json.loads(read_line(connection)))
            except (OSError, ValueError, KeyError, TypeError) as e:
                answer = {"ok": False, "error": f"{type(e).__name__}: {e}"}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                pass  # whoever asked has gone

    def obey(self, order):
        match order["op"]:
            case "start":
                return self.start(order)
            case "stop":
                return self.stop(order["name"])
            case "spawn":
                return {"ok": True, "pid": spawn(order["argv"], order.get("log", "/dev/null"), order.get("env", {}))}
            case "list":
                self.reap()
                return {"ok": True, "services": [s.facts() for s in self.services.values()]}
        return {"ok": False, "error": f"unknown op {order['op']!r}"}

    def start(self, order):
        old = self.services.get(order["name"])
        if old is not None and old.pid:
            return {"ok": False, "error": f"{old.name} is running already as pid {old.pid}"}
        service = Service(order)
        service.start()
        self.services[service.name] = service
        return {"ok": True, "pid": service.pid}

    def stop(self, name):
        service = self.services.get(name)
        if service is None:
            return {"ok": False, "error": f"no service is called {name!r}"}
        service.stopping, service.start_again_at = True, 0.0
        if service.pid:
            os.kill(service.pid, signal.SIGTERM)
            service.kill_at = time.monotonic() + STOP_PATIENCE
        return {"ok": True, "pid": service.pid}


def read_line(connection):
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise ValueError("the order has no end of line")
        data += part
        if len(data) > LONGEST_ORDER:
            raise ValueError(f"the order is longer than {LONGEST_ORDER} bytes")
    return data


def main():
    init = Init()
    ready = int(sys.argv[1])
    os.write(ready, b"ready\n")
    os.close(ready)
    init.run()


main()
