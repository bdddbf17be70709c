"""What a host's TCP had to do again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Repeated:
    """Since the host is there. `timeouts`: how often it waited in vain for an acknowledgement, until it sent again;
    `segments`: all that it sent more than once, for whatever reason."""

    timeouts: int
    segments: int

    def __sub__(self, before: "Repeated") -> "Repeated":
        return Repeated(self.timeouts - before.timeouts, self.segments - before.segments)


def repeated(host) -> Repeated:
    return Repeated(counter(host, "/proc/net/netstat", "TcpExt:", "TCPTimeouts"), counter(host, "/proc/net/snmp", "Tcp:", "RetransSegs"))


def counter(host, file: str, group: str, name: str) -> int:
    heading, values = [line.split() for line in host.run(["cat", file]).stdout.splitlines() if line.startswith(group)]
    return int(values[heading.index(name)])
