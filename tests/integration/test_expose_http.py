"""HTTP entries: several containers behind one, and requests that go on while one of them moves, fails, or is taken out.

  client ── openstack:8088, HAProxy ══ ts ══ aws: home of web1 (10.88.0.61) and web2 (10.88.0.62) ══ ts ══ azure
         ── aws:8089, HAProxy, their home itself
"""

import json
import subprocess
import time

import pytest

from demokit.http_echo import HttpLoad, PodmanEcho, PORT
from labkit import deploy, services
from moving import CANCELLED, RunningMove, move
from test_daemon_killed import kill_daemon, start_daemon
from test_expose import check_network, expose, exposures
from test_move_fails import restart_daemon
from test_tunnel_moves import done, hosts, tunnelled, wait_nothing_placed  # noqa: F401

ENTRY, OWN = 8088, 8089
DIRECTORY = "/run/transship-http"


@pytest.fixture(scope="module")
def webs(tunnelled):  # noqa: F811
    both = [PodmanEcho(tunnelled, f"web{n}", f"10.88.0.6{n}") for n in (1, 2)]
    try:
        for web in both:
            web.create(tunnelled.host("aws"))
        yield both
    finally:
        for web in both:
            web.remove()


@pytest.fixture(autouse=True)
def nothing_left(hosts):  # noqa: F811
    """Takes away what is left of entries, and looks whether anything stays that belongs to them."""
    yield
    for host in hosts:
        for e in exposures(host):
            expose(host, "rm", f"{e['node']}:{e['port']}/{e['protocol']}", check=False)
    services.wait_until("no exposed ports", lambda: all(exposures(h) == [] for h in hosts))
    services.wait_until("nothing of HAProxy anywhere", lambda: all(left_of_haproxy(h) == "" for h in hosts))


def left_of_haproxy(host):
    return host.run(f"pgrep -x haproxy; ls -d {DIRECTORY} 2>/dev/null; ip -o addr show dev lo | grep -E '169.254.185.80|8657::80'; "
                    "ss -Hltn 'sport = :8088 or sport = :8089'", check=False).stdout.strip()


def states(host):
    return {e["container"]: e["state"] for e in exposures(host)}


def wait_states(host, **wanted):
    services.wait_until(f"{wanted} on {host.name}", lambda: states(host) == wanted)


def haproxy_pid(host, port=ENTRY):
    return host.run(f"cat {DIRECTORY}/{port}.pid", check=False).stdout.strip()


def get(client, host, path="/", port=ENTRY):
    said = client.run(["curl", "-sS", "-m", "10", "-w", "\n%{http_code}", f"http://{host.address}:{port}{path}"], check=False, timeout=20)
    body, _, code = said.stdout.rpartition("\n")
    return int(code or 0), body


def names(client, host, count=6, port=ENTRY):
    return [json.loads(body)["name"] if code == 200 else code for code, body in (get(client, host, port=port) for _ in range(count))]


def check_load(load, containers, closed=0):
    report = load.stop()
    print(report)
    assert report["failures"] == [] and set(report["statuses"]) == {"200"}, report
    assert set(report["names"]) == containers, report
    assert report["closed"] <= closed
    return report


def test_one_of_two_moves_and_then_the_only_one(webs, hosts):  # noqa: F811
    aws, azure, openstack = hosts
    client = webs[0].lab.host("client")
    for web in webs:
        expose(aws, web.name, f"{PORT}/http", "--on", f"openstack:{ENTRY}")
    wait_states(openstack, web1="up", web2="up")
    wait_states(aws, web1="up", web2="up")  # it asks the entry
    code, body = get(client, openstack)
    answer = json.loads(body)
    assert code == 200 and answer["forwarded"] == [client.address] and answer["peer"].startswith("::ffff:198.1")
    assert set(names(client, openstack)) == {"web1", "web2"}

    load = HttpLoad(client, openstack.address, ENTRY)
    done(move(aws, "web1", "azure"))
    check_load(load, {"web1", "web2"})
    log = openstack.run("grep -E 'web1 (moves|is back)' /var/log/transship/transshipd.log").stdout.splitlines()
    assert ["moves" in line for line in log] == [True, False], log
    wait_states(openstack, web1="up", web2="up")
    check_network(hosts)

    # web2 goes while it has a request.
    slow = []
    for _ in webs:  # the second one goes to whoever has none
        slow.append(client.popen(["curl", "-sS", "-m", "20", f"http://{openstack.address}:{ENTRY}/slow?6"], stdout=subprocess.PIPE, text=True))
        services.wait_until("it is there", lambda: sum(sessions(openstack).values()) == len(slow))
    assert sessions(openstack) == {"web1": 1, "web2": 1}
    load = HttpLoad(client, openstack.address, ENTRY)
    said = expose(openstack, "rm", f"openstack:{ENTRY}/http", "web2", "--json").stdout
    assert json.loads(said)["draining"] is True
    services.wait_until("it is draining", lambda: states(openstack).get("web2") == "draining")
    assert set(names(client, openstack)) == {"web1"}
    assert sorted(s.communicate(timeout=30)[0] for s in slow) == ["web1\nweb1\n", "web2\nweb2\n"]
    wait_states(openstack, web1="up")
    services.wait_until("its home has heard it", lambda: [e["container"] for e in exposures(aws)] == ["web1"])
    check_load(load, {"web1", "web2"})

    # And web1 goes home, with nobody to take its place. It stands still for longer than its checks would allow.
    assert get(client, openstack, "/fill?230")[0] == 200
    load = HttpLoad(client, openstack.address, ENTRY)
    azure.lab.shape("azure", rate="200mbit")
    try:
        cancelled = RunningMove(azure, "web1", "aws", ("--mode", "stop-copy"))
        assert cancelled.wait_phase("dump")
        wait_states(openstack, web1="paused")
        cancelled.interrupt()
        assert cancelled.outcome().code == CANCELLED
        wait_states(openstack, web1="up")
        summary = done(move(azure, "web1", "aws", "--mode", "stop-copy"))
    finally:
        azure.lab.clear_shape("azure")
    assert summary["gap_ms"] > 9000
    report = check_load(load, {"web1"})
    assert report["longest_ms"] > 9000  # they have waited
    check_network(hosts)
    wait_states(openstack, web1="up")


def sessions(host):
    """Requests that each container has."""
    script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'show stat containers 4 -1\\n'); "
              "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())")
    lines = host.run(["python3", "-c", script, f"{DIRECTORY}/{ENTRY}.sock"]).stdout.splitlines()
    heading = lines[0].removeprefix("# ").split(",")
    rows = [dict(zip(heading, line.split(","))) for line in lines[1:] if line]
    return {row["svname"].rsplit("-", 1)[0]: int(row["scur"]) for row in rows}


def test_who_fails_gets_no_requests(webs, hosts):  # noqa: F811
    """On the home itself, with checks by HTTP."""
    aws, azure, _ = hosts
    client = webs[0].lab.host("client")
    for web in webs:
        expose(aws, web.name, f"{PORT}/http", "--on", f"aws:{OWN}", "--health", "/health")
    wait_states(aws, web1="up", web2="up")
    assert [e["health"] for e in exposures(aws)] == ["/health"] * 2
    load = HttpLoad(client, aws.address, OWN)
    aws.run("podman exec web2 touch /data/sick")
    wait_states(aws, web1="up", web2="down")
    assert set(names(client, aws, port=OWN)) == {"web1"}
    aws.run("podman exec web2 rm /data/sick")
    wait_states(aws, web1="up", web2="up")
    # Its home is the entry, and it leaves; an upload has larger packets than the tunnel takes.
    done(move(aws, "web1", "azure"))
    check_load(load, {"web1", "web2"})
    expose(aws, "rm", f"aws:{OWN}/http", "web2")
    wait_states(aws, web1="up")
    client.run("head -c 3000000 /dev/urandom >/tmp/upload")
    sums = client.run("sha256sum /tmp/upload").stdout.split()[0]
    answer = client.run(["curl", "-sS", "-m", "20", "-T", "/tmp/upload", f"http://{aws.address}:{OWN}/"], timeout=30)
    assert json.loads(answer.stdout)["sha256"] == sums
    azure.run("podman stop -t 0 web1", timeout=30)
    wait_states(aws, web1="down")
    assert get(client, aws, port=OWN)[0] == 503
    azure.run("podman start web1", timeout=30)
    wait_states(aws, web1="up")
    assert names(client, aws, 1, port=OWN) == ["web1"]
    done(move(azure, "web1", "aws"))


def test_it_lasts_over_daemons_and_haproxies(webs, hosts):  # noqa: F811
    aws, azure, openstack = hosts
    client = webs[0].lab.host("client")
    expose(aws, "web1", f"{PORT}/http", "--on", f"openstack:{ENTRY}")
    expose(aws, "web2", f"{PORT}/http", "--on", f"openstack:{ENTRY}")
    wait_states(openstack, web1="up", web2="up")
    pid = haproxy_pid(openstack)
    load = HttpLoad(client, openstack.address, ENTRY)
    for host in (openstack, aws):
        kill_daemon(host)
    try:
        assert set(names(client, openstack)) <= {"web1", "web2"}  # beside the load it may be the same one each time
    finally:
        for host in (openstack, aws):
            start_daemon(host)
    wait_states(openstack, web1="up", web2="up")
    assert haproxy_pid(openstack) == pid
    # One with another configuration, of an older version for example, hands its port on. Its clients are told to begin anew.
    openstack.run(f"sed -i 's/^global/# older\\nglobal/' {DIRECTORY}/{ENTRY}.cfg")
    services.wait_until("another HAProxy", lambda: haproxy_pid(openstack) not in ("", pid))
    services.wait_until("the end of the old one", lambda: openstack.run(["test", "-d", f"/proc/{pid}"], check=False).returncode != 0)
    wait_states(openstack, web1="up", web2="up")
    pid = haproxy_pid(openstack)
    check_load(load, {"web1", "web2"}, closed=8)
    begin = time.monotonic()
    openstack.run(["kill", "-KILL", pid])
    services.wait_until("another HAProxy", lambda: get(client, openstack)[0] == 200)
    print("back after", time.monotonic() - begin)
    assert haproxy_pid(openstack) not in ("", pid)
    assert set(names(client, openstack)) == {"web1", "web2"}
    openstack.run("ip addr del 169.254.185.80/32 dev lo")
    services.wait_until("the address is back", lambda: "185.80" in openstack.run("ip -o addr show dev lo").stdout)
    services.wait_until("an answer", lambda: get(client, openstack)[0] == 200)


def test_what_cannot_be_is_said(webs, hosts):  # noqa: F811
    aws, azure, _ = hosts

    def refused(why, *words, code=1):
        answer = expose(aws, *words, check=False)
        assert answer.returncode == code and why in answer.stderr, answer.stderr

    refused("is not a path", "web1", f"{PORT}/http", "--on", f"aws:{OWN}", "--health", "/a;b", code=2)
    refused("port 7440/tcp is taken", "web1", f"{PORT}/http", "--on", "aws:7440")
    refused("port 7440/tcp is taken", "web1", f"{PORT}/http", "--on", "azure:7440")
    expose(aws, "web1", f"{PORT}/http", "--on", f"azure:{ENTRY}", "--health", "/health")
    refused("checks its containers with --health /health", "web2", f"{PORT}/http", "--on", f"azure:{ENTRY}")
    refused("leads to web1 already", "web1", f"{PORT}/http", "--on", f"azure:{ENTRY}", "--health", "/health")
    refused(f"port {ENTRY}/tcp", "web2", str(PORT), "--on", f"azure:{ENTRY}")
    expose(aws, "web2", str(PORT), "--on", f"aws:{OWN}")
    refused(f"port {OWN}/tcp leads to web2 already, as tcp", "web1", f"{PORT}/http", "--on", f"aws:{OWN}")
    refused("no container web2", "rm", f"azure:{ENTRY}/http", "web2")
    expose(azure, "rm", f"azure:{ENTRY}/http")
    services.wait_until("it is gone", lambda: exposures(azure) == [])
    config = azure.get(deploy.CONFIG)
    azure.put(deploy.CONFIG, config + b'\n[http]\nprogram = "no-such-haproxy"\n')
    try:
        restart_daemon(azure)
        refused("install haproxy", "web1", f"{PORT}/http", "--on", f"azure:{ENTRY}")
    finally:
        azure.put(deploy.CONFIG, config)
        restart_daemon(azure)
    assert exposures(azure) == []


def test_it_comes_back_with_another_address(webs, hosts):  # noqa: F811
    """Clients' connections stay, those to the container are made anew: once by itself, once with another beside it."""
    aws, azure, openstack = hosts
    client = webs[0].lab.host("client")
    for others in ((), ("web2",)):
        source, destination = (aws, azure) if not others else (azure, aws)
        for name in ("web1",) if not others else others:
            expose(aws, name, f"{PORT}/http", "--on", f"openstack:{ENTRY}")
        wait_states(openstack, web1="up", **dict.fromkeys(others, "up"))
        load = HttpLoad(client, openstack.address, ENTRY)
        summary = done(move(source, "web1", destination.name, "--new-ip"))
        time.sleep(1)
        report = check_load(load, {"web1", *others})
        print(destination.name, summary["gap_ms"], "longest request", report["longest_ms"])
        wait_states(openstack, web1="up", **dict.fromkeys(others, "up"))
        assert [e["container"] for e in exposures(destination) if e["node"] == "openstack"].count("web1") == 1
        services.wait_until("the old home has forgotten it", lambda: "web1" not in states(source))
    check_network(hosts)


def test_it_ends_with_its_container(webs, hosts):  # noqa: F811
    aws, _, openstack = hosts
    client = webs[0].lab.host("client")
    for web in webs:
        expose(aws, web.name, f"{PORT}/http", "--on", f"openstack:{ENTRY}")
    wait_states(openstack, web1="up", web2="up")
    webs[1].remove()
    wait_states(openstack, web1="up")
    assert set(names(client, openstack)) == {"web1"}
    webs[0].remove()
    services.wait_until("nobody exposes them", lambda: all(exposures(h) == [] for h in hosts))
    wait_nothing_placed(hosts)
