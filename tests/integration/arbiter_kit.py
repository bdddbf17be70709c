"""What the tests of the arbiter do to hosts, and how they see that there are never two copies."""

import contextlib
import json
import subprocess
import time

from labkit import deploy, etcd, services

PORT = 7440

# Prints a line whenever that has changed: do tasks of a container run? In the cgroup of one that arrives there are the
# runtime and CRIU before it is parked, so that it counts from the first time on that it stood still.
SAMPLER = """
import glob, json, time
parts, runs_before, first = set(), None, True
while True:
    now = []
    for path in glob.glob("/sys/fs/cgroup/**/libpod-*/cgroup.events", recursive=True):
        try:
            events = dict(line.split() for line in open(path))
        except OSError:
            continue
        if first or events["frozen"] == "1":
            parts.add(path)
        now.append(path in parts and events["populated"] == "1" and events["frozen"] == "0")
    if first:
        print("ready", flush=True)
    first, runs = False, any(now)
    if runs is not runs_before:
        runs_before = runs
        print(json.dumps([time.monotonic(), runs]), flush=True)
    time.sleep(0.005)
"""
# A task that is killed while it is frozen is neither for a moment.
DYING = 0.05


class Watch:
    """When tasks of containers ran on each of these hosts. All hosts of a lab have one clock."""

    def __init__(self, *hosts):
        self.processes = {h.name: h.popen(["python3", "-c", SAMPLER], stdout=subprocess.PIPE, text=True) for h in hosts}
        for process in self.processes.values():
            assert process.stdout.readline() == "ready\n"

    def stop(self) -> dict[str, list[tuple[float, float]]]:
        """host -> (from, until), each time that its tasks ran."""
        end, ran = time.monotonic(), {}
        for name, process in self.processes.items():
            process.kill()
            changes = [json.loads(line) for line in process.communicate(timeout=10)[0].splitlines() if line.endswith("]")]
            ends = [t for t, _ in changes[1:]] + [end]
            ran[name] = [(t, until) for (t, runs), until in zip(changes, ends) if runs]
        return ran

    def check_never_two(self) -> dict[str, list[tuple[float, float]]]:
        ran = self.stop()
        names = list(ran)
        assert ran[names[0]], "nothing was seen to run where the container was"
        for i, a in enumerate(names):
            for b in names[i + 1:]:
                both = [(a0, a1, b0, b1) for a0, a1 in ran[a] for b0, b1 in ran[b] if min(a1, b1) - max(a0, b0) > DYING]
                assert both == [], f"tasks ran on {a} and {b} at once: {both}"
        return ran


@contextlib.contextmanager
def words_lost(host, *, said_by=None, to=None):
    """What `host` answers to `to` as a peer is lost; with `said_by`, everything between the two is."""
    if said_by:
        rules = f"add rule inet words o ip daddr {said_by.address} drop; add rule inet words i ip saddr {said_by.address} drop"
    else:
        rules = f"add rule inet words o ip daddr {to.address} tcp sport {PORT} drop"
    host.run(["nft", "add table inet words; add chain inet words o { type filter hook output priority 0; }; "
                     f"add chain inet words i {{ type filter hook input priority 0; }}; {rules}"])
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", "words"], check=False)


def kill_daemon(host, signal="KILL"):
    pid = deploy.daemon_pid(host.record)
    if pid:
        host.run(["kill", f"-{signal}", pid])
        services.wait_until(f"the end of transshipd on {host.name}", lambda: deploy.daemon_pid(host.record) == 0)


def start_daemon(host):
    host.run(["rm", "-f", "/run/transship/transshipd.sock"])  # of the one that was killed
    deploy.start_daemon(host.record)
    services.wait_until(f"transshipd on {host.name}", lambda: deploy.daemon_answers(host.record))


def kill_tasks(host):
    """Of every container there, as when the host goes down."""
    host.run("for g in $(find /sys/fs/cgroup -name 'libpod-*' -type d); do echo 1 > $g/cgroup.kill; done; pkill -KILL transship-pager", check=False)


def frozen(host) -> bool:
    """Is there a container whose tasks stand still?"""
    return "frozen 1" in host.run("find /sys/fs/cgroup -path '*libpod-*/cgroup.events' -exec cat {} +", check=False).stdout


def kill_etcd(lab, *names):
    for name in names:
        lab.host(etcd.HOST).run(["kill", "-KILL", etcd.node_pid(lab.state, name)])
        services.wait_until(f"the end of {name}", lambda name=name: etcd.node_pid(lab.state, name) == 0)


def start_etcd_again(lab):
    for name in etcd.NODES:
        if not etcd.node_pid(lab.state, name):
            etcd.start_node(lab.state, name)
    services.wait_until("etcd", lambda: etcd.healthy(lab.host(etcd.HOST).record))


def register(lab, move_id: str) -> dict[str, str]:
    """What etcd has of a move: "decision" and "source"."""
    out = etcd.etcdctl(lab.state, "get", "--prefix", f"/transship/moves/{move_id}/").stdout.split("\n")
    return {key.rpartition("/")[2]: value for key, value in zip(out[::2], out[1::2]) if key}


def wait_for(what, condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return seconds - (end - time.monotonic())


def kill_daemon_when_parked(victim, host, move_id):
    """Before it can hear of it, if the link has a delay: nothing is started for it when the time has come."""
    log, order = host.path("/var/log/transship/transshipd.log"), victim.path("/run/end-the-daemon")
    killer = victim.popen(["sh", "-c", f"until [ -e /run/end-the-daemon ]; do sleep 0.003; done; kill -KILL {deploy.daemon_pid(victim.record)}"])
    end = time.monotonic() + 30
    while f"mig={move_id} phase=restore parked" not in log.read_text(errors="replace"):
        assert time.monotonic() < end, f"{move_id} was not parked in 30 s"
        time.sleep(0.003)
    order.touch()
    killer.wait(10)
    order.unlink()
    services.wait_until(f"the end of transshipd on {victim.name}", lambda: deploy.daemon_pid(victim.record) == 0)


def wait_parked(host, move_id):
    host.run(f"until grep -q 'mig={move_id} phase=restore parked' /var/log/transship/transshipd.log; do sleep 0.01; done", timeout=30)
