"""The lab's links: no shared layer 2, routes that change at once, rates, delays and losses that are what was asked."""

import json
import statistics
import time

import pytest
from labkit.api import LabError
from labkit.services import wait_until

AWS, AZURE = "10.10.1.2", "10.20.1.2"
GATEWAY = "http://10.40.1.1:8179"


@pytest.fixture
def plain_links(lab):
    yield
    for name in ("aws", "azure"):
        lab.clear_shape(name)


@pytest.fixture(scope="module")
def iperf(lab):
    """iperf(seconds, *options) measures one TCP flow aws -> azure and returns bit/s as received."""
    azure = lab.host("azure")
    azure.start_service("iperf3", ["iperf3", "-s"])
    wait_until("iperf3", lambda: "5201" in azure.run(["ss", "-Hltn"]).stdout)

    def measure(seconds, *options):
        command = ["iperf3", "-J", "-c", AZURE, "-t", str(seconds), *options]
        return json.loads(lab.host("aws").run(command, timeout=seconds + 20).stdout)["end"]["sum_received"]["bits_per_second"]

    yield measure
    azure.stop_service("iperf3")


def ping(host, address, *options, check=True):
    return host.run(["ping", "-n", "-q", *options, address], check=check, timeout=60).stdout


def round_trips(text: str) -> tuple[float, float]:
    """(minimum, average) in ms"""
    numbers = text.partition("rtt min/avg/max/mdev = ")[2].split("/")
    return float(numbers[0]), float(numbers[1])


def lost_share(text: str) -> float:
    return float(text.partition(" received, ")[2].partition("%")[0].split()[-1]) / 100


def test_hosts_reach_each_other_only_through_the_router(lab):
    client = lab.host("client")
    assert "1 received" in ping(client, AZURE, "-c1", "-W2")
    assert "1 received" in ping(client, "fd00:20:1::2", "-c1", "-W2")
    one_hop = client.run(["ping", "-n", "-c1", "-W1", "-t1", AZURE], check=False)
    assert "From 10.40.1.1" in one_hop.stdout and "Time to live exceeded" in one_hop.stdout
    assert "1 received" in ping(client, AZURE, "-c1", "-W2", "-t2")


def test_no_two_hosts_share_a_layer_2(lab):
    client = lab.host("client")
    client.run(["ip", "route", "add", f"{AZURE}/32", "dev", "eth0", "scope", "link"])  # now it would have to answer ARP
    try:
        assert "0 received" in ping(client, AZURE, "-c2", "-W1", "-i0.2", check=False)
        neighbour = client.run(["ip", "neigh", "show", AZURE]).stdout
        assert "lladdr" not in neighbour and ("FAILED" in neighbour or "INCOMPLETE" in neighbour)
    finally:
        client.run(["ip", "route", "del", f"{AZURE}/32", "dev", "eth0", "scope", "link"])
    assert "1 received" in ping(client, AZURE, "-c1", "-W2")


def test_route_table_over_http(lab, capsys):
    client = lab.host("client")

    def request(method, path, body=None):
        data = [] if body is None else ["--data", body]
        out = client.run(["curl", "-sS", "-X", method, "-w", "\n%{http_code} %{time_total}", *data, GATEWAY + path]).stdout
        answer, _, numbers = out.rpartition("\n")
        code, seconds = numbers.split()
        return int(code), json.loads(answer), float(seconds)

    times = []
    for i in range(20):
        code, _, seconds = request("PUT", "/routes/10.88.0.10", json.dumps({"via": AWS if i % 2 else AZURE}))
        assert code == 200
        times.append(seconds * 1000)
    assert lab.routes() == {"10.88.0.10": AWS}
    assert "10.88.0.10 via 10.10.1.2 dev aws" in lab.host("wan").run(["ip", "route"]).stdout
    assert request("PUT", "/routes/fd00:88::10", '{"via": "fd00:20:1::2"}')[0] == 200
    assert request("GET", "/routes")[1] == [{"address": "10.88.0.10", "via": AWS}, {"address": "fd00:88::10", "via": "fd00:20:1::2"}]
    for path, body in (("/routes/nonsense", '{"via": "10.10.1.2"}'), ("/routes/10.88.0.10", "{}"), ("/routes/10.88.0.10", "[]"),
                       ("/routes/10.88.0.10", "not json"), ("/routes/10.88.0.10", '{"via": "fd00:20:1::2"}'),
                       ("/elsewhere/10.88.0.10", '{"via": "10.10.1.2"}'), ("/routes/10.88.0.10", '{"via": "' + "1" * 8000 + '"}')):
        assert request("PUT", path, body)[0] == 400, (path, body)
    assert request("PUT", "/routes/10.88.0.11", '{"via": "192.0.2.1"}')[0] == 409
    assert request("DELETE", "/routes/10.88.0.10")[0] == 200
    assert request("DELETE", "/routes/10.88.0.10")[0] == 404
    lab.unroute("fd00:88::10")
    assert lab.routes() == {}
    with capsys.disabled():
        print(f"\nroute change: median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms")
    assert statistics.median(times) < 20


def test_hook_follows_commit_and_rollback(lab):
    def hook(event):
        facts = {
            "TRANSSHIP_EVENT": event, "TRANSSHIP_MOVE_ID": "m1", "TRANSSHIP_CONTAINER": "r1",
            "TRANSSHIP_ADDRESSES": "10.88.0.20 10.88.0.21", "TRANSSHIP_SOURCE": "aws", "TRANSSHIP_SOURCE_ADDRESS": AWS,
            "TRANSSHIP_DESTINATION": "azure", "TRANSSHIP_DESTINATION_ADDRESS": AZURE,
        }
        return lab.host("aws").run(["/usr/lib/transship/hooks/lab-route"], env=facts, check=False)

    assert hook("commit").returncode == 0
    assert lab.routes() == {"10.88.0.20": AZURE, "10.88.0.21": AZURE}
    assert hook("rollback").returncode == 0
    assert lab.routes() == {"10.88.0.20": AWS, "10.88.0.21": AWS}
    assert hook("nonsense").returncode == 2
    for address in lab.routes():
        lab.unroute(address)
    lab.host("wan").stop_service("routes")
    try:
        wait_until("the end of the service", lambda: not lab.host("wan").services()["routes"]["pid"])
        broken = hook("commit")
        assert broken.returncode == 1 and "lab-route: the router did not set 10.88.0.20" in broken.stderr
        with pytest.raises(LabError):
            lab.routes()
    finally:
        lab.host("wan").start_service(
            "routes", ["python3", "-I", "-S", "/usr/lib/transship-lab/route_service.py", "8179"], restart=True)
        wait_until("the service", lambda: "8179" in lab.host("wan").run(["ss", "-Hltn"]).stdout)


def best_of(tries, good, measure):
    """The machine may be busy with other things; a limit that is too low or too high shows every time."""
    results = []
    for _ in range(tries):
        results.append(measure())
        if good(results[-1]):
            break
    return results[-1], results


@pytest.mark.parametrize("rate, bits", [("1gbit", 1e9), ("100mbit", 1e8)])
def test_rate_is_held_in_both_directions(lab, iperf, plain_links, capsys, rate, bits):
    lab.shape("aws", rate=rate)
    for direction in ([], ["-R"]):
        share, tries = best_of(3, lambda s: 0.93 <= s <= 1.0, lambda: iperf(3, "-O1", *direction) / bits)
        with capsys.disabled():
            print(f"\n{rate} {'to' if direction else 'from'} aws: goodput {share:.3f} of the rate")
        assert 0.93 <= share <= 1.0, tries


def test_queue_of_a_full_link_is_short(lab, iperf, plain_links, capsys):
    lab.shape("aws", rate="100mbit")
    load = lab.host("aws").popen(["iperf3", "-c", AZURE, "-t", "4"], stdout=-3, stderr=-3)
    try:
        time.sleep(1)
        average = round_trips(ping(lab.host("aws"), AZURE, "-c20", "-i0.1"))[1]
    finally:
        load.wait(timeout=20)
    with capsys.disabled():
        print(f"\nround trip over a full 100mbit link: {average:.1f} ms")
    assert average < 60


def test_delay(lab, plain_links, capsys):
    client = lab.host("client")
    before = round_trips(ping(client, AWS, "-c10", "-i0.05"))[0]
    lab.shape("aws", delay="20ms")
    shaped = round_trips(ping(client, AWS, "-c20", "-i0.05"))
    with capsys.disabled():
        print(f"\nround trip {before:.2f} ms; with 20 ms each way: minimum {shaped[0]:.2f}, average {shaped[1]:.2f} ms")
    assert 40.0 <= shaped[0] <= 42.0
    assert 40.0 <= shaped[1] <= 60.0
    assert round_trips(ping(client, AZURE, "-c5", "-i0.05"))[0] < 20, "only aws is far away"
    lab.clear_shape("aws")
    assert round_trips(ping(client, AWS, "-c10", "-i0.05"))[0] < 10


def test_loss(lab, plain_links, capsys):
    aws = lab.host("aws")
    lab.shape("aws", loss="10%")
    share = lost_share(ping(aws, AZURE, "-f", "-c1500", "-W1"))
    # There and back: 1 - 0.9². Five standard deviations of 1500 pings.
    with capsys.disabled():
        print(f"\nloss of pings at 10% each way: {share:.3f}")
    assert abs(share - 0.19) < 0.051
    lab.clear_shape("aws")
    assert lost_share(ping(aws, AZURE, "-f", "-c1500", "-W1")) == 0


def test_loss_takes_single_segments_of_offloaded_packets(lab, iperf, plain_links, capsys):
    lab.shape("aws", loss="0.5%")
    iperf(3)
    lab.clear_shape("aws")
    wait_until("the forwarder's count", lambda: counts(lab))
    sent, lost = counts(lab)
    with capsys.disabled():
        print(f"\nTCP at 0.5% loss: {lost} of {sent} segments lost")
    assert sent > 20_000
    assert abs(lost / sent - 0.005) < 0.0015


def counts(lab):
    """(segments, lost) of aws's last outgoing forwarder."""
    lines = lab.host("wan").get("/var/log/forwarder-aws.log").decode().splitlines()
    lines = [line for line in lines if line.startswith("aws-h -> aws-r")]
    if not lines:
        return None
    numbers = dict(word.split("=") for word in lines[-1].split()[3:])
    return int(numbers["segments"]), int(numbers["lost"])


def test_forwarder_carries_a_gigabit(lab, iperf, plain_links, capsys):
    plain = iperf(3)
    lab.shape("aws", delay="0ms")
    assert lab.host("wan").services()["forwarder-aws"]["pid"]
    rate, tries = best_of(3, lambda r: r >= 1e9, lambda: iperf(3))
    with capsys.disabled():
        print(f"\nforwarder without delay: {rate / 1e9:.2f} Gbit/s, {rate / plain:.2f} of the plain link's {plain / 1e9:.2f}")
    assert rate >= 1e9, tries


def test_a_connection_survives_changes_of_shape(lab, iperf, plain_links):
    """Neither end's link, address or route changes, so TCP goes on."""
    flow = lab.host("aws").popen(["iperf3", "-J", "-c", AZURE, "-t", "4"], stdout=-1)
    for shape in ({"rate": "500mbit"}, {"delay": "2ms"}, {"loss": "0.1%"}):
        time.sleep(0.5)
        lab.shape("aws", **shape)
    lab.clear_shape("aws")
    out, _ = flow.communicate(timeout=30)
    result = json.loads(out)
    assert "error" not in result
    assert result["end"]["sum_received"]["bytes"] > 20e6
