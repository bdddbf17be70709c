"""What every system has in common."""

from demokit.subject import PodmanRedis
from labkit.api import Host, Lab
from labkit.errors import LabError

SOURCE, DESTINATION = "aws", "azure"
# One ssh connection for all, opened beforehand: logging in is not what is compared.
SSH_SOCKET = "/run/bench-ssh"
SSH = f"ssh -o ControlPath={SSH_SOCKET}"
WORK = "/var/tmp/bench"
# CRIU's own default wants the iptables program; nftables is there everywhere.
CRIU_CONFIG = "/etc/criu/runc.conf"
# Podman's rules on a host take the packets of a connection that they have not seen begin for invalid, or for new ones.
UNTRACKED = """
table inet bench {{
  chain before {{ type filter hook prerouting priority raw; ip saddr {0} notrack; ip daddr {0} notrack; }}
}}
"""


class System:
    """One way to move the container `redis` from source to destination.

    prepare() is done before the clock starts: what an operator would have set up long ago. move() is everything from the
    operator's word to the end, and returns its parts in ms. clean_up() is called after every prepare(), however it ended.
    """

    name = ""
    mode = ""
    note = ""
    has_daemon = False
    running_ms: float | None = None  # of the last move: until it ran on the destination, where that is known
    copied: tuple[int, float] | None = None  # of the last move, where known: bytes of memory, ms of the copying
    max_gap_kept: bool | None = None  # of the last move, where it aims at a longest gap: kept, or said before that it cannot be
    did = ""      # how the last move was done, when the system chooses itself
    contest = ""  # of systems with the same word here only the best stays after the first run

    def __init__(self, lab: Lab):
        self.lab = lab
        self.source, self.destination = lab.host(SOURCE), lab.host(DESTINATION)
        self.redis = PodmanRedis(lab)

    def prepare(self) -> None:
        pass

    def move(self) -> dict[str, float]:
        raise NotImplementedError

    def clean_up(self) -> None:
        pass


class ByHand(System):
    """Steps that an operator would type, or have in a script."""

    def prepare(self) -> None:
        for host in (self.source, self.destination):
            host.put(CRIU_CONFIG, "network-lock nftables\n")
            host.run(f"rm -rf {WORK} && mkdir -p {WORK}")
        self.destination.run(["nft", "-f", "-"], input=UNTRACKED.format(self.redis.address))
        self.source.run(f"{SSH} -o ControlMaster=yes -fN root@{DESTINATION} </dev/null >/dev/null 2>&1")

    def route_to_destination(self) -> None:
        """As the hook of a move does it."""
        env = {"TRANSSHIP_EVENT": "commit", "TRANSSHIP_DESTINATION_ADDRESS": self.destination.address,
               "TRANSSHIP_ADDRESSES": self.redis.address}
        self.destination.run(["/usr/lib/transship/hooks/lab-route"], env=env)

    def clean_up(self) -> None:
        failed = []
        for host, command in (
            (self.source, f"{SSH} -O exit root@{DESTINATION} 2>/dev/null; rm -rf {WORK} {CRIU_CONFIG}"),
            (self.destination, f"rm -rf {WORK} {CRIU_CONFIG}; nft delete table inet bench 2>/dev/null; true"),
        ):
            try:
                host.run(command)
            except LabError as e:
                failed.append(str(e))
        if failed:
            raise LabError("; ".join(failed))


def error_lines(host: Host, log: str, count=3) -> str:
    """CRIU's own words."""
    return host.run(f"grep -h -E 'Error|rror:' {log} 2>/dev/null | grep -v RLIMIT_NOFILE | tail -n {count}", check=False).stdout.strip()
