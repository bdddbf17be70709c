"""Entering a host: building the command line that does it.

Speed matters, tests do this thousands of times, so no Python runs on the way: a shell joins the host's cgroup (so that
`down` finds the process), nsenter changes the namespaces, setpriv ties the process's life to nsenter's, env clears the
environment.
"""

import json
import os
import socket
from pathlib import Path

from . import cgroup, state
from .errors import LabError

ENVIRONMENT = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
]
JOIN = 'echo 0 > "$0" || exit 125; exec "$@"'


def host_of(lab_state: dict, name: str) -> dict:
    host = lab_state["hosts"].get(name)
    if host is None:
        raise LabError(f"no host is called {name!r}", hint="hosts are " + ", ".join(lab_state["hosts"]))
    if not state.alive(host):
        raise LabError(f"host {name} of lab {lab_state['name']!r} is dead (its init, pid {host['pid']}, is gone)",
                       hint=f"its last words may be in {state.lab_dir(lab_state['name'])}/hosts/{name}; run `down`, then `up`")
    return host


def enter(host: dict, argv: list[str], env: dict[str, str] | None = None) -> list[str]:
    """The command that runs argv in all namespaces of a host."""
    extra = [f"{k}={v}" for k, v in (env or {}).items()]
    procs = f"{host['cgroup']}/{cgroup.LEAF}/cgroup.procs"
    return [
        "/bin/sh", "-c", JOIN, procs,
        "/usr/bin/nsenter", f"--target={host['pid']}", "--mount", "--uts", "--ipc", "--net", "--pid",
        "--cgroup", "--wdns=/root", "--", "/usr/bin/setpriv", "--pdeathsig", "KILL", "/usr/bin/env", "-i", *ENVIRONMENT, *extra, *argv,
    ]


def in_network(host: dict, argv: list[str]) -> list[str]:
    """Runs argv in a host's network only, with our own files and our own view of processes."""
    return ["/usr/bin/nsenter", f"--net=/proc/{host['pid']}/ns/net", "--", *argv]


def path_inside(host: dict, path: str | Path) -> Path:
    """Where a path of the host is seen from here. Only for paths no container can turn into a link."""
    return Path(f"/proc/{host['pid']}/root") / str(path).lstrip("/")


def ask_init(host: dict, order: dict, timeout: float = 10.0) -> dict:
    """Gives an order to the host's init and returns its answer."""
    path = path_inside(host, "/run/transship-lab/init.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        try:
            s.connect(str(path))
            s.sendall(json.dumps(order).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                part = s.recv(65536)
                if not part:
                    break
                data += part
        except OSError as e:
            raise LabError(f"the init of {host['name']} does not answer at {path}: {e}") from e
    answer = json.loads(data or b'{"ok": false, "error": "no answer"}')
    if not answer["ok"]:
        raise LabError(f"the init of {host['name']} refused {order['op']} {order.get('name', '')}: {answer['error']}")
    return answer


def execute(host: dict, argv: list[str]) -> None:
    """Becomes the command; does not return."""
    line = enter(host, argv)
    os.execv(line[0], line)
