"""Puts the programs into the clouds and starts the daemon."""

import json
import os
from pathlib import Path

from . import config, namespace
from .errors import LabError
from .run import run
from .services import order, wait_until

# name in the build tree -> place on a host
INSTALLED = {name: f"/usr/bin/{name}" for name in ("transshipd", "transship", "transship-runtime", "transship-pager", "transship-tar")}
INSTALLED["libtransship-criu.so"] = "/usr/lib/transship/libtransship-criu.so"
PROGRAMS = (*INSTALLED,)
DEFAULT_BUILD = config.BUILD / "bin"
CONFIG = "/etc/transship/transshipd.toml"
POLICY = "/etc/transship/policy.toml"
SANITIZER_LOG = "sanitizer"  # cmake/TransshipTargets.cmake says so to programs that have a sanitizer in them
DAEMON = order("transshipd", ["/usr/bin/transshipd"], log="/var/log/transship/transshipd.log", restart=False)


def programs_exist(build: Path = DEFAULT_BUILD) -> bool:
    return all((build / name).is_file() for name in PROGRAMS)


def deploy(lab_state: dict, build: Path = DEFAULT_BUILD) -> None:
    """Stops the daemon on every cloud, replaces programs and configuration, starts it again."""
    if not programs_exist(build):
        raise LabError(f"{build} does not hold all of " + ", ".join(PROGRAMS), hint="build first, or give --build DIRECTORY")
    hosts = [namespace.host_of(lab_state, name) for name in config.CLOUDS]
    for host in hosts:
        deploy_to(host, build)
    pin_all(hosts)


def pin_all(hosts: list[dict]) -> None:
    """Every cloud becomes every other one's peer, by the keys that their daemons have made."""
    for host in hosts:
        wait_until(f"transshipd on {host['name']}", lambda host=host: daemon_answers(host))
    keys = {host["name"]: node_info(host)["fingerprint"] for host in hosts}
    for host in hosts:
        for peer in hosts:
            if peer is not host:
                add = ["transship", "peer", "add", peer["name"], peer["address"], "--fingerprint", keys[peer["name"]]]
                run(namespace.enter(host, add), timeout=20)


def use_cutover(hosts: list[dict], driver: str) -> None:
    """Gives the daemons another cutover driver, and waits until they answer; with "tunnel" also until the tunnels do."""
    configure(hosts, driver)
    pin_all(hosts)
    for host in hosts if driver == "tunnel" else []:
        for peer in hosts:
            if peer is not host:
                wait_until(f"{peer['name']} in the tunnel of {host['name']}", lambda host=host, peer=peer: tunnel_answers(host, peer))


def configure(hosts: list[dict], driver: str, more: str = "") -> None:
    """Restarts the daemons with this configuration, `more` at its end, and waits until they answer."""
    for host in hosts:
        stop_daemon(host)
        install(host, CONFIG, (configuration(host, driver) + more).encode(), 0o644)
        start_daemon(host)
    for host in hosts:
        wait_until(f"transshipd on {host['name']}", lambda host=host: daemon_answers(host))


def tunnel_answers(host: dict, peer: dict) -> bool:
    found = run(namespace.enter(host, ["transship", "peer", "check", peer["name"], "--json"]), timeout=60)
    return json.loads(found.stdout)["tunnel_rtt_ms"] is not None


def daemon_answers(host: dict) -> bool:
    if not daemon_pid(host):
        log = namespace.path_inside(host, "/var/log/transship/transshipd.log")
        words = log.read_text(errors="replace")[-2000:]
        raise LabError("\n".join([f"transshipd on {host['name']} ended: {words}", *reports_of(host)]))
    return namespace.path_inside(host, "/run/transship/transshipd.sock").exists()


def node_info(host: dict) -> dict:
    return json.loads(run(namespace.enter(host, ["transship", "node", "info", "--json"]), timeout=20).stdout)


def deploy_to(host: dict, build: Path) -> None:
    stop_daemon(host)
    for program, place in INSTALLED.items():
        install(host, place, (build / program).read_bytes(), 0o755)
    install(host, CONFIG, configuration(host, "hook").encode(), 0o644)
    install(host, POLICY, (config.SOURCE / "lab/policy.toml").read_bytes(), 0o644)
    start_daemon(host)


def configuration(host: dict, cutover: str) -> str:
    template = (config.SOURCE / "lab/transshipd.toml").read_text()
    return template.replace("@NAME@", host["name"]).replace("@ADDRESS@", host["address"]).replace("@CUTOVER@", cutover)


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


def stop_daemons(lab_state: dict) -> None:
    for name in config.CLOUDS:
        stop_daemon(namespace.host_of(lab_state, name))


def take_sanitizer_reports(lab_state: dict) -> list[str]:
    """What programs with a sanitizer in them have found wrong since the last call. No other programs write any."""
    return [report for name in config.CLOUDS for report in reports_of(namespace.host_of(lab_state, name))]


def reports_of(host: dict) -> list[str]:
    """But those of a program that was killed while it looked for leaks, at its end: they say that it was."""
    reports = []
    for path in sorted(namespace.path_inside(host, "/var/log/transship").glob(SANITIZER_LOG + ".*")):
        report = path.read_text(errors="replace")
        path.unlink()
        lines = [line for line in report.splitlines() if "==HINT:" not in line]
        if len(lines) != 1 or not lines[0].endswith("LeakSanitizer has encountered a fatal error."):
            reports.append(f"{host['name']}: {report}")
    return reports


def install(host: dict, path: str, data: bytes, mode: int) -> None:
    """Writes a file into a host in one step, so that a running program keeps its old one."""
    target = namespace.path_inside(host, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".new")
    temporary.write_bytes(data)
    temporary.chmod(mode)
    os.replace(temporary, target)
