"""What the lab looks like: hosts, addresses and paths. Nothing here does anything."""

import os
import re
from collections import namedtuple
from pathlib import Path

from .errors import LabError

ROOT = Path(os.environ.get("TRANSSHIP_ROOT", "/var/lib/transship-root"))
LAB_DIR = Path(os.environ.get("TRANSSHIP_LAB_DIR", "/var/lib/transship-lab"))
IMAGES = Path(os.environ.get("TRANSSHIP_IMAGES", "/var/lib/transship-images"))
SOURCE = Path(__file__).resolve().parents[2]  # the checkout
GUEST = SOURCE / "lab" / "guest"              # files that are put into hosts

# Where programs are built; tests of another preset say so.
BUILD = Path(os.environ.get("TRANSSHIP_BUILD", SOURCE / "build/release"))

SANITIZED = BUILD.name in ("asan", "tsan")  # several times slower

ROUTE_PORT = 8179
REGISTRY_PORT = 5000
REGISTRY = f"registry.lab:{REGISTRY_PORT}"
DEFAULT_LAB = "lab"
WAN = "wan"


class HostSpec(namedtuple("HostSpec", "name role subnet")):
    """role: cloud, client, registry or router. subnet: second byte of the addresses; 0 for the router.

    (Not a dataclass: importing those takes as long as all the rest of `exec`.)
    """

    __slots__ = ()

    @property
    def address(self) -> str:
        return f"10.{self.subnet}.1.2"

    @property
    def gateway(self) -> str:
        return f"10.{self.subnet}.1.1"

    @property
    def address6(self) -> str:
        return f"fd00:{self.subnet}:1::2"

    @property
    def gateway6(self) -> str:
        return f"fd00:{self.subnet}:1::1"


HOSTS = {
    spec.name: spec
    for spec in (
        HostSpec("aws", "cloud", 10),
        HostSpec("azure", "cloud", 20),
        HostSpec("openstack", "cloud", 30),
        HostSpec("client", "client", 40),
        HostSpec("registry", "registry", 50),
    )
}
ROUTER = HostSpec(WAN, "router", 0)
ALL_HOSTS = {**HOSTS, WAN: ROUTER}
CLOUDS = [name for name, spec in HOSTS.items() if spec.role == "cloud"]


def host_spec(name: str) -> HostSpec:
    if name not in ALL_HOSTS:
        raise LabError(f"no host is called {name!r}", hint="hosts are " + ", ".join(ALL_HOSTS))
    return ALL_HOSTS[name]


def check_lab_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise LabError(
            f"{name!r} cannot be the name of a lab",
            hint="use 1 to 32 lower-case letters, digits and dashes, not a dash first",
            code=2,
        )
    return name
