"""The lab itself: it comes up, keeps hosts apart, and leaves nothing behind.

  aws 10.10.1.2 ─┐
  azure 10.20.1.2 ├─ wan (router, route table on port 8179) ─┬─ client 10.40.1.2
  openstack 10.30.1.2 ─┘                                     └─ registry 10.50.1.2
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labkit import cgroup, config, services, state
from labkit.api import CLOUDS, REGISTRY, CommandFailed, Lab, LabError

LAB_PY = config.SOURCE / "lab/lab.py"
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
REDIS = f"{REGISTRY}/redis:lab"


def cli(lab: Lab, *words, **kwargs):
    return subprocess.run([str(LAB_PY), "--name", lab.name, *words], capture_output=True, text=True, timeout=60, **kwargs)


def machine_network() -> str:
    """Links, addresses, routes and rules of the machine's own network namespace."""
    parts = (["link"], ["-4", "route", "show", "table", "all"], ["-4", "rule"], ["-6", "rule"])
    return "".join(subprocess.run(["ip", "-o", *p], capture_output=True, text=True, timeout=10, check=True).stdout for p in parts)


def namespaces_of(pids) -> set[str]:
    found = set()
    for pid in pids:
        for kind in NAMESPACES:
            try:
                found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            except OSError:
                pass
    return found


def users_of(namespaces: set[str], before: float) -> list[str]:
    """Processes older than `before` (seconds since boot) that are in one of the namespaces."""
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        inside = namespaces_of([pid]) & namespaces
        if inside and state.start_time(pid) / os.sysconf("SC_CLK_TCK") < before:
            users.append(f"{cgroup.describe(pid)} in {inside}")
    return users


def mounts_with(text: str) -> list[str]:
    """Mounts, in any process's view, whose line holds the text."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found |= {line for line in (process / "mountinfo").read_text().splitlines() if text in line}
        except OSError:
            pass
    return sorted(found)


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def assert_nothing_left(lab: Lab, namespaces: set[str], down_at: float) -> None:
    """`down_at`: when down began. Numbers of namespaces are used again, so only processes older than that can be ours."""
    assert lab.leftovers() == []
    assert not cgroup.lab_cgroup(lab.name).exists()
    # What was killed may take a moment to be gone on a busy machine.
    end = time.monotonic() + 5
    while users_of(namespaces, down_at) and time.monotonic() < end:
        time.sleep(0.1)
    assert users_of(namespaces, down_at) == []
    assert mounts_with(f"{config.LAB_DIR}/{lab.name}/") == []
    assert not [p for p in config.LAB_DIR.glob(f"*{lab.name}*")]


def test_up_is_quick_and_down_leaves_nothing(fresh_lab, capsys):
    network = machine_network()
    begin = time.monotonic()
    fresh_lab.up()
    took_up = time.monotonic() - begin
    own = namespaces_of([os.getpid()])
    namespaces = namespaces_of(cgroup.processes(cgroup.lab_cgroup(fresh_lab.name))) - own
    assert len(namespaces) == 6 * len(NAMESPACES), "six hosts, each with all its namespaces"
    assert machine_network() == network, "nothing may be added to the machine's network, not even while the lab is up"
    fresh_lab.host("aws").run(["podman", "run", "-d", REDIS])
    namespaces |= namespaces_of(cgroup.processes(cgroup.lab_cgroup(fresh_lab.name))) - own

    down_at = now()
    fresh_lab.down()
    took_down = now() - down_at
    assert_nothing_left(fresh_lab, namespaces, down_at)
    assert machine_network() == network
    with capsys.disabled():
        print(f"\nup {took_up:.1f} s, down {took_down:.1f} s")
    assert took_up < 20
    assert took_down < 10


def test_down_ends_hung_and_frozen_processes(fresh_lab):
    fresh_lab.up()
    aws = fresh_lab.host("aws")
    aws.spawn(["/bin/sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done"])
    deep = "/sys/fs/cgroup/deep"
    aws.run(["mkdir", deep, f"{deep}/er"])
    aws.spawn(["/bin/sh", "-c", f"echo 0 > {deep}/er/cgroup.procs; exec sleep 1000"])
    services.wait_until("the process to be in its cgroup", lambda: aws.run(["cat", f"{deep}/er/cgroup.procs"]).stdout)
    aws.run(f"echo 1 > {deep}/cgroup.freeze")
    services.wait_until("the freeze", lambda: "frozen 1" in aws.run(["cat", f"{deep}/er/cgroup.events"]).stdout)
    namespaces = namespaces_of([aws.pid])
    down_at = now()
    fresh_lab.down()
    assert now() - down_at < 10
    assert_nothing_left(fresh_lab, namespaces, down_at)


def test_up_that_fails_cleans_up_and_says_why(fresh_lab, monkeypatch):
    monkeypatch.setattr(services, "REGISTRY_CONF", "version: 0.1\nstorage: {nonsense: {}}\nhttp: {addr: ':5000'}\n")
    monkeypatch.setattr(services, "READY_TIMEOUT", 2.0)
    with pytest.raises(LabError, match="registry did not come up"):
        fresh_lab.up()
    assert_nothing_left(fresh_lab, set(), 0)


@pytest.mark.parametrize("after", [0.1, 0.3, 0.6, 1.2])
def test_down_cleans_up_after_a_killed_up(fresh_lab, after):
    up = subprocess.Popen([str(LAB_PY), "--name", fresh_lab.name, "up"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)  # not a wait for something: where it is hit should differ
    up.send_signal(signal.SIGKILL)
    up.wait(timeout=10)
    namespaces = namespaces_of(cgroup.processes(cgroup.lab_cgroup(fresh_lab.name))) - namespaces_of([os.getpid()])
    down_at = now()
    fresh_lab.down()
    assert_nothing_left(fresh_lab, namespaces, down_at)


def test_up_that_is_told_to_end_cleans_up_itself(fresh_lab):
    up = subprocess.Popen([str(LAB_PY), "--name", fresh_lab.name, "up"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    services.wait_until("the hosts", lambda: state.state_file(fresh_lab.name).exists())
    up.terminate()
    _, errors = up.communicate(timeout=20)
    assert up.returncode == 143
    assert b"cleaning up" in errors
    assert_nothing_left(fresh_lab, set(), 0)


def test_status_of_no_lab_and_of_leftovers(fresh_lab):
    none = cli(fresh_lab, "status")
    assert none.returncode == 0 and "no lab" in none.stdout
    assert json.loads(cli(fresh_lab, "status", "--json").stdout)["state"] == "none"
    cgroup.create_host(fresh_lab.name, "aws")
    facts = json.loads(cli(fresh_lab, "status", "--json").stdout)
    assert facts["state"] == "leftovers" and "cgroup" in facts["leftovers"][0]
    assert cli(fresh_lab, "up").returncode == 1, "up must not build on leftovers"
    assert cli(fresh_lab, "down").returncode == 0
    assert cli(fresh_lab, "down").returncode == 0, "down of nothing is fine"


def test_two_labs_do_not_see_each_other(lab, fresh_lab):
    fresh_lab.up()
    lab.route("10.88.0.77", "aws")
    fresh_lab.route("10.88.0.78", "azure")
    assert lab.routes() == {"10.88.0.77": "10.10.1.2"}
    assert fresh_lab.routes() == {"10.88.0.78": "10.20.1.2"}
    lab.unroute("10.88.0.77")
    fresh_lab.host("aws").put("/etc/only-here", "x")
    assert not lab.host("aws").path("/etc/only-here").exists()
    assert lab.host("aws").get("/etc/machine-id") != fresh_lab.host("aws").get("/etc/machine-id")
    os.kill(fresh_lab.host("azure").pid, signal.SIGKILL)
    services.wait_until("the death of azure", lambda: fresh_lab.status()["state"] == "broken")
    with pytest.raises(LabError, match="azure.*is dead"):
        fresh_lab.host("azure").run(["true"])
    fresh_lab.down()
    assert lab.status()["state"] == "up"
    lab.host("client").run(["ping", "-c1", "-W2", "azure"])


def test_labs_of_another_directory_are_left_alone(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "LAB_DIR", tmp_path)
    same_name = Lab(lab.name)
    assert same_name.status()["state"] == "none"
    same_name.down()
    monkeypatch.undo()
    assert lab.status()["state"] == "up"


def test_exec_passes_everything_through(lab):
    aws = lab.host("aws")
    data = os.urandom(1 << 20)
    assert aws.run(["cat"], input=data, text=False).stdout == data
    with pytest.raises(CommandFailed, match="failed with 7"):
        aws.run("echo to-stderr >&2; exit 7")
    through_cli = cli(lab, "exec", "aws", "sh", "-c", "cat; echo err >&2; exit 9", input="hello")
    assert (through_cli.returncode, through_cli.stdout, through_cli.stderr) == (9, "hello", "err\n")
    variables = aws.run(["env"]).stdout.splitlines()
    assert {v.partition("=")[0] for v in variables} == {"HOME", "LANG", "PATH", "TERM"}
    assert aws.run(["hostname"]).stdout == "aws\n"
    assert aws.run(["readlink", "/proc/1/ns/pid"]).stdout == aws.run(["readlink", "/proc/self/ns/pid"]).stdout
    assert cli(lab, "exec", "mars", "true").returncode == 1
    assert cli(lab, "exec", "aws", "no-such-program").returncode == 127


def test_exec_is_quick(lab, capsys):
    def once(run):
        begin = time.monotonic()
        run()
        return (time.monotonic() - begin) * 1000

    # The shortest: what it costs when the machine is not busy with something else.
    api = min(once(lambda: lab.host("aws").run(["true"])) for _ in range(20))
    command = min(once(lambda: cli(lab, "exec", "aws", "true")) for _ in range(20))
    with capsys.disabled():
        print(f"\nexec: {api:.0f} ms by the API, {command:.0f} ms by the command line")
    assert api < 50
    assert command < 150


def test_killing_an_exec_kills_the_command(lab):
    aws = lab.host("aws")
    command = aws.popen(["sleep", "4711"])
    services.wait_until("the command", lambda: aws.run("pgrep -f 'sleep 471[1]'", check=False).returncode == 0)
    # The shell has become nsenter, whose child in the host is tied to its life.
    command.kill()
    command.wait(timeout=5)
    services.wait_until("its end", lambda: aws.run("pgrep -f 'sleep 471[1]'", check=False).returncode == 1)


def test_init_reaps_orphans_and_restarts_services(lab):
    aws = lab.host("aws")
    aws.run("for i in 1 2 3 4 5; do (sleep 0.05 & ) ; done")
    services.wait_until("the reaping", lambda: "sleep" not in aws.run(["ps", "-eo", "stat,comm"]).stdout)
    assert not [line for line in aws.run(["ps", "-eo", "stat,comm"]).stdout.splitlines() if line.startswith("Z")]
    before = aws.services()["podman"]
    aws.run(["kill", "-9", str(before["pid"])])
    services.wait_until("the restart", lambda: aws.services()["podman"]["pid"] not in (0, before["pid"]))
    assert aws.services()["podman"]["starts"] == before["starts"] + 1
    services.wait_until("Podman", lambda: services.podman_listens(aws.record))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_podman_service_answers(lab, cloud):
    answer = lab.host(cloud).run(["curl", "-sS", "--unix-socket", "/run/podman/podman.sock", "http://d/v5.0.0/libpod/info"]).stdout
    info = json.loads(answer)
    assert info["host"]["ociRuntime"]["name"] == "runc"
    assert info["host"]["eventLogger"] == "file"
    assert info["host"]["cgroupManager"] == "cgroupfs"
    assert info["store"]["graphDriverName"] == "overlay"
    assert info["host"]["hostname"] == cloud


def test_ssh_between_clouds(lab):
    for source in ("aws", "azure", "client"):
        for destination in ("openstack", "azure", "10.10.1.2", "aws.lab"):
            done = lab.host(source).run(["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", destination, "hostname"])
            assert done.stdout.strip() == ("aws" if destination in ("10.10.1.2", "aws.lab") else destination)


@pytest.mark.parametrize("cloud", ["aws", "azure"])
def test_redis_from_the_registry_answers_the_client(lab, cloud):
    host = lab.host(cloud)
    host.run(["podman", "pull", "-q", REDIS])
    host.run(["podman", "run", "-d", "--name", "r1", "--ip", "10.88.0.10", REDIS])
    lab.route("10.88.0.10", cloud)
    try:
        client = lab.host("client")
        ping = ["redis-cli", "-h", "10.88.0.10", "ping"]
        services.wait_until("Redis", lambda: client.run(ping, check=False).stdout == "PONG\n")
        assert host.run(["podman", "exec", "r1", "sh", "-c", "ls -d /data && cat /etc/passwd"]).stdout.startswith("/data\nroot:x:0")
        image = json.loads(host.run(["podman", "image", "inspect", REDIS]).stdout)[0]
        assert len(image["RootFS"]["Layers"]) >= 2
        assert not image["Config"].get("Volumes")
        limits = host.run(["podman", "inspect", "-f", "{{.OCIRuntime}} {{.HostConfig.LogConfig.Type}}", "r1"]).stdout
        assert limits == "runc k8s-file\n"
    finally:
        lab.unroute("10.88.0.10")
        host.run(["podman", "rm", "-f", "-t0", "r1"])


def test_images_are_the_same_when_built_again(tmp_path, monkeypatch):
    from labkit import images
    first = images.ensure("redis")
    monkeypatch.setattr(config, "IMAGES", tmp_path)
    second = images.ensure("redis")
    assert first != second
    assert (first / "index.json").read_bytes() == (second / "index.json").read_bytes()


def test_wrong_use_is_explained(lab):
    for words, text in (
        (["shape", "mars", "--rate", "1gbit"], "no link"),
        (["shape", "aws", "--rate", "fast"], "is not a rate"),
        (["shape", "aws", "--loss", "200%"], "is not a loss"),
        (["shape", "aws", "--delay", "99s"], "out of range"),
        (["up"], "up already"),
        (["image", "../../etc/passwd"], "no recipe"),
        (["route", "10.88.0.300", "aws"], "refused"),
        (["deploy", "--build", "/nonexistent"], "does not hold"),
    ):
        done = cli(lab, *words)
        assert done.returncode == 1 and text in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
    with pytest.raises(LabError, match="cannot be the name"):
        Lab("../x")
    assert subprocess.run([sys.executable, str(LAB_PY), "no-such-verb"], capture_output=True, timeout=10).returncode == 2
