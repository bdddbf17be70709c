"""NAME.transship on every cloud and in containers: real daemons, Podman and dnsmasq.

  aws ── azure ── openstack, each with its own dnsmasq on 169.254.185.53
"""

import json
import subprocess
import time

import pytest

from demokit.runc_subject import RuncRedis
from labkit import deploy, services
from moving import DONE, PodmanRedis, move
from raw_peer import RAW_PEER
from test_daemon_killed import kill_daemon, start_daemon
from test_move_fails import restart_daemon

SERVER = "169.254.185.53"
CONFIG = "/etc/transship/transshipd.toml"
NEW = 1.0  # seconds, after the commit; what was measured is printed

# NAME [TYPE]: the addresses that the server says, or its code when it is none.
DIG = r"""
import socket, struct, sys
def ask(name, kind=1, server="169.254.185.53"):
    s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
    q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0)
    for label in name.split("."): q += bytes([len(label)]) + label.encode()
    q += b"\0" + struct.pack(">HH", kind, 1)
    s.connect((server, 53)); s.send(q)
    try: a = s.recv(4096)
    except OSError as e: return type(e).__name__
    code, count, at, found = a[3] & 15, struct.unpack(">H", a[6:8])[0], len(q), []
    if code: return {3: "NXDOMAIN", 5: "REFUSED"}.get(code, str(code))
    for _ in range(count):
        size = struct.unpack(">H", a[at + 10:at + 12])[0]
        data = a[at + 12:at + 12 + size]
        if size in (4, 16): found.append(socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, data))
        at += 12 + size
    return " ".join(sorted(found))
"""
ONCE = DIG + "print(ask(sys.argv[1], int(sys.argv[2]), sys.argv[3]))\n"
# NAME...: a line each time an answer changes: unix time, name, answer.
WATCH = DIG + r"""
import time
last = {}
while True:
    for name in sys.argv[1:]:
        now = ask(name)
        if last.get(name) != now:
            last[name] = now
            print(time.time(), name, now, flush=True)
    time.sleep(0.003)
"""

# Over TLS with this host's own key, as PeerMessage{request{names{names}}}: ADDRESS NAME CONTAINER-ADDRESS HOME HOME-ID.
CLAIM = RAW_PEER + r"""
fields = [part(n, w.encode()) for n, w in enumerate(sys.argv[2:6], 1) if w]
names = b"".join(part(1, b"".join(fields)) for _ in range(int(sys.argv[6])))
print(request(connect(sys.argv[1], b"liar"), 21, names).decode("utf-8", "replace"))
"""


def ask(host, name, kind="A", server=SERVER):
    return host.run(["python3", "-c", ONCE, name, {"A": 1, "AAAA": 28}[kind], server]).stdout.strip()


def names(host):
    return [json.loads(line) for line in host.run(["transship", "names", "--json"]).stdout.splitlines()]


def row(host, container, node):
    found = [n for n in names(host) if n["message_type"] == "name" and (n["container"], n["node"]) == (container, node)]
    return found[0] if found else None


def wait_answer(hosts, name, answer, kind="A", limit=15.0):
    """Until all say so; how long that took, in seconds."""
    begin = time.monotonic()
    for host in hosts:
        while (now := ask(host, name, kind)) != answer:
            assert time.monotonic() - begin < limit, f"{host.name} says {now!r} of {name}, not {answer!r}: {names(host)}"
            time.sleep(0.02)
    return time.monotonic() - begin


def dnsmasq(host):
    return host.run("pidof dnsmasq", check=False).stdout.strip()


@pytest.fixture(scope="module")
def hosts(moving_lab):
    """The clouds with the driver `tunnel`; all of them answer."""
    moving_lab.use_cutover("tunnel")
    for host in moving_lab.clouds():
        services.wait_until(f"dnsmasq on {host.name}", lambda host=host: ask(host, "nobody.transship") == "NXDOMAIN")
    yield moving_lab.clouds()
    moving_lab.use_cutover("hook")


@pytest.fixture
def redis(moving_lab, hosts):
    """Makes a Redis on a cloud; all of them go afterwards, wherever they are."""
    made = []

    def make(host, name, address, *options):
        r = PodmanRedis(moving_lab, name=name, address=address)
        made.append(r)
        r.create(host, options)
        return r

    yield make
    for r in made:
        for host in hosts:
            r.remove(host)
        moving_lab.unroute(r.address)


@pytest.fixture
def resolvers(hosts):
    """The hosts' own resolvers ask ours; afterwards they are as they were."""
    before = {h.name: h.get("/etc/resolv.conf") for h in hosts}
    for host in hosts:
        host.run(["transship", "names", "setup"])
    yield
    for host in hosts:
        host.run(["transship", "names", "remove"])
        assert host.get("/etc/resolv.conf") == before[host.name]


class Watch:
    """Answers of a host's server as they change."""

    def __init__(self, host, *what):
        self.process = host.popen(["python3", "-c", WATCH, *what], stdout=subprocess.PIPE, text=True)

    def stop(self):
        """[(unix time, name, answer)]"""
        self.process.kill()
        lines = [line.split(" ", 2) for line in self.process.communicate(timeout=10)[0].splitlines()]
        return [(float(at), name, answer) for at, name, answer in lines]


def test_a_container_comes_changes_and_goes(hosts, redis):
    aws, azure, openstack = hosts
    r = redis(aws, "web_1.Front", "10.88.0.41")
    took = {"start": wait_answer(hosts, "web-1-front.transship", "10.88.0.41")}
    assert ask(azure, "web-1-front.aws.transship") == "10.88.0.41"
    assert ask(azure, "WEB-1-front.Transship") == "10.88.0.41"
    assert ask(azure, "web-1-front.transship", server="fd80:ebe5:8657::53") == "10.88.0.41"
    assert ask(azure, "web-1-front.transship", "AAAA") == ""  # the name is there, such an address is not
    assert row(openstack, "web_1.Front", "aws")["bare"]
    aws.run(["podman", "rename", r.name, "renamed"])
    took["rename"] = wait_answer(hosts, "renamed.transship", "10.88.0.41")
    wait_answer(hosts, "web-1-front.transship", "NXDOMAIN")
    aws.run(["podman", "stop", "-t", "0", "renamed"])
    took["stop"] = wait_answer(hosts, "renamed.transship", "NXDOMAIN")
    aws.run(["podman", "start", "renamed"])
    wait_answer(hosts, "renamed.transship", "10.88.0.41")
    aws.run(["podman", "rm", "-f", "-t", "0", "renamed"])
    took["rm"] = wait_answer(hosts, "renamed.transship", "NXDOMAIN")
    print("all three clouds right after, in s:", {k: round(v, 2) for k, v in took.items()})
    assert max(took.values()) < 2.0


def test_both_families_and_a_user_network(hosts, redis):
    aws, azure, _ = hosts
    aws.run(["podman", "network", "create", "--subnet", "10.91.0.0/24", "--subnet", "fd00:91::/64", "names-net"])
    try:
        r = PodmanRedis(aws.lab, name="dual", address="10.91.0.5")
        aws.run(["podman", "run", "-d", "--name", "dual", "--network", "names-net:ip=10.91.0.5,ip=fd00:91::5", r.image], timeout=90)
        wait_answer(hosts, "dual.transship", "10.91.0.5")
        assert ask(azure, "dual.transship", "AAAA") == "fd00:91::5"
        aws.run(["podman", "network", "disconnect", "names-net", "dual"])
        wait_answer(hosts, "dual.transship", "NXDOMAIN")
        assert "address" in row(aws, "dual", "aws")["note"]
        aws.run(["podman", "network", "connect", "podman", "dual"])
        services.wait_until("its new address", lambda: ask(azure, "dual.transship").startswith("10.88."))
    finally:
        aws.run("podman rm -f -t 0 dual; podman network rm -f names-net", check=False)


@pytest.mark.parametrize("network", ["podman", "names-net"])
def test_a_moved_container_asks_and_is_found(hosts, redis, resolvers, network):
    """Before, right after and long after its move; and the others never lose it."""
    aws, azure, openstack = hosts
    if network != "podman":
        for host in hosts:
            host.run(["podman", "network", "create", "--subnet", "10.92.0.0/24", network])
    address, other = ("10.88.0.42", "10.88.0.43") if network == "podman" else ("10.92.0.42", "10.92.0.43")
    net = ["--network", network]
    try:
        redis(aws, "mover", address, *net)
        redis(aws, "other", other, *net)
        wait_answer(hosts, "mover.transship", address)
        wait_answer(hosts, "other.transship", other)
        inside = ["podman", "exec", "mover", "redis-cli", "-h", "other.transship", "-t", "3", "PING"]
        assert aws.run(inside).stdout.strip() == "PONG"
        watches = {h.name: Watch(h, "mover.transship", "mover.azure.transship", "mover.aws.transship") for h in hosts}
        time.sleep(0.5)
        outcome = move(aws, "mover", "azure")
        assert outcome.code == DONE, outcome.lines[-1]
        assert azure.run(inside).stdout.strip() == "PONG"
        assert azure.run(["podman", "exec", "mover", "getent", "hosts", "mover.transship"], check=False).stdout.split()[:1] in ([address], [])
        wait_answer(hosts, "mover.azure.transship", address)
        wait_answer(hosts, "mover.aws.transship", "NXDOMAIN")
        committed = next(p["time_unix_ms"] for p in outcome.of("phase") if p["phase"] == "commit" and p["state"] == "done") / 1000
        late = {}
        for host, watch in watches.items():
            seen = watch.stop()
            # The plain name never was anything else.
            assert {answer for _, name, answer in seen if name == "mover.transship"} == {address}
            late[host] = next(at for at, name, answer in seen if name == "mover.azure.transship" and answer == address) - committed
        print("right after the commit, in ms:", {h: round(s * 1000) for h, s in late.items()})
        assert max(late.values()) < NEW
        assert row(openstack, "mover", "azure")["bare"] and row(openstack, "mover", "aws") is None
        assert move(azure, "mover", "aws").code == DONE
        assert aws.run(inside).stdout.strip() == "PONG"
        wait_answer(hosts, "mover.aws.transship", address)
    finally:
        for host in hosts:
            host.run(["podman", "rm", "-f", "-t", "0", "-i", "mover", "other"], check=False)
            if network != "podman":
                host.run(["podman", "network", "rm", "-f", network], check=False)


def test_a_plain_runc_bundle(moving_lab, hosts):
    aws, azure, openstack = hosts
    bundle = RuncRedis(moving_lab, name="plain", address="10.88.0.20")
    try:
        bundle.create(aws)
        print(f"started: {wait_answer(hosts, 'plain.transship', '10.88.0.20'):.1f} s")
        assert [n["container"] for n in names(openstack) if n["message_type"] == "name"] == ["plain"]
        bundle.remove(aws)
        print(f"removed: {wait_answer(hosts, 'plain.transship', 'NXDOMAIN'):.1f} s")
    finally:
        for host in hosts:
            bundle.remove(host)
            bundle.remove_network(host)
        moving_lab.unroute(bundle.address)


def test_two_of_one_name(hosts, redis):
    aws, azure, openstack = hosts
    redis(aws, "twin", "10.88.0.44")
    wait_answer(hosts, "twin.transship", "10.88.0.44")
    redis(azure, "twin", "10.88.0.45")
    wait_answer(hosts, "twin.azure.transship", "10.88.0.45")
    for host in hosts:
        assert ask(host, "twin.transship") == "10.88.0.44"
        assert ask(host, "twin.aws.transship") == "10.88.0.44"
    assert "azure" in row(openstack, "twin", "aws")["note"] and "aws" in row(openstack, "twin", "azure")["note"]
    assert "before" in openstack.run(["transship", "names"]).stdout
    aws.run(["podman", "rm", "-f", "-t", "0", "twin"])
    wait_answer(hosts, "twin.transship", "10.88.0.45")


def test_killed_programs_come_back(hosts, redis):
    aws, azure, openstack = hosts
    redis(azure, "steady", "10.88.0.46")
    wait_answer(hosts, "steady.transship", "10.88.0.46")
    aws.run(["kill", "-KILL", dnsmasq(aws)])
    begin = time.monotonic()
    wait_answer([aws], "steady.transship", "10.88.0.46")
    print(f"dnsmasq is back after {time.monotonic() - begin:.2f} s")
    assert time.monotonic() - begin < 4.0  # a second until it is noticed, and as long as its start takes
    aws.run(["ip", "link", "del", "tsnames"])
    services.wait_until("the interface is back", lambda: ask(aws, "steady.transship") == "10.88.0.46")
    assert ask(aws, "steady.transship", server="fd80:ebe5:8657::53") == "10.88.0.46"
    # The server goes on without the daemon, and the next daemon takes it as it is.
    before, watch = dnsmasq(aws), Watch(aws, "steady.transship")
    kill_daemon(aws)
    time.sleep(0.5)
    start_daemon(aws)
    services.wait_until("transshipd", lambda: deploy.daemon_answers(aws.record))
    time.sleep(1.5)
    assert [answer for _, _, answer in watch.stop()] == ["10.88.0.46"]
    assert dnsmasq(aws) == before
    redis(azure, "late", "10.88.0.47")
    wait_answer(hosts, "late.transship", "10.88.0.47")


def test_a_peer_that_is_removed_takes_its_names_along(hosts, redis):
    aws, azure, openstack = hosts
    redis(azure, "friend", "10.88.0.48")
    wait_answer(hosts, "friend.transship", "10.88.0.48")
    aws.run(["transship", "peer", "rm", "azure"])
    try:
        wait_answer([aws], "friend.transship", "NXDOMAIN")
        assert ask(openstack, "friend.transship") == "10.88.0.48"
    finally:
        deploy.pin_all([h.record for h in hosts])
    wait_answer(hosts, "friend.transship", "10.88.0.48")


def claim(liar, victim, name, address, home="", home_id="x", times=1):
    return liar.run(["python3", "-c", CLAIM, victim.address, name, address, home, home_id, times]).stdout


def log_of(host):
    return host.get("/var/log/transship/transshipd.log").decode(errors="replace")


def believed(liar, host):
    """Claimed anew each time: the liar's own daemon goes on telling the truth."""
    claim(liar, host, "mine", "10.9.9.9")
    return ask(host, "mine.openstack.transship") == "10.9.9.9"


def test_false_claims(hosts, redis):
    """openstack says that it has what it has not."""
    aws, azure, liar = hosts
    redis(aws, "mine", "10.88.0.49")
    wait_answer(hosts, "mine.transship", "10.88.0.49")
    home = json.loads(aws.run(["transship", "node", "info", "--json"]).stdout)["fingerprint"]
    container = aws.run(["podman", "inspect", "--format", "{{.Id}}", "mine"]).stdout.strip()
    # At home on aws, and not away.
    assert "not away" in claim(liar, aws, "mine", "10.9.9.9", home, container)
    assert "names: refused: openstack says that it has mine" in log_of(aws)
    assert move(aws, "mine", "azure").code == DONE
    assert "azure has it" in claim(liar, aws, "mine", "10.9.9.9", home, container)
    # Nobody at azure's door but azure itself has it: not believed, not served.
    claim(liar, azure, "mine", "10.9.9.9", home, container)
    assert ask(azure, "mine.openstack.transship") == "NXDOMAIN"
    # A container of its own with that name: the one that was there first keeps the name.
    services.wait_until("the claim", lambda: believed(liar, aws))
    assert ask(aws, "mine.transship") == "10.88.0.49"
    # What no container has, what is no name, too many.
    assert "no address" in claim(liar, aws, "local", "127.0.0.1")
    assert "is none" in claim(liar, aws, "odd", "10.0.0.1 evil")
    assert "name" in claim(liar, aws, "a\nb", "10.0.0.1")
    assert "more than 1000" in claim(liar, aws, "many", "10.0.0.1", times=1500)
    assert ask(aws, "mine.transship") == "10.88.0.49"
    restart_daemon(liar)  # says what is right
    services.wait_until("the truth", lambda: ask(aws, "mine.openstack.transship") == "NXDOMAIN")


def change_config(host, text):
    host.put(CONFIG, deploy.configuration(host.record, "tunnel") + text)
    restart_daemon(host)


def of_names(host):
    return host.run("pidof dnsmasq; ip -o link show tsnames 2>/dev/null; nft list table inet transship_names 2>/dev/null; "
                    "ls -d /run/transship-names /var/lib/transship/names* 2>/dev/null; grep -n transship /etc/resolv.conf; true").stdout


def test_switched_off_nothing_is_left(hosts):
    aws = hosts[0]
    aws.put("/etc/resolv.conf", "# mine\nsearch example.org\nnameserver 10.99.99.99")
    try:
        assert "asked by this host (in /etc/resolv.conf)" in aws.run(["transship", "names", "setup"]).stdout
        text = aws.get("/etc/resolv.conf").decode()
        assert text.endswith("nameserver 169.254.185.53\n# mine\nsearch example.org\nnameserver 10.99.99.99")
        services.wait_until("the host's nameserver is asked", lambda: "10.99.99.99" in aws.get("/run/transship-names/upstream.conf").decode())
        aws.run("echo nameserver 10.99.99.98 > /etc/resolv.conf")  # as a DHCP client does
        services.wait_until("our line is back", lambda: SERVER in aws.get("/etc/resolv.conf").decode())
        assert of_names(aws) != ""
        change_config(aws, "\n[names]\nenabled = false\n")
        assert of_names(aws) == ""
        assert aws.get("/etc/resolv.conf") == b"nameserver 10.99.99.98\n"
        info = json.loads(aws.run(["transship", "node", "info", "--json"]).stdout)
        assert "switched off" in info["names"]["server"]
        failed = aws.run(["transship", "names", "setup"], check=False)
        assert failed.returncode == 1 and "switched off" in failed.stderr
    finally:
        aws.put("/etc/resolv.conf", "")
        change_config(aws, "")
    wait_answer([aws], "nobody.transship", "NXDOMAIN")


def test_without_dnsmasq(hosts, redis):
    aws, azure, _ = hosts
    change_config(azure, '\n[names]\nprogram = "no-such-dnsmasq"\n')
    try:
        azure.run("kill $(pidof dnsmasq)", check=False)
        info = json.loads(azure.run(["transship", "node", "info", "--json"]).stdout)["names"]
        assert "no program no-such-dnsmasq" in info["server"] and "dnsmasq-base" in info["remedy"]
        redis(azure, "quiet", "10.88.0.50")
        wait_answer([aws], "quiet.transship", "10.88.0.50")  # what it has is told all the same
        assert row(azure, "quiet", "azure") is not None
    finally:
        change_config(azure, "")
    wait_answer([azure], "quiet.transship", "10.88.0.50")


def test_systemd_resolved_is_told(hosts):
    """By its own program, which writes down here what it is told."""
    aws = hosts[0]
    aws.put("/usr/bin/resolvectl", '#!/bin/sh\necho "$@" >> /run/told\n', 0o755)
    aws.run("mkdir -p /run/systemd/resolve; : > /run/told; echo nameserver 127.0.0.53 > /etc/resolv.conf")
    try:
        assert "by systemd-resolved" in aws.run(["transship", "names", "setup"]).stdout
        told = aws.run("cat /run/told").stdout
        assert f"dns tsnames {SERVER}" in told and "domain tsnames ~transship" in told
        assert aws.get("/etc/resolv.conf") == b"nameserver 127.0.0.53\n"
        aws.run(["transship", "names", "remove"])
        assert aws.run("cat /run/told").stdout.splitlines()[-1] == "revert tsnames"
    finally:
        aws.run(["transship", "names", "remove"], check=False)
        aws.run("rm -rf /usr/bin/resolvectl /run/systemd /run/told; : > /etc/resolv.conf")
