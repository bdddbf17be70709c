"""Rate, delay and loss of a host's link.

Rate: tbf on both ends of the link. Delay and loss: the forwarder takes the place of the bridge that joins the two halves
of the link (see network.py). All apply to each direction by itself: a delay of 20 ms adds 40 ms to a round trip.
"""

import re

from . import config, namespace, network, state
from .config import HOSTS
from .errors import LabError
from .namespace import ask_init, host_of, in_network
from .run import run
from .services import wait_until

RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
TIME_UNITS = {"us": 1, "ms": 10**3, "s": 10**6}
FORWARDER = "/usr/lib/transship-lab/lab-forwarder"

# A packet as the kernel hands it over can hold 64 KiB; a smaller bucket would make tbf cut each into frames.
SMALLEST_BURST = 2 * 65536
BURST_TIME = 0.001  # s: what may go at once after silence. Timers are late by less than this.
QUEUE_TIME = 0.020  # s of data at the link's rate: fills the pipe for one flow, without a second of delay
SMALLEST_QUEUE = 65536 + 16 * 1514


def parse(text: str, units: dict[str, int], what: str, example: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text.strip().lower())
    if not match or match[2] not in units:
        raise LabError(f"{text!r} is not a {what}", hint=f"write it like {example}; units are {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def parse_rate(text: str) -> int:
    """bits per second"""
    rate = int(parse(text, RATE_UNITS, "rate", "1gbit or 100mbit"))
    if not 8_000 <= rate <= 100 * 10**9:
        raise LabError(f"the rate {text} is out of range", hint="from 8kbit to 100gbit")
    return rate


def parse_delay(text: str) -> int:
    """microseconds"""
    delay = int(parse(text, TIME_UNITS, "delay", "20ms"))
    if delay > 10 * 10**6:
        raise LabError(f"the delay {text} is out of range", hint="at most 10s")
    return delay


def parse_loss(text: str) -> float:
    """share of packets, 0 to 1"""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if not match or float(match[1]) > 100:
        raise LabError(f"{text!r} is not a loss", hint="write it like 0.1%, at most 100%")
    return float(match[1]) / 100


def change(lab: str, name: str, *, rate: str | None = None, delay: str | None = None, loss: str | None = None) -> dict:
    """Sets what is given, leaves the rest. Returns the whole shape of the host."""
    check_shapeable(name)
    with state.locked(lab):
        lab_state = load(lab)
        wanted = dict(lab_state["shape"].get(name, {}))
        for key, value, parser in (("rate", rate, parse_rate), ("delay", delay, parse_delay), ("loss", loss, parse_loss)):
            if value:
                parser(value)
                wanted[key] = value
        apply(lab_state, name, wanted)
    return wanted


def clear(lab: str, name: str) -> None:
    check_shapeable(name)
    with state.locked(lab):
        apply(load(lab), name, {})


def check_shapeable(name: str) -> None:
    if name not in HOSTS:
        raise LabError(f"{name!r} has no link that could be shaped", hint="hosts with a link are " + ", ".join(HOSTS))


def load(lab: str) -> dict:
    found = state.load(lab)
    if found is None:
        raise LabError(f"the lab {lab!r} is not up")
    return found


def apply(lab_state: dict, name: str, wanted: dict) -> None:
    """Makes the link as wanted and writes that down."""
    old = lab_state["shape"].get(name, {})
    set_rate(lab_state, name, wanted.get("rate"))
    wire = ("delay", "loss")
    if any(old.get(k) != wanted.get(k) for k in wire):
        wan = host_of(lab_state, config.WAN)
        stop_forwarder(wan, name)
        if any(wanted.get(k) for k in wire):
            start_forwarder(wan, name, wanted)
    lab_state["shape"][name] = wanted
    state.save(lab_state["name"], lab_state)


def set_rate(lab_state: dict, name: str, rate: str | None) -> None:
    ends = ((in_network(host_of(lab_state, name), []), "eth0"), (network.in_router(host_of(lab_state, config.WAN)), name))
    for prefix, device in ends:
        if rate:
            run([*prefix, "tc", "qdisc", "replace", "dev", device, "root", *token_bucket(parse_rate(rate))])
        elif "tbf" in run([*prefix, "tc", "qdisc", "show", "dev", device]).stdout:
            run([*prefix, "tc", "qdisc", "del", "dev", device, "root"])


def token_bucket(rate: int) -> list[str]:
    burst = max(SMALLEST_BURST, int(rate / 8 * BURST_TIME))
    queue = max(SMALLEST_QUEUE, int(rate / 8 * QUEUE_TIME))
    return ["tbf", "rate", f"{rate}bit", "burst", str(burst), "limit", str(queue)]


def forwarder_binary() -> bytes:
    path = config.BUILD / "bin/lab-forwarder"
    if not path.is_file():
        raise LabError(f"delay and loss need the program {path}, which is not built", hint="run ./dev build first")
    return path.read_bytes()


def start_forwarder(wan: dict, name: str, wanted: dict) -> None:
    """Takes both halves of the link off the bridge and lets the forwarder carry packets between them."""
    from .deploy import install

    install(wan, FORWARDER, forwarder_binary(), 0o755)
    argv = ["ip", "netns", "exec", network.LINE, FORWARDER, "--left", f"{name}-h", "--right", f"{name}-r",
            "--delay-us", str(parse_delay(wanted["delay"]) if wanted.get("delay") else 0),
            "--loss", str(parse_loss(wanted["loss"]) if wanted.get("loss") else 0.0)]
    if wanted.get("rate"):
        argv += ["--rate-bits", str(parse_rate(wanted["rate"]))]
    ready = f"/run/forwarder-{name}.ready"
    network.ip_batch(network.in_line(wan), [f"link set {name}-h nomaster", f"link set {name}-r nomaster"])
    ask_init(wan, {"op": "start", "name": service(name), "argv": [*argv, "--ready-file", ready], "restart": True,
                   "log": f"/var/log/{service(name)}.log"})
    wait_until(f"the forwarder of {name}", namespace.path_inside(wan, ready).exists, f"/var/log/{service(name)}.log in wan")


def stop_forwarder(wan: dict, name: str) -> None:
    """Back to the plain bridge."""
    running = {s["name"]: s["pid"] for s in ask_init(wan, {"op": "list"})["services"]}
    if running.get(service(name)):
        ask_init(wan, {"op": "stop", "name": service(name)})
        wait_until(f"the end of the forwarder of {name}", lambda: not pid_of(wan, service(name)))
    namespace.path_inside(wan, f"/run/forwarder-{name}.ready").unlink(missing_ok=True)
    network.ip_batch(network.in_line(wan), [f"link set {name}-h master {name}", f"link set {name}-r master {name}"])


def pid_of(host: dict, wanted: str) -> int:
    return next((s["pid"] for s in ask_init(host, {"op": "list"})["services"] if s["name"] == wanted), 0)


def service(name: str) -> str:
    return f"forwarder-{name}"
