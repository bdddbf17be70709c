"""Puts the programs into the clouds and starts the daemon."""

import os
from pathlib import Path

from . import config, namespace
from .errors import LabError
from .services import order, wait_until

PROGRAMS = ("transshipd", "transship", "transship-runtime")
DEFAULT_BUILD = config.BUILD / "bin"
DAEMON = order("transshipd", ["/usr/bin/transshipd"], log="/var/log/transship/transshipd.log", restart=False)


def programs_exist(build: Path = DEFAULT_BUILD) -> bool:
    return all((build / name).is_file() for name in PROGRAMS)


def deploy(lab_state: dict, build: Path = DEFAULT_BUILD) -> None:
    """Stops the daemon on every cloud, replaces programs and configuration, starts it again."""
    if not programs_exist(build):
        raise LabError(f"{build} does not hold all of " + ", ".join(PROGRAMS), hint="build first, or give --build DIRECTORY")
    for name in config.CLOUDS:
        deploy_to(namespace.host_of(lab_state, name), build)


def deploy_to(host: dict, build: Path) -> None:
    stop_daemon(host)
    for program in PROGRAMS:
        install(host, f"/usr/bin/{program}", (build / program).read_bytes(), 0o755)
    template = (config.SOURCE / "lab/transshipd.toml").read_text()
    text = template.replace("@NAME@", host["name"]).replace("@ADDRESS@", host["address"])
    install(host, "/etc/transship/transshipd.toml", text.encode(), 0o644)
    start_daemon(host)


def start_daemon(host: dict) -> None:
    namespace.ask_init(host, DAEMON)


def stop_daemon(host: dict) -> None:
    services = {s["name"]: s for s in namespace.ask_init(host, {"op": "list"})["services"]}
    if services.get("transshipd", {}).get("pid"):
        namespace.ask_init(host, {"op": "stop", "name": "transshipd"})
        wait_until(f"the end of transshipd on {host['name']}", lambda: not daemon_pid(host))


def daemon_pid(host: dict) -> int:
    """The daemon's pid inside the host, 0 when it does not run."""
    for service in namespace.ask_init(host, {"op": "list"})["services"]:
        if service["name"] == "transshipd":
            return service["pid"]
    return 0


def install(host: dict, path: str, data: bytes, mode: int) -> None:
    """Writes a file into a host in one step, so that a running program keeps its old one."""
    target = namespace.path_inside(host, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".new")
    temporary.write_bytes(data)
    temporary.chmod(mode)
    os.replace(temporary, target)
