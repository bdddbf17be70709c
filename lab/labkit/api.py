"""The lab for Python programs: tests and the demo.

  lab = Lab("mine"); lab.up()
  lab.host("aws").run(["podman", "ps"]).stdout
  lab.route("10.88.0.10", "azure"); lab.shape("azure", rate="1gbit", delay="20ms"); lab.down()
"""

import os
import shlex
import subprocess
from pathlib import Path

from . import deploy, etcd, images, lifecycle, namespace, routes, shape, state, status
from .config import ALL_HOSTS, CLOUDS, DEFAULT_LAB, REGISTRY, check_lab_name, host_spec
from .errors import LabError

__all__ = ["CLOUDS", "REGISTRY", "CommandFailed", "Host", "Lab", "LabError"]


class CommandFailed(LabError):
    """A command in a host ended with another code than 0; `result` has its output."""

    def __init__(self, host: str, argv: list[str], result: subprocess.CompletedProcess):
        super().__init__(
            f"`{shlex.join(argv)}` on {host} failed with {result.returncode}\n"
            f"stdout: {str(result.stdout)[-2000:]}\nstderr: {str(result.stderr)[-2000:]}"
        )
        self.result = result


class Host:
    """One host of a lab that is up."""

    def __init__(self, lab: "Lab", name: str):
        self.lab = lab
        self.name = name
        self.spec = host_spec(name)
        self.address = self.spec.address
        self.address6 = self.spec.address6

    @property
    def record(self) -> dict:
        return namespace.host_of(self.lab.state, self.name)

    @property
    def pid(self) -> int:
        """The init of the host, as this machine counts."""
        return self.record["pid"]

    @property
    def cgroup(self) -> Path:
        return Path(self.record["cgroup"])

    def run(self, argv, *, input=None, timeout=30.0, check=True, env=None, text=True) -> subprocess.CompletedProcess:
        """Runs a command and captures its output. With a list the words are taken as they are, a string goes to sh -c."""
        argv = ["/bin/sh", "-c", argv] if isinstance(argv, str) else [str(a) for a in argv]
        kwargs = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        if text:
            kwargs["errors"] = "replace"
        try:
            result = subprocess.run(namespace.enter(self.record, argv, env), capture_output=True, timeout=timeout, text=text, **kwargs)
        except subprocess.TimeoutExpired as e:
            raise LabError(f"`{shlex.join(argv)}` on {self.name} did not finish in {timeout:g} s; "
                           f"stdout so far: {e.stdout!r}, stderr: {e.stderr!r}") from e
        if check and result.returncode != 0:
            raise CommandFailed(self.name, argv, result)
        return result

    def popen(self, argv, *, env=None, **kwargs) -> subprocess.Popen:
        """Starts a command; killing the returned process kills the command."""
        argv = ["/bin/sh", "-c", argv] if isinstance(argv, str) else [str(a) for a in argv]
        return subprocess.Popen(namespace.enter(self.record, argv, env), **kwargs)

    def spawn(self, argv, log="/var/log/spawn.log", env=None) -> int:
        """Starts a command that nobody waits for; returns its pid inside the host."""
        order = {"op": "spawn", "argv": [str(a) for a in argv], "log": log, "env": env or {}}
        return namespace.ask_init(self.record, order)["pid"]

    def start_service(self, name, argv, *, restart=False, env=None, log="") -> int:
        order = {"op": "start", "name": name, "argv": argv, "log": log or f"/var/log/{name}.log", "restart": restart, "env": env or {}}
        return namespace.ask_init(self.record, order)["pid"]

    def stop_service(self, name) -> None:
        namespace.ask_init(self.record, {"op": "stop", "name": name})

    def services(self) -> dict[str, dict]:
        """name -> {pid (0: not running), starts, status} of what the host's init looks after."""
        return {s["name"]: s for s in namespace.ask_init(self.record, {"op": "list"})["services"]}

    def path(self, path: str) -> Path:
        """Where a file of the host is seen from here. Follows no link that leaves the host: use for our own files only."""
        return namespace.path_inside(self.record, path)

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        deploy.install(self.record, path, data.encode() if isinstance(data, str) else data, mode)

    def get(self, path: str) -> bytes:
        return self.path(path).read_bytes()


class Lab:
    def __init__(self, name: str = DEFAULT_LAB):
        self.name = check_lab_name(name)

    @property
    def state(self) -> dict:
        found = state.load(self.name)
        if found is None:
            raise LabError(f"the lab {self.name!r} is not up")
        return found

    @property
    def directory(self) -> Path:
        """Where the lab keeps its files: hosts/HOST/upper is what a host has changed of its root."""
        return state.lab_dir(self.name)

    def up(self, rate: str = "", say=lambda text: None) -> "Lab":
        lifecycle.up(self.name, rate, say)
        return self

    def down(self) -> None:
        lifecycle.down(self.name)

    def is_up(self) -> bool:
        return state.load(self.name) is not None

    def host(self, name: str) -> Host:
        return Host(self, name)

    def hosts(self) -> list[Host]:
        return [Host(self, name) for name in ALL_HOSTS]

    def clouds(self) -> list[Host]:
        return [Host(self, name) for name in CLOUDS]

    def status(self) -> dict:
        return status.collect(self.name)

    def leftovers(self) -> list[str]:
        return lifecycle.leftovers(self.name)

    def route(self, address: str, host: str) -> None:
        routes.put(self.state, address, host)

    def unroute(self, address: str) -> None:
        routes.delete(self.state, address)

    def routes(self) -> dict[str, str]:
        """container address -> host address."""
        return {r["address"]: r["via"] for r in routes.listed(self.state)}

    def shape(self, host: str, *, rate: str | None = None, delay: str | None = None, loss: str | None = None) -> dict:
        """Sets what is given and leaves the rest; returns the host's shape."""
        return shape.change(self.name, host, rate=rate, delay=delay, loss=loss)

    def clear_shape(self, host: str) -> None:
        shape.clear(self.name, host)

    def image(self, name: str) -> str:
        """Builds an image (if need be), pushes it, returns its reference."""
        return images.push(self.state, name, images.ensure(name))

    def use_cutover(self, driver: str) -> None:
        """"hook" (as after deploy: the router's routes are changed) or "tunnel" (nobody in between knows of a move)."""
        deploy.use_cutover([h.record for h in self.clouds()], driver)

    def start_etcd(self, data: str = etcd.ON_TMPFS) -> None:
        """Three nodes on `registry`, empty. Nobody uses them yet."""
        etcd.start(self.state, data)

    def stop_etcd(self) -> None:
        etcd.stop(self.state)

    def use_arbiter(self, **options) -> None:
        """The daemons decide by etcd (labkit/etcd.py has the options)."""
        etcd.use(self.state, **options)

    def use_no_arbiter(self, **options) -> None:
        etcd.do_without(self.state, **options)

    def deploy(self, build: str | os.PathLike = deploy.DEFAULT_BUILD) -> None:
        with state.locked(self.name):
            deploy.deploy(self.state, Path(build))

    def stop_daemons(self) -> None:
        """Waits for their end, which is when the leak sanitizer looks for what they have lost."""
        deploy.stop_daemons(self.state)

    def take_sanitizer_reports(self) -> list[str]:
        return deploy.take_sanitizer_reports(self.state)
