"""Moves that must not succeed: a clear error, the source goes on, nothing is left behind."""

import contextlib
import subprocess
import time

import pytest

from gate_kit import kill_at_exit, wait_for
from labkit import deploy, services
from moving import CANCELLED, DONE, FAILED, REFUSED, ROLLED_BACK, RunningMove, Scene, link_cut, move

SLOW = "100mbit"  # 32 MiB take three seconds: time to do something in the middle
PHASES = ["plan", "reserve", "prepare", "rootfs", "ready", "memory", "dump", "transfer", "restore"]
# Where the memory is on its way: before the freeze in one mode, after it in the other.
MOMENTS = [("pre-copy", "memory"), ("stop-copy", "transfer"), ("post-copy", "restore")]


@pytest.fixture(scope="module")
def slow_lab(moving_lab):
    for host in ("aws", "azure", "openstack"):
        moving_lab.shape(host, rate=SLOW)
    yield moving_lab
    for host in ("aws", "azure", "openstack"):
        moving_lab.clear_shape(host)


@pytest.fixture
def scene(slow_lab):
    s = Scene(slow_lab, mib=32)
    yield s
    s.close()


@pytest.fixture
def small(slow_lab):
    s = Scene(slow_lab, mib=1)
    yield s
    s.close()


def check_error(outcome, code, *words):
    assert outcome.code == code, f"{outcome.lines[-3:]} {outcome.stderr}"
    text = f"{outcome.error['message']} {outcome.error.get('remedy', '')}"
    for word in words:
        assert word in text, text


def test_wrong_name(small):
    check_error(move(small.home, "no-such", "azure"), FAILED, "no-such", "transship ps")
    check_error(move(small.home, "docker:redis", "azure"), FAILED, "docker", "podman")
    small.check_runs_on("aws")


def test_wrong_peer(small):
    check_error(move(small.home, "redis", "nowhere"), FAILED, "nowhere", "transship peer")
    small.check_runs_on("aws")


def test_dead_peer(small):
    small.lab.host("azure").stop_service("transshipd")
    try:
        outcome = move(small.home, "redis", "azure")
        assert outcome.code in (FAILED, REFUSED, ROLLED_BACK) and outcome.seconds < 30
        assert "azure" in outcome.error["message"]
        assert outcome.error["source_running"]
    finally:
        restart_daemon(small.lab.host("azure"))
    small.check_runs_on("aws")


def restart_daemon(host):
    deploy.stop_daemon(host.record)
    deploy.start_daemon(host.record)
    services.wait_until(f"transshipd on {host.name}", lambda: deploy.daemon_answers(host.record))


def test_what_cannot_move_is_refused_by_the_plan(slow_lab):
    s = Scene(slow_lab, mib=1, options=["--volume", "/etc/hostname:/precious"])
    try:
        outcome = move(s.home, "redis", "azure")
        check_error(outcome, REFUSED, "bind /etc/hostname on /precious")
        s.home.run(["transship", "plan", "redis", "--to", "azure"], check=False)
        s.check_runs_on("aws")
    finally:
        s.close()


def test_no_room_on_the_destination(small):
    openstack = small.lab.host("openstack")
    config = openstack.get("/etc/transship/transshipd.toml").decode()
    openstack.put("/etc/transship/transshipd.toml", config + "\n[move]\nmemory_margin_mib = 1000000\n")
    restart_daemon(openstack)
    try:
        check_error(move(small.home, "redis", "openstack"), REFUSED, "memory")
    finally:
        openstack.put("/etc/transship/transshipd.toml", config)
        restart_daemon(openstack)
    small.check_runs_on("aws")


def test_a_second_move_of_the_same_container(scene):
    first = RunningMove(scene.home, "redis", "azure")
    assert first.wait_phase("memory")
    check_error(move(scene.home, "redis", "openstack"), FAILED, "podman:redis is being moved already")
    assert first.outcome().code == DONE
    scene.check_runs_on("azure")


@pytest.mark.parametrize("mode,phase", [("auto", phase) for phase in PHASES] + MOMENTS[1:])
def test_ctrl_c(scene, mode, phase):
    running = RunningMove(scene.home, "redis", "azure", ("--mode", mode))
    assert running.wait_phase(phase)
    running.interrupt()
    outcome = running.outcome()
    if outcome.code == DONE:  # it was over before the signal came
        scene.check_runs_on("azure")
        return
    assert outcome.code == CANCELLED, outcome.lines[-1]
    assert outcome.error["source_running"]
    scene.check_runs_on("aws")


def test_a_move_that_is_committed_goes_on_after_ctrl_c(scene):
    running = RunningMove(scene.home, "redis", "azure", ("--mode", "post-copy"))
    assert running.wait_phase("follow"), running.outcome().lines[-1]
    running.interrupt()
    outcome = running.outcome()
    assert outcome.code == DONE, outcome.lines[-1]
    assert outcome.summary["mode"] == "post-copy"
    scene.check_runs_on("azure")


@pytest.mark.parametrize("mode,phase", MOMENTS[:2])
def test_the_client_is_killed(scene, mode, phase):
    running = RunningMove(scene.home, "redis", "azure", ("--mode", mode))
    assert running.wait_phase(phase)
    running.kill()
    running.process.wait(20)
    deadline = time.monotonic() + 30
    while scene.home.run(["transship", "node", "info", "--json"]).stdout.find('"moves_running":0') < 0:
        assert time.monotonic() < deadline, "the move went on for ever"
        time.sleep(0.2)
    scene.check_runs_on("aws")


def test_cancel_from_another_terminal(scene):
    running = RunningMove(scene.home, "redis", "azure")
    assert running.wait_phase("memory")
    scene.home.run(["transship", "cancel", running.lines[0]["move_id"]])
    outcome = running.outcome()
    assert outcome.code == CANCELLED and outcome.error["source_running"]
    again = scene.home.run(["transship", "cancel", running.lines[0]["move_id"]], check=False)
    assert again.returncode == FAILED and "that move does not run" in again.stderr and "transship show" in again.stderr
    scene.check_runs_on("aws")


def test_progress_has_the_rate_of_now_and_the_time_left(scene):
    """The rate is that of what was handed to the lanes, not what the link was measured to carry."""
    running = RunningMove(scene.home, "redis", "azure", ("--compress", "none", "--bwlimit", "20mbit"))
    wait_for("the second round", lambda: any(line.get("round", 0) > 1 for line in list(running.lines)), timeout=60)
    running.interrupt()
    outcome = running.outcome()
    assert outcome.code == CANCELLED, outcome.lines[-1]
    memory = [p for p in outcome.of("progress") if p["phase"] == "memory" and p.get("round") == 1]
    middle = [p for p in memory if p["bytes_total"] and 0.5 < p["bytes_done"] / p["bytes_total"] < 0.95]
    assert len(middle) >= 5, memory
    for p in middle:
        assert 1.5e6 < p["bytes_per_second"] < 6e6, p
        left = (p["bytes_total"] - p["bytes_done"]) / p["bytes_per_second"] * 1000
        assert abs(p["eta_ms"] - left) <= 2, p
    assert len({p["bytes_per_second"] for p in middle}) > 1  # measured, each time anew
    scene.check_runs_on("aws")


def test_broken_restore_on_the_destination(small):
    azure = small.lab.host("azure")
    azure.run(["podman", "pull", "-q", small.redis.image], timeout=60)
    binary = azure.run("ls /var/lib/containers/storage/overlay/*/diff/usr/bin/redis-check-rdb").stdout.split()[0]
    azure.run(["mv", binary, binary + ".away"])
    try:
        outcome = move(small.home, "redis", "azure")
        check_error(outcome, ROLLED_BACK, "restore", "redis")
        assert outcome.error["source_running"]
    finally:
        azure.run(["mv", binary + ".away", binary])
    small.check_runs_on("aws")


@pytest.fixture
def small_storage(slow_lab):
    """openstack, with its container storage on a file system of 900 MB. Nobody may have the old one open."""
    from labkit import deploy, namespace, services
    openstack = slow_lab.host("openstack")
    storage = openstack.run(["podman", "info", "--format", "{{.Store.GraphRoot}}"]).stdout.strip()

    def swap(command):
        deploy.stop_daemon(openstack.record)
        openstack.stop_service("podman")
        openstack.run(command)
        namespace.ask_init(openstack.record, services.PODMAN)
        services.wait_until("Podman's service", lambda: services.podman_listens(openstack.record))
        restart_daemon(openstack)

    swap(f"mount -t tmpfs -o size=900m tmpfs {storage}; rm -rf /run/containers/storage /run/libpod")
    yield openstack, storage
    swap(f"umount -l {storage}; rm -rf /run/containers/storage /run/libpod")


def test_the_disk_fills_up_on_the_destination(small_storage, slow_lab):
    openstack, storage = small_storage
    s = Scene(slow_lab, mib=1, clients=2)
    try:
        s.home.run(["podman", "exec", "redis", "sh", "-c", "head -c 120000000 /dev/urandom > /data/large"], timeout=60)
        running = RunningMove(s.home, "redis", "openstack")
        assert running.wait_phase("rootfs")
        openstack.run(f"head -c 2000000000 /dev/zero > {storage}/filler", check=False, timeout=60)
        outcome = running.outcome()
        check_error(outcome, ROLLED_BACK, "o space")
        assert outcome.error["source_running"]
        openstack.run(["rm", f"{storage}/filler"])
        s.check_runs_on("aws")
    finally:
        s.close()


def owner(outcome):
    """Where the container runs now, by the word of the program: what is broken while it restores may be decided already."""
    if outcome.code == DONE or outcome.error["committed"]:
        return "azure"
    assert outcome.code == ROLLED_BACK and outcome.error["source_running"], outcome.lines[-1]
    return "aws"


@pytest.mark.parametrize("mode,phase", MOMENTS)
def test_the_link_is_cut(scene, mode, phase):
    running = RunningMove(scene.home, "redis", "azure", ("--mode", mode))
    assert running.wait_phase(phase)
    # Where the commit comes before the cut, what follows waits for the link, and clients wait as well, but not for ever.
    outcome = None
    with link_cut(scene.lab.host("azure")), contextlib.suppress(subprocess.TimeoutExpired):
        outcome = running.outcome(timeout=10 if mode == "post-copy" else 60)
    outcome = outcome or running.outcome()
    where = owner(outcome)
    assert where == "aws" or phase == "restore", outcome.lines[-1]
    scene.check_runs_on(where, seconds=60)


@pytest.mark.parametrize("mode,phase", MOMENTS[:2])
def test_the_destination_daemon_is_killed(scene, mode, phase):
    running = RunningMove(scene.home, "redis", "azure", ("--mode", mode))
    assert running.wait_phase(phase)
    azure = scene.lab.host("azure")
    azure.run(["kill", "-KILL", deploy.daemon_pid(azure.record)])
    outcome = running.outcome()
    assert outcome.code == ROLLED_BACK and outcome.error["source_running"], outcome.lines[-1]
    restart_daemon(azure)
    azure.run(["podman", "rm", "-f", "-t", "0", "-i", "redis"], timeout=30)
    scene.check_runs_on("aws")


@pytest.mark.parametrize("mode,phase", MOMENTS[:2])
def test_the_source_daemon_is_killed(scene, mode, phase):
    running = RunningMove(scene.home, "redis", "azure", ("--mode", mode))
    assert running.wait_phase(phase)
    scene.home.run(["kill", "-KILL", deploy.daemon_pid(scene.home.record)])
    assert running.outcome().code == FAILED
    restart_daemon(scene.home)
    scene.check_runs_on("aws", seconds=60)


def test_the_gate_is_killed_before_the_engine_hears_that_all_is_well(scene):
    azure = scene.lab.host("azure")
    running = RunningMove(scene.home, "redis", "azure", ("--mode", "stop-copy"))
    assert running.wait_phase("transfer"), running.outcome().lines[-1]
    runtime = wait_for("the gate", lambda: azure.run("pgrep -o -x transship-runti", check=False).stdout)
    tracer = kill_at_exit(azure, int(runtime))
    check_error(running.outcome(), ROLLED_BACK)
    assert tracer.wait(timeout=10) is not None
    scene.check_runs_on("aws")


def test_the_engine_of_the_destination_stays_usable(scene):
    """While a container waits at the gate, Podman's lock of it is held: never for more than 5 s."""
    azure = scene.lab.host("azure")
    running = RunningMove(scene.home, "redis", "azure")
    longest = 0.0
    while running.process.poll() is None:
        begin = time.monotonic()
        azure.run(["podman", "ps", "-a"], timeout=30)
        longest = max(longest, time.monotonic() - begin)
    assert running.outcome().code == DONE
    print(f"longest podman ps during the move: {longest:.2f} s")
    assert longest < 5.5
    scene.check_runs_on("azure")
