"""kill -9 of daemons and pagers in the middle of moves: one copy runs with every byte right, or none and it is said."""

import json
import time

import pytest

from demokit import leftovers
from demokit.load import Load
from labkit import deploy, services
from moving import DONE, FAILED, ROLLED_BACK, RunningMove, Scene

# From the moment CRIU has handed the memory over, the pager runs for a millisecond in so many.
SLOW_PAGER = r"""
import glob, os, signal, subprocess, sys, time
period, restored = int(sys.argv[1]), sys.argv[2] == "restored"
def there(): return glob.glob("/run/transship/moves/*/work/lazy-pages.socket")
while not there() and not restored: time.sleep(0.002)
pid = int(subprocess.run(["pidof", "transship-pager"], capture_output=True).stdout)
while there(): time.sleep(0.0005)
print("slow", flush=True)
while True:
    os.kill(pid, signal.SIGSTOP); time.sleep(period / 1000)
    os.kill(pid, signal.SIGCONT); time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def slow_lab(moving_lab):
    for host in ("aws", "azure"):
        moving_lab.shape(host, rate="200mbit")
    yield moving_lab
    for host in ("aws", "azure"):
        moving_lab.clear_shape(host)


@pytest.fixture
def scene(slow_lab):
    scenes = []

    def make(**options):
        scenes.append(Scene(slow_lab, **{"mib": 64, **options}))
        return scenes[-1]

    yield make
    for s in scenes:
        s.close()
    for host in slow_lab.clouds():
        host.run("pkill -CONT transship-pager", check=False)
        if deploy.daemon_pid(host.record) == 0:
            start_daemon(host)


def kill_daemon(host):
    host.run(["kill", "-KILL", deploy.daemon_pid(host.record)])
    services.wait_until(f"the end of transshipd on {host.name}", lambda: deploy.daemon_pid(host.record) == 0)


def start_daemon(host):
    host.run(["rm", "-f", "/run/transship/transshipd.sock"])  # of the one that was killed
    deploy.start_daemon(host.record)
    services.wait_until(f"transshipd on {host.name}", lambda: deploy.daemon_answers(host.record))


def wait_for(what, condition, seconds=15.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def begin_move(s, *options, phase):
    move = RunningMove(s.home, "redis", "azure", options)
    assert move.wait_phase(phase), move.lines[-3:]
    return move


def recorded(host, move):
    """How the move ended, by the word of that host's daemon."""
    moves = [json.loads(line) for line in host.run(["transship", "moves", "--json"]).stdout.splitlines()]
    return next(m for m in moves if m.get("id", m.get("move_id")) == move.lines[0]["move_id"])


def in_container(s, host, command):
    """In the shell of the host; $pid is the container's first process, $cg its cgroup."""
    pid = s.redis.inspect(host)["State"]["Pid"]
    return host.run(f"pid={pid}; cg=/sys/fs/cgroup$(sed -n s/^0:://p /proc/$pid/cgroup); {command}").stdout


def slow_pager(host, period=30, restored=False):
    return host.popen(["python3", "-c", SLOW_PAGER, str(period), "restored" if restored else "new"], stdout=-1, text=True)


def stop_pager(host, slow, signal="STOP"):
    """It does not go on until it is told to, and has not finished yet."""
    slow.kill()
    slow.wait(10)
    host.run(f"kill -{signal} $(pidof transship-pager)")
    if signal == "STOP":
        assert host.run("ls /run/transship/moves/*/work/pager.result", check=False).returncode != 0


def check_runs_nowhere(s):
    """And nothing but the dead container itself is left."""
    assert {h.name: s.redis.copies(h) for h in s.lab.clouds()} == {h.name: 0 for h in s.lab.clouds()}
    for host in s.lab.clouds():
        allowed = (f"container: {s.redis.name} exited", "firewall: ", "gate: ")
        assert leftovers.left_behind(host, s.before[host.name], allowed, patience=15) == []


# ---- before the commit

def test_source_in_pre_copy(scene):
    s = scene(options=["--restart", "on-failure:3"])
    move = begin_move(s, phase="memory")
    time.sleep(0.8)
    kill_daemon(s.home)
    # The container itself was never touched: it is not followed any more, and runs.
    assert "userfaultfd" not in in_container(s, s.home, "ls -l /proc/[0-9]*/fd 2>/dev/null || true")
    assert "frozen 0" in in_container(s, s.home, "cat $cg/cgroup.events")
    s.redis.wait_answer(s.home)
    assert move.outcome().code == FAILED
    start_daemon(s.home)
    assert s.redis.inspect(s.home)["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    s.check_runs_on("aws", seconds=30)


def test_source_while_it_slows_the_container_down(scene):
    s = scene(mib=16)
    s.home.run(["podman", "exec", "-d", "redis", "redis-benchmark", "-q", "-t", "set", "-n", "1000000", "-r", "300", "-d", "60000"])
    begin_move(s, "--mode", "pre-copy", phase="memory")
    throttled = ("until { grep -q 'frozen 1' $cg/cgroup.events || getfattr -n trusted.transship.cpu_max $cg; } >/dev/null 2>&1; "
                 f"do sleep 0.005; done; kill -KILL {deploy.daemon_pid(s.home.record)}; sleep 0.1; cat $cg/cgroup.events")
    print(in_container(s, s.home, throttled))
    services.wait_until("the end of transshipd", lambda: deploy.daemon_pid(s.home.record) == 0)
    start_daemon(s.home)
    assert "frozen 0" in in_container(s, s.home, "cat $cg/cgroup.events")
    assert in_container(s, s.home, "cat $cg/cpu.max 2>/dev/null || true") in ("", "max 100000\n")
    s.home.run(["podman", "exec", "redis", "pkill", "redis-benchmark"], check=False)
    s.check_runs_on("aws", seconds=30)


def test_pager_before_the_commit(scene):
    s = scene(mib=32)
    azure = s.lab.host("azure")
    slow = slow_pager(azure, period=1000)  # it does not hear that CRIU is through: from then on another one could go on
    move = begin_move(s, phase="memory")
    assert slow.stdout.readline() == "slow\n"
    azure.run("kill -KILL $(pidof transship-pager)")
    outcome = move.outcome()
    slow.wait(10)
    assert outcome.code == ROLLED_BACK and "memory" in outcome.error["message"], outcome.lines[-1]
    s.check_runs_on("aws")


# ---- parked

def wait_parked(host, move, then=""):
    """As seen on the destination itself; `then` is run there at once."""
    mark = f"mig={move.lines[0]['move_id']} phase=restore parked"
    host.run(f"until grep -q '{mark}' /var/log/transship/transshipd.log; do sleep 0.01; done; {then}", timeout=60)


@pytest.fixture
def far_lab(slow_lab):
    """What is said takes its time: enough to kill somebody before it is heard."""
    slow_lab.shape("azure", delay="150ms")
    yield slow_lab
    slow_lab.shape("azure", delay="0ms")


def test_destination_parked_and_the_source_commits(far_lab, scene):
    s = scene(mib=8)
    azure = s.lab.host("azure")
    move = begin_move(s, "--mode", "stop-copy", phase="dump")
    wait_parked(azure, move, f"sleep 0.05; kill -KILL {deploy.daemon_pid(azure.record)}")
    assert "frozen 1" in in_container(s, azure, "cat $cg/cgroup.events")
    services.wait_until("the end of transshipd", lambda: deploy.daemon_pid(azure.record) == 0)
    start_daemon(azure)
    outcome = move.outcome()
    assert outcome.code == DONE, outcome.lines[-1]
    s.check_runs_on("azure", seconds=30)
    assert recorded(azure, move)["state"] == "done"


def test_both_daemons_while_parked(far_lab, scene):
    s = scene(mib=8)
    azure = s.lab.host("azure")
    move = begin_move(s, "--mode", "stop-copy", phase="dump")
    wait_parked(azure, move)
    kill_daemon(s.home)
    kill_daemon(azure)
    start_daemon(azure)
    time.sleep(1)
    assert "frozen 1" in in_container(s, azure, "cat $cg/cgroup.events")  # as long as nobody knows
    start_daemon(s.home)
    s.check_runs_on("aws", seconds=30)
    assert recorded(azure, move)["state"] == "rolled-back"


# ---- committed, its memory is being filled

def test_destination_while_the_pager_fills(scene):
    s = scene()
    azure = s.lab.host("azure")
    slow = slow_pager(azure)
    move = begin_move(s, "--mode", "pre-copy", phase="release")
    assert move.outcome().code == DONE
    stop_pager(azure, slow)
    pager = azure.run(["pidof", "transship-pager"]).stdout
    kill_daemon(azure)
    slow = slow_pager(azure, period=300, restored=True)
    start_daemon(azure)
    assert azure.run(["pidof", "transship-pager"]).stdout == pager
    assert recorded(azure, move)["state"] not in ("done", "failed", "rolled-back")
    stop_pager(azure, slow, "CONT")
    s.check_runs_on("azure")
    assert recorded(azure, move)["state"] == "done"
    assert azure.run("pgrep -fc '^podman --runtime transship system service'").stdout == "1\n"


def check_it_was_replaced(host, move, dead):
    """`transship show` has it as a remark; nothing else is said about it."""
    lines = [json.loads(line) for line in host.run(["transship", "show", move.lines[0]["move_id"], "--json"]).stdout.splitlines()]
    assert (lines[0]["state"], lines[0]["error"]) == ("done", ""), lines[0]
    remarks = [line["detail"] for line in lines if line["message_type"] == "phase" and line["phase"] == "fill"]
    assert len(remarks) == 1 and f"the pager {dead} was killed" in remarks[0], remarks


def test_pager_after_the_commit(scene):
    s = scene()
    azure = s.lab.host("azure")
    slow = slow_pager(azure, period=100)
    move = begin_move(s, "--mode", "pre-copy", phase="release")
    assert move.outcome().code == DONE
    stop_pager(azure, slow)
    dead = azure.run(["pidof", "transship-pager"]).stdout.strip()
    azure.run(["kill", "-KILL", dead])
    wait_for("the end of the move", lambda: recorded(azure, move)["state"] != "running")
    s.check_runs_on("azure")
    check_it_was_replaced(azure, move, dead)


def test_pager_after_the_commit_and_none_can_go_on(scene):
    """Rather dead than wrong."""
    s = scene(clients=0)
    azure = s.lab.host("azure")
    load = Load(s.lab.host("client"), s.redis.address, counters=1, values=1, patience=2)
    slow = slow_pager(azure, period=100)
    move = begin_move(s, "--mode", "pre-copy", phase="release")
    assert move.outcome().code == DONE
    stop_pager(azure, slow)
    azure.run("chmod 000 /usr/bin/transship-pager")
    try:
        azure.run("kill -KILL $(pidof transship-pager)")
        wait_for("the end of the container", lambda: s.redis.copies(azure) == 0, seconds=5)
    finally:
        azure.run("chmod 755 /usr/bin/transship-pager")
    check_runs_nowhere(s)
    state = recorded(azure, move)
    assert state["state"] == "failed" and "pager" in state["error"], state
    report = load.stop()
    assert report["wrong_values"] == 0 and report["lost_writes"] == 0


# ---- post-copy: the memory is still on the source

def test_destination_in_post_copy(scene):
    s = scene()
    azure = s.lab.host("azure")
    move = begin_move(s, "--mode", "post-copy", phase="follow")
    time.sleep(0.5)
    kill_daemon(azure)
    time.sleep(0.5)
    start_daemon(azure)
    outcome = move.outcome()
    assert outcome.code == DONE and outcome.summary["mode"] == "post-copy", outcome.lines[-1]
    s.check_runs_on("azure")
    assert recorded(azure, move)["state"] == "done"


def test_pager_in_post_copy(scene):
    s = scene()
    azure = s.lab.host("azure")
    move = begin_move(s, "--mode", "post-copy", phase="follow")
    time.sleep(0.5)
    dead = azure.run(["pidof", "transship-pager"]).stdout.strip()
    azure.run(["kill", "-KILL", dead])
    outcome = move.outcome()
    assert outcome.code == DONE and outcome.summary["mode"] == "post-copy", outcome.lines[-1]
    s.check_runs_on("azure")
    check_it_was_replaced(azure, move, dead)


def test_source_in_post_copy(scene):
    s = scene()
    azure = s.lab.host("azure")
    move = begin_move(s, "--mode", "post-copy", phase="follow")
    time.sleep(0.5)
    kill_daemon(s.home)
    time.sleep(0.5)  # CRIU has noticed
    assert "frozen 1" in in_container(s, s.home, "cat $cg/cgroup.events")
    assert "transship_leaving" in in_container(s, s.home, "nsenter -t $pid -n nft list tables")
    move.outcome()
    start_daemon(s.home)
    wait_for("the end of the move", lambda: recorded(s.home, move)["state"] != "running", seconds=60)
    assert recorded(s.home, move)["state"] == "done"
    s.check_runs_on("azure", seconds=30)
    assert recorded(azure, move)["state"] == "done"


def test_source_between_the_decision_and_its_word(far_lab, scene):
    """The destination has not heard of the commit; the old copy is dead or stands still, for good."""
    s = scene(mib=8)
    move = begin_move(s, "--mode", "stop-copy", phase="release")
    kill_daemon(s.home)
    move.outcome()
    start_daemon(s.home)
    s.check_runs_on("azure", seconds=30)
    assert recorded(s.home, move)["state"] == "done"
