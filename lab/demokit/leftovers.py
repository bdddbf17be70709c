"""What a move must not leave behind on a host. Compared between before and after."""

import time

from labkit.api import Host

# One fact a line; what is there before a move and belongs to the host is there afterwards as well.
COLLECT = r"""
ls /run/transship/moves 2>/dev/null | sed 's/^/move directory: /'
ls /run/transship/gates 2>/dev/null | sed 's/^/gate: /'
ls /var/lib/transship/moves 2>/dev/null | sed 's/^/image directory: /'
grep ' /run/transship/' /proc/self/mountinfo | awk '{print "mount: " $5}'
ip -o link | awk -F': ' '$2 ~ /^tsh/ {print "link: " $2}'
ip route | grep ' dev tsh' | sed 's/^/route: /'
ip route | grep -E '^10\.88\.[0-9]+\.[0-9]+ ' | sed 's/^/route: /'
nft list tables 2>/dev/null | grep transship | sed 's/^/firewall: /'
for p in /proc/[0-9]*; do
  c=$(tr '\0' ' ' < $p/cmdline 2>/dev/null)
  set -- $c
  case "${1##*/} $2 $3" in criu\ *|transship-runtime\ *|transship-pager\ *|skopeo\ *) echo "process: $c";; esac
done
for f in $(find /sys/fs/cgroup -name cgroup.freeze 2>/dev/null); do
  d=${f%/cgroup.freeze}
  grep -q 1 $f 2>/dev/null && echo "frozen: $d ($(for p in $(cat $d/cgroup.procs); do cat /proc/$p/comm; done | sort | uniq -c | xargs))"
done
find /proc/[0-9]*/fd -lname '*userfaultfd*' 2>/dev/null | sed 's/^/followed memory: /'
grep -H '^TracerPid:.*[1-9]' /proc/[0-9]*/status 2>/dev/null | sed 's/^/traced: /'
grep -Hv '^max' $(find /sys/fs/cgroup -name cpu.max 2>/dev/null) /dev/null 2>/dev/null | sed 's/^/slowed: /'
podman ps -a --format 'container: {{.Names}} {{.State}}'
true
"""


def collect(host: Host) -> set[str]:
    return {line for line in host.run(COLLECT, timeout=30).stdout.splitlines() if line.strip()}


def left_behind(host: Host, before: set[str], allowed=(), patience=0.0) -> list[str]:
    """What is new on the host. `allowed`: beginnings of lines that are as they should be. `patience`: seconds that it may
    take until nothing is left: late packets are passed on for a while."""
    end = time.monotonic() + patience
    while True:
        found = _left_behind(host, before, allowed)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.2)


def _left_behind(host: Host, before: set[str], allowed) -> list[str]:
    new = collect(host) - before
    return sorted(f"{host.name}: {line}" for line in new if not line.startswith(tuple(allowed)))
