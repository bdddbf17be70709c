"""The commands that change or describe a lab."""

import argparse
import json
import signal
import sys
from pathlib import Path

from . import deploy as deploying
from . import shape as shaping
from . import etcd, images, lifecycle, routes, state, status
from .cli import load_lab
from .errors import LabError


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab.py", description="Hosts made of namespaces, joined by a router.")
    parser.add_argument("--name", metavar="LAB", help="which lab (default: lab); several can be up at once")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring the lab up")
    up.add_argument("--rate", default="", help="shape every host's link, for example 1gbit")
    up.add_argument("--etcd", action="store_true", help="with three nodes of etcd on registry, by which moves are decided")
    commands.add_parser("down", help="take the lab down; also cleans up after a failed up")
    commands.add_parser("exec", help="run a command in a host: exec [-d] HOST COMMAND...")
    status = commands.add_parser("status", help="show hosts, addresses, routes, shapes")
    status.add_argument("--json", action="store_true")
    route = commands.add_parser("route", help="send a container's address to a host (route ADDRESS HOST | --delete ADDRESS)")
    route.add_argument("address")
    route.add_argument("host", nargs="?")
    route.add_argument("--delete", action="store_true")
    shape = commands.add_parser("shape", help="rate, delay and loss of a host's link, each direction by itself")
    shape.add_argument("host")
    shape.add_argument("--rate", help="for example 1gbit")
    shape.add_argument("--delay", help="for example 20ms, each way")
    shape.add_argument("--loss", help="for example 0.1%%")
    shape.add_argument("--clear", action="store_true", help="back to a plain link (then what is given is set)")
    image = commands.add_parser("image", help="build an image from its recipe, and push it when the lab is up")
    image.add_argument("image")
    deploy = commands.add_parser("deploy", help="install the programs in the clouds and (re)start the daemon")
    deploy.add_argument("--build", type=Path, default=deploying.DEFAULT_BUILD, metavar="DIR", help="where the programs are")
    return parser


def dispatch(lab: str, words: list[str]) -> int:
    options = build_parser().parse_args(words)
    # As an exception, so that an `up` that is told to end cleans up like one that fails.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    match options.command:
        case "up":
            lifecycle.up(lab, options.rate, say)
            if options.etcd:
                start_etcd(lab)
        case "down":
            lifecycle.down(lab, say)
        case "status":
            facts = status.collect(lab)
            print(json.dumps(facts, indent=1) if options.json else status.render(facts))
        case "route":
            do_route(lab, options)
        case "shape":
            do_shape(lab, options)
        case "image":
            do_image(lab, options.image)
        case "deploy":
            with state.locked(lab):
                deploying.deploy(load_lab(lab), options.build)
    return 0


def start_etcd(lab: str) -> None:
    try:
        etcd.start(load_lab(lab))
        etcd.use(load_lab(lab))
    except BaseException:
        lifecycle.down(lab)
        raise
    say("etcd answers, and the daemons decide by it")


def do_route(lab: str, options) -> None:
    if options.delete:
        routes.delete(load_lab(lab), options.address)
    elif options.host is None:
        raise LabError("route needs an address and a host", hint="for example: route 10.88.0.10 azure")
    else:
        routes.put(load_lab(lab), options.address, options.host)


def do_image(lab: str, name: str) -> None:
    layout = images.ensure(name, say)
    if state.load(lab) is None:
        print(layout)
    else:
        print(images.push(load_lab(lab), name, layout))


def do_shape(lab: str, options) -> None:
    if options.clear:
        shaping.clear(lab, options.host)
    shape = shaping.change(lab, options.host, rate=options.rate, delay=options.delay, loss=options.loss)
    print(f"{options.host}: " + (" ".join(f"{k} {v}" for k, v in shape.items()) or "not shaped"))
