"""Moves after which the container has an address of the destination's own: `--new-ip`.

  client ── router ── aws       web: 10.91.0.0/24, fd91::/64   a Redis, at first 10.91.0.30
                  ├── azure     web: 10.92.0.0/24, fd92::/64
                  └── openstack web: 10.93.0.0/24, fd93::/64   port 7379 leads to the Redis, as those of aws and azure do

Nobody leads anything to the old address afterwards; clients of it see their connections end.
"""

import json
import time

import pytest

from labkit import services
from moving import DONE, REFUSED, ROLLED_BACK, PodmanRedis, RunningMove, Scene, move
from test_daemon_killed import kill_daemon, start_daemon
from test_expose import check_network, expose, exposures
from test_names import DIG
from test_tunnel_moves import hosts, placed, tunnelled, wait_nothing_placed  # noqa: F401

OLD = "10.91.0.30"
PORT = 7379
IMAGE = "registry.lab:5000/redis:lab"
SUBNETS = {"aws": ("10.91.0.", "fd91::"), "azure": ("10.92.0.", "fd92::"), "openstack": ("10.93.0.", "fd93::")}

# ADDRESS PORT asks|reads [once]: how and when a connection ends; then, how soon the next one is answered, or with `once`
# how that fails.
CLIENT = r"""
import json, socket, sys, time
address, port, asks = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "asks"
s = socket.create_connection((address, port), timeout=10)
s.settimeout(15)
print("ready", flush=True)
answers, how = 0, ""
try:
    while not how:
        if asks: s.sendall(b"PING\r\n"); time.sleep(0.02)
        if s.recv(4096): answers += 1
        else: how = "end"
except OSError as e:
    how = type(e).__name__
ended, errors, again = time.time(), [], None
print(json.dumps({"how": how, "ended": ended, "answers": answers}), flush=True)
while again is None and time.time() < ended + 20:
    try:
        n = socket.create_connection((address, port), timeout=10)
        n.settimeout(10); n.sendall(b"PING\r\n")
        if n.recv(100).startswith(b"+PONG"): again = time.time() - ended
        else: errors.append("empty")
    except OSError as e: errors.append(type(e).__name__); time.sleep(0.05)
    if len(sys.argv) > 4: break
print(json.dumps({"again": again, "errors": errors, "after": time.time() - ended}), flush=True)
"""
# ADDRESS PORT: a new connection every 20 ms until stdin ends.
OPENER = r"""
import json, select, socket, sys, threading, time
address, port, lock = sys.argv[1], int(sys.argv[2]), threading.Lock()
refused, unanswered, slowest, opened, threads = [], 0, 0.0, 0, []
def one():
    global unanswered, slowest, opened
    begin = time.time()
    s = socket.socket(); s.settimeout(15)
    try: s.connect((address, port))
    except OSError as e:
        with lock: refused.append(type(e).__name__)
        return
    with lock: slowest = max(slowest, time.time() - begin); opened += 1
    try: s.sendall(b"PING\r\n"); answered = s.recv(100).startswith(b"+PONG")
    except OSError: answered = False
    with lock: unanswered += not answered
    s.close()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    threads.append(threading.Thread(target=one)); threads[-1].start()
for t in threads: t.join(20)
print(json.dumps({"refused": refused, "unanswered": unanswered, "slowest": slowest, "opened": opened}), flush=True)
"""

class Watched:
    """A program on a host that says `ready`, and then a line of JSON for each thing that it sees."""

    def __init__(self, host, code, *words):
        self.process = host.popen(["python3", "-c", code, *map(str, words)], stdin=-1, stdout=-1, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def line(self) -> dict:
        return json.loads(self.process.stdout.readline() or "null")

    def stop(self) -> dict:
        self.process.stdin.close()
        return self.line()

    def runs(self) -> bool:
        return self.process.poll() is None

    def close(self):
        self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def web(tunnelled):  # noqa: F811
    """The clouds, each with a network of that name and addresses of its own."""
    for host in tunnelled.clouds():
        make_network(host, SUBNETS[host.name])
    yield tunnelled
    for host in tunnelled.clouds():
        host.run(["podman", "network", "rm", "-f", "web"], check=False)


def make_network(host, subnets):
    host.run(["podman", "network", "rm", "-f", "web"], check=False)
    v4, v6 = subnets
    host.run(["podman", "network", "create", "--ipv6", "--subnet", f"{v4}0/24", "--subnet", f"{v6}/64", "web"])


@pytest.fixture
def guest(web):
    made = []

    def make(**options):
        made.append(Scene(web, address=OLD, clients=0, options=["--network", "web"], **options))
        return made[-1]

    yield make
    for s in made:
        s.close()
    services.wait_until("nobody exposes it", lambda: all(exposures(h) == [] for h in web.clouds()))
    wait_nothing_placed(web.clouds())


@pytest.fixture
def watch(web):
    programs = []

    def begin(code, *words, host=None):
        programs.append(Watched(host or web.host("client"), code, *words))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


def committed(outcome) -> float:
    """When it was, by the clock that all hosts of the lab share."""
    return next(p["time_unix_ms"] / 1000 for p in outcome.of("phase") if p["phase"] == "commit" and p["state"] == "done")


def addresses(s, host):
    web = s.redis.inspect(host)["NetworkSettings"]["Networks"]["web"]
    return [web["IPAddress"], web["GlobalIPv6Address"]]


def turn_to(s, host, address):
    s.lab.unroute(s.redis.address)
    s.redis.address = address
    s.lab.route(address, host.name)


def move_with_new_ip(s, source, destination, *options):
    old = s.redis.address
    outcome = move(source, "redis", destination.name, "--new-ip", *options)
    assert outcome.code == DONE, outcome.lines[-1] if outcome.lines else outcome.stderr
    now = addresses(s, destination)
    assert sorted(outcome.summary["new_addresses"]) == sorted(now) and old in outcome.summary["old_addresses"]
    assert set(now).isdisjoint(outcome.summary["old_addresses"])
    assert all(a.startswith(subnet) for a, subnet in zip(now, SUBNETS[destination.name]))
    turn_to(s, destination, now[0])
    return outcome


def check_refused(program):
    """Who connects to the old address is told so."""
    r = program.line()
    assert r["errors"] in (["ConnectionRefusedError"], ["OSError"]), r  # EHOSTUNREACH has no name of its own
    return r["errors"][0], round(r["after"], 3)


def check_place(s, here):
    copies = {h.name: s.redis.copies(h) for h in s.lab.clouds()}
    assert copies == {h: int(h == here.name) for h in copies}
    s.redis.wait_answer(here)
    assert s.redis.data_digest(here, s.keys) == s.digest
    assert s.redis.mark(here) == "kept"


def check_ended(program, at):
    """Closed within a second after the commit."""
    r = program.line()
    assert r["how"] in ("end", "ConnectionResetError") and r["ended"] - at < 1, (r, r["ended"] - at)
    return r["how"], round(r["ended"] - at, 3)


def check_again(program):
    """The next connection to the same port was answered, and none before it refused."""
    r = program.line()
    assert r["errors"] == [] and r["again"] is not None, r
    return round(r["again"], 3)


# ADDRESS: when NAME.transship is another than that on this host, and how long there was none.
NAMED = DIG + r"""
import json, time
print("ready", flush=True)
none, begin, now = 0.0, time.time(), sys.argv[1]
while now in (sys.argv[1], "NXDOMAIN", "") and time.time() < begin + 60:
    asked, now = time.time(), ask("redis.transship")
    time.sleep(0.005)
    if now in ("NXDOMAIN", ""): none += time.time() - asked
print(json.dumps({"address": now, "at": time.time(), "none": none}), flush=True)
"""


def check_named(programs, address, at):
    """Every node has said the new one within a second after the commit."""
    said = [p.line() for p in programs]
    assert all(n["address"] == address and n["at"] - at < 1 for n in said), (address, at, said)
    return [(round(n["at"] - at, 3), round(n["none"], 3)) for n in said]


def wait_only_entries(hosts):  # noqa: F811
    """No route and no rule of a container that is somewhere else than at home."""
    def clean():
        lines = [line for h in hosts for line in placed(h).splitlines() if " dev ts" in line]
        return all(line.startswith("default dev ts") for line in lines)

    services.wait_until("no ways of moved containers", clean)


def check_free(host, address):
    """Another container can have it, and reaches the world by it."""
    services.wait_until(f"no route to {address}", lambda: host.run(["ip", "route", "show", address]).stdout.strip() == "")
    other = ["podman", "run", "--rm", "--network", "web", "--ip", address, IMAGE, "redis-cli", "-h", host.address, "-t", "2", "PING"]
    assert "refused" in host.run(other, check=False, timeout=60).stderr


def cli(host, address, *words):
    return host.run(["redis-cli", "-h", address, "-t", "3", *map(str, words)], check=False).stdout.strip()


def test_there_and_back_with_clients_of_three_entries(guest, hosts, watch):  # noqa: F811
    aws, azure, openstack = hosts
    s = guest(mib=4)
    for entry in hosts:
        expose(aws, "redis", 6379, "--on", f"{entry.name}:{PORT}")
    all_entries = {f"{h.name}:{PORT}/tcp" for h in hosts}
    plan = aws.run(["transship", "plan", "redis", "--to", "azure", "--new-ip", "--json"], timeout=60).stdout.splitlines()
    row = next(r for r in map(json.loads, plan) if r.get("check") == "new-address")
    assert row["verdict"] == "ok" and all(e in row["found"] for e in all_entries), row
    for source, destination, mode in ((aws, azure, "auto"), (azure, aws, "post-copy")):
        old = s.redis.address
        _, old_v6 = addresses(s, source)
        s.lab.route(old_v6, source.name)
        direct = [watch(CLIENT, *of, "once") for of in ((old, 6379, "reads"), (old, 6379, "asks"), (old_v6, 6379, "asks"))]
        by_entry = [watch(CLIENT, entry.address, PORT, how) for entry, how in zip(hosts, ("asks", "reads", "asks"))]
        opener = watch(OPENER, openstack.address, PORT)
        names = [watch(NAMED, old, host=h) for h in hosts]
        outcome = move_with_new_ip(s, source, destination, "--mode", mode)
        at = committed(outcome)
        row = next(r for r in outcome.of("plan_row") if r["check"] == "new-address")
        assert row["verdict"] == "warns" and "will be closed" in row["found"], row
        s.lab.unroute(old_v6)
        assert outcome.summary["connections_closed"] >= 6 and set(outcome.summary["entries"]) == all_entries
        print(source.name, "to", destination.name, "gap", outcome.summary["gap_ms"], "ms; direct ends", [check_ended(c, at) for c in direct],
              "and then", [check_refused(c) for c in direct], "by entry", [check_ended(c, at) for c in by_entry], "again after", [check_again(c) for c in by_entry], "names", check_named(names, s.redis.address, at))
        opened = opener.stop()
        assert opened["refused"] == [] and opened["opened"] > 10, opened
        print("opener", opened)
        check_place(s, destination)
        wait_only_entries(hosts)
        check_network(hosts)
        assert [(e["home"], e["place"], e["state"]) for e in exposures(destination)] == [(destination.name, destination.name, "open")] * 3
        check_free(source, old)
        shown = source.run(["transship", "show", outcome.summary["move_id"]]).stdout
        assert s.redis.address in shown and f"instead of {old}" in shown, shown


def test_what_a_container_says_to_itself_goes_on(web, hosts, watch):  # noqa: F811
    """Connections over loopback are restored; direct clients see an end, and then that nobody is there."""
    aws, azure, _ = hosts
    inside = ("redis-server --save '' --protected-mode no & until redis-cli PING; do sleep 0.05; done; "
              "redis-cli SUBSCRIBE news > /data/heard & wait")
    redis = PodmanRedis(web, name="pair", address=OLD)
    try:
        aws.run(["podman", "run", "-d", "--name", "pair", "--network", "web", "--ip", OLD, IMAGE, "sh", "-c", inside], timeout=90)
        web.route(OLD, "aws")
        redis.wait_answer(aws)
        services.wait_until("it has subscribed", lambda: cli(aws, OLD, "PUBSUB", "NUMSUB", "news").split() == ["news", "1"])
        before = subscriber(aws, OLD)
        direct = [watch(CLIENT, OLD, 6379, how, "once") for how in ("reads", "asks")]
        outcome = move(aws, "pair", "azure", "--new-ip")
        assert outcome.code == DONE, outcome.lines[-1]
        print("direct", [check_ended(c, committed(outcome)) for c in direct], "and then", [check_refused(c) for c in direct])
        assert outcome.summary["connections_closed"] == 2
        redis.address = next(a for a in outcome.summary["new_addresses"] if "." in a)
        web.route(redis.address, "azure")
        assert subscriber(azure, redis.address) == before
        assert cli(web.host("client"), redis.address, "PUBLISH", "news", "arrived") == "1"
        services.wait_until("it has heard", lambda: "arrived" in azure.run(["podman", "exec", "pair", "cat", "/data/heard"]).stdout)
    finally:
        for host in hosts:
            redis.remove(host)
        for address in {OLD, redis.address} & set(web.routes()):
            web.unroute(address)


def subscriber(host, address):
    """Of the connection over loopback: its number in Redis, and both addresses."""
    line = next(x for x in cli(host, address, "CLIENT", "LIST", "TYPE", "PUBSUB").splitlines() if " addr=127.0.0.1:" in x)
    return [w for w in line.split() if w.split("=")[0] in ("id", "addr", "laddr")]


def test_a_socket_of_the_old_address_blocks(web, hosts):  # noqa: F811
    aws, _, _ = hosts
    redis = PodmanRedis(web, name="bound", address=OLD)
    try:
        server = ["redis-server", "--bind", OLD, "--protected-mode", "no"]
        aws.run(["podman", "run", "-d", "--name", "bound", "--network", "web", "--ip", OLD, IMAGE, *server], timeout=90)
        redis.wait_answer(aws)
        outcome = move(aws, "bound", "azure", "--new-ip")
        assert outcome.code == REFUSED, outcome.lines[-1]
        row = next(r for r in outcome.of("plan_row") if r["check"] == "bound-address")
        assert row["verdict"] == "blocks" and f"TCP {OLD}:6379" in row["found"] and "0.0.0.0" in row["remedy"]
        assert cli(aws, OLD, "PING") == "PONG"
    finally:
        redis.remove(aws)


def test_rolled_back_every_connection_lives(guest, hosts, watch):  # noqa: F811
    """What fails in the restore, when the sockets have been taken already; afterwards it can move."""
    aws, azure, openstack = hosts
    s = guest(mib=1)
    expose(aws, "redis", 6379, "--on", f"openstack:{PORT}")
    clients = [watch(CLIENT, OLD, 6379, "asks"), watch(CLIENT, OLD, 6379, "reads"), watch(CLIENT, openstack.address, PORT, "asks")]
    azure.run(["podman", "pull", "-q", IMAGE], timeout=60)
    binary = azure.run("ls /var/lib/containers/storage/overlay/*/diff/usr/bin/redis-check-rdb").stdout.split()[0]
    azure.run(["mv", binary, binary + ".away"])
    try:
        outcome = move(aws, "redis", "azure", "--new-ip")
    finally:
        azure.run(["mv", binary + ".away", binary])
    assert outcome.code == ROLLED_BACK and outcome.error["phase"] == "restore" and outcome.error["source_running"], outcome.lines[-1]
    before = pings(aws, OLD)
    services.wait_until("who asks is answered", lambda: pings(aws, OLD) > before + 20)
    assert all(c.runs() for c in clients) and int(cli(aws, OLD, "INFO", "clients").split("connected_clients:")[1].split()[0]) >= 4
    assert [e["home"] for e in exposures(openstack)] == ["aws"]
    at = committed(move_with_new_ip(s, aws, azure))
    check_place(s, azure)
    print("ends", [check_ended(c, at) for c in clients], "again by entry after", check_again(clients[2]))
    expose(azure, "rm", f"openstack:{PORT}")


def pings(host, address) -> int:
    return int(cli(host, address, "INFO", "commandstats").split("cmdstat_ping:calls=")[1].split(",")[0])


def test_a_guest_leaves_its_home_for_good(guest, hosts, watch):  # noqa: F811
    """That is a third node, and the entry too: it forgets the container, and leads to where it has the new address."""
    aws, azure, openstack = hosts
    s = guest(mib=1)
    expose(aws, "redis", 6379, "--on", f"aws:{PORT}")
    make_network(azure, SUBNETS["aws"])  # where it can keep its address
    try:
        assert move(aws, "redis", "azure").code == DONE
        by_entry, direct = watch(CLIENT, aws.address, PORT, "asks"), watch(CLIENT, OLD, 6379, "reads", "once")
        at = committed(move_with_new_ip(s, azure, openstack))
        print("ends", check_ended(by_entry, at), check_ended(direct, at), "again by entry after", check_again(by_entry), check_refused(direct))
        check_place(s, openstack)
        wait_only_entries(hosts)
        services.wait_until("aws has forgotten it", lambda: "redis" not in aws.run(["transship", "network", "check"], check=False).stdout)
        assert [(e["home"], e["state"]) for e in exposures(openstack)] == [("openstack", "open")]
        check_network(hosts)
        check_free(aws, OLD)
    finally:
        for host in hosts:
            s.redis.remove(host)
        make_network(azure, SUBNETS["azure"])


def test_home_again_and_not_at_its_address(guest, hosts, watch):  # noqa: F811
    """A guest comes back to its home, which is the destination then, and the home of its new address."""
    aws, azure, openstack = hosts
    s = guest(mib=1)
    expose(aws, "redis", 6379, "--on", f"openstack:{PORT}")
    make_network(azure, SUBNETS["aws"])
    try:
        assert move(aws, "redis", "azure").code == DONE
        by_entry = watch(CLIENT, openstack.address, PORT, "asks")
        at = committed(move_with_new_ip(s, azure, aws))
        print("ends", check_ended(by_entry, at), "again by entry after", check_again(by_entry))
        check_place(s, aws)
        wait_only_entries(hosts)
        services.wait_until("aws knows it as its own", lambda: "redis" not in aws.run(["transship", "network", "check"], check=False).stdout)
        assert [(e["home"], e["place"], e["state"], e["addresses"]) for e in exposures(aws)] == [("aws", "aws", "open", addresses(s, aws))]
        check_network(hosts)
    finally:
        for host in hosts:
            s.redis.remove(host)
        make_network(azure, SUBNETS["azure"])


@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_daemon_is_killed_after_the_decision(guest, hosts, watch, which):  # noqa: F811
    """Whoever comes after it goes on: connections end, and the entry leads to the new address."""
    aws, azure, openstack = hosts
    s = guest(mib=1)
    expose(aws, "redis", 6379, "--on", f"openstack:{PORT}")
    direct, by_entry = watch(CLIENT, OLD, 6379, "asks"), watch(CLIENT, openstack.address, PORT, "asks")
    running = RunningMove(aws, "redis", "azure", ("--new-ip",))
    assert running.wait_phase("release"), running.lines[-3:]
    victim = aws if which == "source" else azure
    kill_daemon(victim)
    start_daemon(victim)
    running.outcome()
    services.wait_until("one copy runs, on azure", lambda: (s.redis.copies(azure), s.redis.copies(aws)) == (1, 0))
    turn_to(s, azure, addresses(s, azure)[0])
    check_place(s, azure)
    services.wait_until("azure has the say, and aws none", lambda: exposures(aws) == [] and [(e["home"], e["state"]) for e in exposures(azure)] == [("azure", "open")])
    r = by_entry.line()
    ended = direct.line()
    print(which, "by entry", r["how"], "again after", check_again(by_entry), "direct", ended["how"])
    assert {r["how"], ended["how"]} <= {"end", "ConnectionResetError"}, (r, ended)
    wait_only_entries(hosts)
    check_free(aws, OLD)
