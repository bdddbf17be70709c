"""The tunnel between real daemons: up by itself after `peer add`, through restarts, gone when it should be.

  aws 10.10.1.2 ══╗
  azure 10.20.1.2 ╬══ ts0 and ts1 on each, UDP 7441 and 7442 over wan
  openstack 10.30.1.2 ══╝
"""

import base64
import itertools
import json
import re
import time

import pytest

from labkit import deploy, services
from raw_peer import RAW_PEER
from test_daemon_killed import kill_daemon, start_daemon
from test_move_fails import restart_daemon

CONFIG = "/etc/transship/transshipd.toml"

# What a peer could send: HEX PORT, over TLS with this host's own key, as PeerMessage{request{tunnel{end}}}.
ASK = RAW_PEER + r"""
end = part(1, bytes.fromhex(sys.argv[2])) + number(2, int(sys.argv[3]))
print(request(connect(sys.argv[1], b"aws"), 18, part(1, end)).decode("ascii", "replace"))
"""


def tunnel(host):
    return json.loads(host.run(["transship", "node", "info", "--json"]).stdout)["tunnel"]


def peers(host):
    return {p["name"]: p for p in map(json.loads, host.run(["transship", "peer", "ls", "--json"]).stdout.splitlines())}


def answers(host, other, seconds=1):
    return host.run(["ping", "-6", "-c1", f"-W{seconds}", tunnel(other)["address"]], check=False).returncode == 0


def wait_answers(host, other):
    services.wait_until(f"{other.name} in the tunnel of {host.name}", lambda: answers(host, other))


def interface_to(host, other):
    return peers(host)[other.name]["tunnel_interface"]


def wireguard_pid(host, interface):
    return host.run(f"pgrep -fx 'wireguard-go -f {interface}'", check=False).stdout.strip()


def allowed(host):
    return sorted(host.run(["wg", "show", "all", "allowed-ips"]).stdout.splitlines())


@pytest.fixture
def tunnels(moving_lab):
    """The three clouds, each with every other one in its tunnel; afterwards again."""
    yield moving_lab.clouds()
    for host in moving_lab.clouds():
        if deploy.daemon_pid(host.record) == 0:
            start_daemon(host)
    deploy.pin_all([h.record for h in moving_lab.clouds()])


@pytest.fixture
def pair(tunnels):
    aws, azure = tunnels[0], tunnels[1]
    wait_answers(aws, azure)
    return aws, azure


class Pings:
    """One every 50 ms for 15 s."""

    def __init__(self, host, other):
        self.process = host.popen(["ping", "-6", "-q", "-c300", "-i0.05", "-W1", tunnel(other)["address"]], stdout=-1, text=True)
        time.sleep(0.3)

    def lost(self):
        assert self.process.poll() is None, "it all took longer than the pings"
        out = self.process.communicate(timeout=30)[0]
        sent, received = re.search(r"(\d+) packets transmitted, (\d+) received", out).groups()
        return int(sent) - int(received)


def test_every_end_answers_every_other_one(tunnels):
    for host, other in itertools.permutations(tunnels, 2):
        wait_answers(host, other)
    ends = [tunnel(host) for host in tunnels]
    assert len({e["address"] for e in ends}) == len({e["public_key"] for e in ends}) == 3
    for e in ends:
        assert e["backend"] in ("kernel", "wireguard-go") and e["address"].startswith("fd80:ebe5:8657:")
        assert (e["interface"], e["port"], e["mtu"]) == ("ts", 7441, 1440)


def test_it_is_seen_by_the_operator(pair):
    aws, azure = pair
    row = peers(aws)["azure"]
    assert row["tunnel_address"] == tunnel(azure)["address"]
    assert row["tunnel_answers"] and row["tunnel_handshake_age_s"] < 180 and row["tunnel_problem"] == ""
    assert "answers" in aws.run(["transship", "peer", "ls"]).stdout
    check = json.loads(aws.run(["transship", "peer", "check", "azure", "--json"], timeout=60).stdout)
    assert 0 < check["tunnel_rtt_ms"] < 1000 and check["tunnel_problem"] == ""
    assert f"{row['tunnel_address']} answers in" in aws.run(["transship", "peer", "check", "azure"], timeout=60).stdout
    text = aws.run(["transship", "node", "info"]).stdout
    assert "ts0…, UDP ports from 7441 on, MTU 1440" in text and tunnel(aws)["public_key"] in text


def test_the_secret_key_is_private_and_nowhere_else(pair):
    aws = pair[0]
    assert aws.run(["stat", "-c", "%a %U", "/var/lib/transship/tunnel.key"]).stdout.strip() == "600 root"
    secret = aws.get("/var/lib/transship/tunnel.key").decode().strip()
    assert secret not in aws.get("/var/log/transship/transshipd.log").decode(errors="replace")
    assert aws.run(f"grep -rlF '{secret}' /run/transship /run/wireguard /etc 2>/dev/null", check=False).stdout == ""
    assert secret not in aws.run("cat /proc/[0-9]*/cmdline 2>/dev/null || true").stdout


def test_a_restart_and_a_kill_lose_no_packet(pair):
    aws, azure = pair
    interface = interface_to(aws, azure)
    before = wireguard_pid(aws, interface)
    pings = Pings(azure, aws)
    restart_daemon(aws)
    kill_daemon(aws)
    start_daemon(aws)
    assert tunnel(aws)["backend"] in ("kernel", "wireguard-go")
    assert pings.lost() == 0
    assert wireguard_pid(aws, interface) == before


def test_a_wireguard_go_that_was_killed_is_back_in_seconds(pair):
    aws, azure = pair
    if tunnel(aws)["backend"] != "wireguard-go":
        pytest.skip("the kernel has WireGuard")
    interface = interface_to(aws, azure)
    before = wireguard_pid(aws, interface)
    aws.run(["kill", "-KILL", before])
    killed = time.monotonic()
    services.wait_until("another wireguard-go", lambda: wireguard_pid(aws, interface) not in ("", before))
    assert time.monotonic() - killed < 5
    wait_answers(azure, aws)
    assert tunnel(aws)["backend"] == "wireguard-go"
    assert re.search(f"interface={interface} wireguard-go ended, (code 137|its code is not known)",
                     aws.get("/var/log/transship/transshipd.log").decode(errors="replace"))


def test_a_peer_that_is_removed_is_out_of_the_tunnel(pair):
    aws, azure = pair
    azure.run(["transship", "peer", "rm", "aws"])
    assert not answers(aws, azure)
    assert tunnel(aws)["public_key"] not in azure.run(["wg", "show", "all", "peers"]).stdout
    key = json.loads(aws.run(["transship", "node", "info", "--json"]).stdout)["fingerprint"]
    azure.run(["transship", "peer", "add", "aws", aws.address, "--fingerprint", key])
    wait_answers(azure, aws)


def test_over_ipv6_it_is_the_same(pair):
    aws, azure = pair
    for host, other in ((aws, azure), (azure, aws)):
        host.run(["transship", "peer", "rm", other.name])
    for host, other in ((aws, azure), (azure, aws)):
        key = json.loads(other.run(["transship", "node", "info", "--json"]).stdout)["fingerprint"]
        host.run(["transship", "peer", "add", other.name, other.address6, "--fingerprint", key])
    try:
        wait_answers(aws, azure)
        assert f"[{azure.address6}]:744" in aws.run(["wg", "show", "all", "endpoints"]).stdout
        assert aws.get(f"/sys/class/net/{interface_to(aws, azure)}/mtu").decode().strip() == "1420"
    finally:  # an endpoint that works would stay
        for host, other in ((aws, azure), (azure, aws)):
            host.run(["transship", "peer", "rm", other.name])


@pytest.mark.parametrize("key, port, words", [
    ("ab" * 31, 7441, "32 bytes, not 31"),
    ("", 7441, "32 bytes, not 0"),
    ("ab" * 5000, 7441, "32 bytes, not 5000"),
    ("00" * 32, 7441, "no secret can be agreed on"),
    ("5a" * 32, 0, "0 for a port"),
    ("5a" * 32, 70000, "70000 for a port"),
    ("azure", 7441, "this node's own"),
    ("openstack", 7441, "belongs to the peer openstack already"),
])
def test_an_end_that_is_wrong_is_refused_and_changes_nothing(pair, tunnels, key, port, words):
    aws, azure = pair
    wait_answers(azure, tunnels[2])
    keys = {host.name: base64.b64decode(tunnel(host)["public_key"]).hex() for host in tunnels}
    before = allowed(azure)
    reply = aws.run(["python3", "-c", ASK, azure.address, keys.get(key, key), str(port)]).stdout
    assert words in reply and "aws gives" in reply
    assert allowed(azure) == before
    assert answers(aws, azure)


def test_switched_off_it_leaves_nothing_but_its_key(pair):
    aws, azure = pair
    config = aws.get(CONFIG)
    left = ("ip -o link | grep -E ': ts[0-9]'; ip -6 route show proto 184; nft list tables | grep tunnel; pgrep -fx 'wireguard-go -f ts[0-9]'; "
            "ls /run/wireguard /run/transship/tunnel* 2>/dev/null; true")
    assert len(aws.run(left).stdout.splitlines()) >= 5
    try:
        aws.put(CONFIG, config + b"\n[tunnel]\nenabled = false\n")
        restart_daemon(aws)
        assert aws.run(left).stdout == ""
        assert "tunnel.enabled" in tunnel(aws)["backend"] and tunnel(aws)["address"] == ""
        assert not peers(aws)["azure"]["tunnel_answers"]
    finally:
        aws.put(CONFIG, config)
        restart_daemon(aws)
    wait_answers(azure, aws)


def test_without_the_programs_the_node_says_what_to_install(pair):
    aws = pair[0]
    aws.run("mv /usr/bin/wg /usr/bin/wg.kept")
    try:
        restart_daemon(aws)
        assert tunnel(aws)["backend"].startswith("none: ") and "wg" in tunnel(aws)["backend"]
        assert aws.run(["transship", "ps"]).returncode == 0
    finally:
        aws.run("mv /usr/bin/wg.kept /usr/bin/wg")
        restart_daemon(aws)
    assert tunnel(aws)["backend"] in ("kernel", "wireguard-go")
