"""What clients send and get through the tunnel while a container moves: nothing of it is lost."""

import json
import time

import pytest

from demokit import leftovers
from demokit.load import longest_silence_ms
from demokit.web import PodmanWeb
from moving import move
from test_tunnel_moves import check_clients, done, guest, hosts, tunnelled, wait_nothing_placed  # noqa: F401  (fixtures)

MIB = 1 << 20


@pytest.fixture
def web(tunnelled, hosts):  # noqa: F811
    """nginx at home on aws; clients of the test end with it."""
    web = PodmanWeb(tunnelled)
    web.clients = []
    before = {h.name: leftovers.collect(h) for h in hosts}
    try:
        web.create(hosts[0])
        yield web
    finally:
        for client in web.clients:
            client.close()
        for host in hosts:
            tunnelled.clear_shape(host.name)
            web.remove(host)
        tunnelled.unroute(web.address)
    wait_nothing_placed(hosts)
    for host in hosts:
        assert leftovers.left_behind(host, before[host.name], ()) == []


def client(web, *words):  # noqa: F811
    web.clients.append(web.client(*words))
    return web.clients[-1]


@pytest.mark.parametrize("what", ["download", "upload"])
def test_transfer_across_moves(web, hosts, tunnelled, what):  # noqa: F811
    """There and back in the middle of one long transfer."""
    aws, azure, _ = hosts
    size = 384 * MIB
    digest = web.make_file(aws, size) if what == "download" else ""
    for host in (aws, azure):
        tunnelled.shape(host.name, rate="300mbit")
    transfer = client(web, "get", "/file") if what == "download" else client(web, "put", size)
    summaries = []
    for source, destination in ((aws, azure), (azure, aws)):
        time.sleep(0.5)
        summaries.append(done(move(source, web.reference, destination.name, "--max-gap", "1000")))
        assert transfer.running(), "the transfer was over before the move"
    report = transfer.report()
    print(what, report, [(s["gap_ms"], s["packets_held"], s["packets_dropped"]) for s in summaries])
    assert report["bytes"] == size
    if what == "download":
        assert report["sha256"] == digest
    else:
        assert report["answer"] == {"sha256": report["sha256"], "bytes": size}


def test_datagrams(web, hosts):  # noqa: F811
    """10,000 a second: every one that the hold had room for arrives, once."""
    aws, azure, _ = hosts
    web.datagrams(forget=True)
    flow = client(web, "datagrams", 10_000, 8)
    time.sleep(0.5)
    summaries = [done(move(aws, web.reference, "azure")), done(move(azure, web.reference, "aws"))]
    assert flow.running(), "the flow was over before the moves"
    report = flow.report()
    time.sleep(0.5)
    came = web.datagrams()
    print(report, came, [(s["gap_ms"], s["packets_held"], s["packets_dropped"]) for s in summaries])
    assert report["refused"] == 0
    assert all(s["packets_dropped"] == 0 and s["packets_held"] > 100 for s in summaries)
    assert came["received"] == report["sent"] and came["duplicates"] == 0


@pytest.mark.parametrize("delay_ms", [1, 40])
def test_nobody_waits_for_a_retransmission(guest, hosts, tunnelled, delay_ms):  # noqa: F811
    """What was sent during the gap is answered after it: a lost packet would cost its client 200 ms more, or 300 at 40 ms."""
    aws, azure, _ = hosts
    s = guest(mib=1, clients=4)
    try:
        for host in (aws, azure):
            tunnelled.shape(host.name, rate="1gbit", delay=f"{delay_ms * 500}us")
        spans = []
        for source, destination in ((aws, azure), (azure, aws)):
            time.sleep(0.5)
            begin = time.monotonic()
            summary = done(move(source, "redis", destination.name, "--max-gap", "2000"))
            time.sleep(1.5)
            spans.append((begin, time.monotonic(), summary))
    finally:
        for host in (aws, azure):
            tunnelled.clear_shape(host.name)
    report = check_clients(s.load)
    for begin, end, summary in spans:
        silence, frozen = longest_silence_ms(report, begin, end), summary["gap_ms"]
        print(f"delay {delay_ms} ms: silence {silence:.0f} ms, frozen {frozen} ms, held {summary['packets_held']}")
        assert silence <= frozen + 2 * 3 * delay_ms + 100  # a round trip is 3 delays where it is away
        assert summary["packets_held"] > 0 and summary["packets_dropped"] == 0


def capture(lab, link, seconds=60):
    """Begins to write what passes a link of the router."""
    wan = lab.host("wan")
    wan.run(f"rm -f /tmp/{link}.pcap; (timeout {seconds} tshark -q -i {link} -w /tmp/{link}.pcap >/tmp/{link}.log 2>&1 &); "
            f"for i in $(seq 100); do grep -q Capturing /tmp/{link}.log && break; sleep 0.1; done")
    time.sleep(0.5)


def captured(lab, link, payload):
    """How many packets, and how many of them hold the payload."""
    wan = lab.host("wan")
    shown = [wan.run(["tshark", "-r", f"/tmp/{link}.pcap", *which, "-T", "fields", "-e", "frame.number"], timeout=120, check=False).stdout
             for which in ([], ["-Y", f'frame contains "{payload}"'])]
    return [len(text.split()) for text in shown]


def test_nothing_leaves_a_host_unencrypted(guest, hosts, tunnelled):  # noqa: F811
    """Neither what the container's memory holds, nor what its clients send it where it is."""
    aws, azure, _ = hosts
    s = guest(mib=1, clients=2)
    payload = "a-payload-that-is-nowhere-else"
    client = tunnelled.host("client")
    assert client.run(["redis-cli", "-h", s.redis.address, "SET", "kept", payload]).stdout.strip() == "OK"
    for link in ("aws", "azure"):
        capture(tunnelled, link)
    try:
        done(move(aws, "redis", "azure"))
        assert client.run(["redis-cli", "-h", s.redis.address, "GET", "kept"]).stdout.strip() == payload
        done(move(azure, "redis", "aws"))
    finally:
        time.sleep(0.5)
        tunnelled.host("wan").run("kill $(pidof tshark); sleep 0.5; true", check=False)
    check_clients(s.load)
    found = {link: captured(tunnelled, link, payload) for link in ("aws", "azure")}
    print(json.dumps(found))
    assert found["aws"][1] > 0  # by the client's own, plain connection: it is seen where it is plain
    assert found["azure"][0] > 100 and found["azure"][1] == 0
