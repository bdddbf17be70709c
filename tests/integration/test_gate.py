"""A container dumped on one host and restored through the gate on another, with every failure that can be arranged.

Real Podman, runc, crun and CRIU; gate_drill takes the place of the daemons.
"""

import json
import subprocess
import time

import gate_kit as kit
import pytest
from gate_kit import ADDRESS, IMAGES, NAME, Arrival, Client, Drill, wait_for


@pytest.fixture
def redis(lab, hosts, request):
    """A Redis on aws, routed. The parameter is the runtime that Podman started it with."""
    aws, azure = hosts
    runtime = getattr(request, "param", "crun")
    aws.run(["podman", "run", "-d", "--name", NAME, "--runtime", runtime, "--ip", ADDRESS, kit.IMAGE])
    lab.route(ADDRESS, "aws")
    ping = ["redis-cli", "-h", ADDRESS, "ping"]
    wait_for("answer of Redis", lambda: lab.host("client").run(ping, check=False).stdout == "PONG\n")
    yield aws, azure
    lab.unroute(ADDRESS)
    kit.tidy(hosts)


def answers(lab) -> bool:
    return lab.host("client").run(["timeout", "1", "redis-cli", "-h", ADDRESS, "ping"], check=False).stdout == "PONG\n"


def runs_as_before(lab, source, client) -> None:
    """After a failed move: same connection, nothing left on the source."""
    value = int(lab.host("client").run(["redis-cli", "-h", ADDRESS, "get", "counter"]).stdout)
    wait_for("progress of the client", lambda: int(lab.host("client").run(["redis-cli", "-h", ADDRESS, "get", "counter"]).stdout) > value)
    client.end()
    pid = kit.container_pid(source)
    assert source.run(["nsenter", "-t", str(pid), "-n", "nft", "list", "tables"]).stdout == ""
    assert source.run(["podman", "inspect", "-f", "{{.State.Status}}", NAME]).stdout == "running\n"
    assert source.run("pgrep -x criu", check=False).stdout == ""


@pytest.mark.parametrize("redis", ["runc", "crun"], indirect=True)
def test_there_and_back(lab, redis):
    aws, azure = redis
    client = Client(lab)
    for source, destination in ((aws, azure), (azure, aws), (aws, azure)):
        times = kit.move(lab, source, destination)
        assert times["released"]["tasks_us"] < 500_000
        pid = kit.container_pid(destination)
        own = destination.run(["podman", "inspect", "-f", "{{.State.CgroupPath}}", NAME]).stdout.strip()
        assert destination.run(f"sed -n 's/^0:://p' /proc/{pid}/cgroup").stdout.strip() == own
        inside = destination.run(["podman", "exec", NAME, "sed", "-n", "s/^0:://p", "/proc/1/cgroup"]).stdout
        assert inside == "/\n", "the container must be at the root of a cgroup namespace of its own"
        assert "redis-server" in destination.run(["podman", "top", NAME]).stdout
        assert kit.leftovers(source) == []
    last, _ = client.end()
    assert last > 100
    stop = azure.run(["podman", "stop", "-t", "5", NAME])
    assert stop.returncode == 0
    assert azure.run(["podman", "inspect", "-f", "{{.State.Status}}", NAME]).stdout == "exited\n"
    # Started again it is an ordinary new one: the gate is over.
    azure.run(["podman", "start", NAME])
    wait_for("answer after a restart", lambda: answers(lab))


def test_parked_is_silent_and_still_and_the_engine_is_free(lab, redis):
    aws, azure = redis
    client = Client(lab)
    arrival = Arrival(aws, azure)
    arrival.prepare()
    dumped = kit.dump_complete(aws)
    kit.carry_images(aws, azure)
    parked = arrival.restore()
    # Its peers' packets come here now, so there would be something to answer.
    lab.route(ADDRESS, "azure")
    capture = azure.popen(["tcpdump", "-Z", "root", "-lnn", "-i", "any", f"src host {ADDRESS} and tcp"], stdout=-1, stderr=-1, text=True)
    while "listening" not in capture.stderr.readline():
        assert capture.poll() is None
    status = f"cat /proc/{parked['pid']}/task/*/stat | cut -d' ' -f14,15; grep -h ctxt /proc/{parked['pid']}/task/*/status"
    before = azure.run(status).stdout
    begin = time.monotonic()
    assert azure.run(["podman", "inspect", "-f", "{{.State.Status}}", NAME], timeout=3).stdout == "running\n"
    assert NAME in azure.run(["podman", "ps"], timeout=3).stdout
    assert time.monotonic() - begin < 3, "the engine's lock is held"
    time.sleep(1)
    assert azure.run(status).stdout == before, "a parked task ran"
    assert "frozen 1" in azure.run(["cat", f"{parked['cgroup']}/cgroup.events"]).stdout
    capture.kill()
    assert capture.communicate(timeout=10)[0] == "", "a packet left the parked container"
    dumped.decide("commit")
    arrival.drill.say("release")
    arrival.drill.step("released")
    arrival.drill.end()
    client.end()


def test_killed_while_parked_it_leaves_nothing_and_the_source_goes_on(lab, redis):
    aws, azure = redis
    client = Client(lab)
    arrival = Arrival(aws, azure)
    arrival.prepare()
    dumped = kit.dump_complete(aws)
    kit.carry_images(aws, azure)
    arrival.restore()
    arrival.drill.say("kill")
    arrival.drill.step("killed")
    arrival.drill.end()
    azure.run(["podman", "rm", "-f", "-t0", NAME])
    dumped.decide("rollback")
    runs_as_before(lab, aws, client)
    assert kit.leftovers(azure) == []


def test_rollback_gives_the_source_back(lab, redis):
    aws, _ = redis
    client = Client(lab)
    for _ in range(3):
        dumped = kit.dump(aws, then="rollback")
        for step in ("start", "dump", "rollback"):
            dumped.step(step)
        assert dumped.end() == 0
    runs_as_before(lab, aws, client)


def test_criu_killed_when_the_images_are_complete(lab, redis):
    """The tasks stay frozen: nothing is lost."""
    aws, _ = redis
    client = Client(lab)
    dumped = kit.dump_complete(aws)
    aws.run(["pkill", "-KILL", "-x", "criu"])
    dumped.decide("rollback")
    runs_as_before(lab, aws, client)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.04])
def test_criu_killed_during_the_dump(lab, redis, delay):
    """Its tracees go on at once, so a connection may break; the container and its network must work."""
    aws, _ = redis
    dumped = kit.dump(aws)
    dumped.step("start")
    time.sleep(delay)
    aws.run(["pkill", "-KILL", "-x", "criu"], check=False)
    got = dumped.steps.get(timeout=20)  # a failed dump, or one that was through already
    if "error" in got:
        dumped.end()
    else:
        dumped.decide("rollback")
    assert aws.run(["podman", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", NAME]).stdout == "running 0\n"
    runs_as_before(lab, aws, Client(lab))


def test_daemon_killed_after_the_dump_leaves_it_frozen_and_thawing_is_enough(lab, redis):
    aws, _ = redis
    client = Client(lab)
    dumped = kit.dump_complete(aws)
    dumped.kill()
    cgroup = aws.run(["podman", "inspect", "-f", "{{.State.CgroupPath}}", NAME]).stdout.strip()
    wait_for("end of CRIU", lambda: aws.run("pgrep -x criu", check=False).stdout == "")
    aws.run(f"echo 0 > /sys/fs/cgroup{cgroup}/cgroup.freeze")
    runs_as_before(lab, aws, client)


@pytest.mark.parametrize("when", ["prepare", "restore"])
def test_called_off_at_the_gate(lab, redis, when):
    aws, azure = redis
    arrival = Arrival(aws, azure)
    if when == "restore":
        arrival.prepare()
    arrival.drill.say("abort there is no room")
    arrival.drill.step("aborted")
    assert "there is no room" in arrival.start_fails()
    arrival.drill.end()
    assert azure.run(["podman", "inspect", "-f", "{{.State.Status}}", NAME]).stdout in ("created\n", "exited\n")
    assert kit.leftovers(azure) == []
    assert answers(lab)


@pytest.mark.parametrize("when", ["waiting", "prepared"])
@pytest.mark.parametrize("victim", ["daemon", "runtime"])
def test_killed_at_the_gate(lab, redis, when, victim):
    aws, azure = redis
    arrival = Arrival(aws, azure)
    if when == "prepared":
        arrival.prepare()
    if victim == "daemon":
        arrival.drill.kill()
    else:
        azure.run(["kill", "-KILL", str(arrival.runtime_pid)])
        arrival.drill.say("go")
        arrival.drill.failure()
        arrival.drill.end()
    arrival.start_fails()
    if victim == "daemon":
        # What a daemon does when it starts again; the gate itself refuses until then.
        assert "not starting a fresh copy" in azure.run(["podman", "start", NAME], check=False).stderr
        azure.run([kit.DRILL, "clean"])
    kit.wait_clean(azure)
    assert answers(lab)


@pytest.mark.parametrize("stage", ["pre-restore", "post-setup-namespaces", "post-restore", "network-unlock", "pre-resume"])
@pytest.mark.parametrize("victim", ["daemon", "runtime", "criu"])
def test_killed_during_the_restore(lab, redis, stage, victim):
    """Whatever dies, and whenever: no copy runs, and nothing stays."""
    aws, azure = redis
    client = Client(lab)
    dumped = kit.dump_complete(aws)
    arrival = Arrival(aws, azure)
    arrival.prepare()
    kit.carry_images(aws, azure)
    arrival.drill.say("go")
    try:
        wait_for(stage, lambda: any(f"stage={stage}" in line for line in arrival.drill.log), 5)
    except AssertionError:
        pass  # the log is read with a delay: then it is over already, which is another moment to be killed at
    if victim == "daemon":
        arrival.drill.kill()
    elif victim == "runtime":
        azure.run(["kill", "-KILL", str(arrival.runtime_pid)], check=False)
    else:
        azure.run(["pkill", "-KILL", "-x", "criu"], check=False)
    try:
        out = arrival.start.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        assert victim == "runtime"  # it had parked, but could not say so any more
        arrival.drill.step("parked")
        arrival.drill.say("kill")
        out = arrival.start.communicate(timeout=20)[0]
    if arrival.start.returncode == 0:
        # Too late to prevent it: parked, and so it stays, frozen.
        pid = kit.container_pid(azure)
        cgroup = azure.run(f"sed -n 's/^0:://p' /proc/{pid}/cgroup").stdout.strip()
        assert "frozen 1" in azure.run(["cat", f"/sys/fs/cgroup{cgroup}/cgroup.events"]).stdout, out
    azure.run(["podman", "rm", "-f", "-t0", NAME])
    if victim != "daemon":
        arrival.drill.kill()
    azure.run([kit.DRILL, "clean"])
    kit.wait_clean(azure)
    dumped.decide("rollback")
    runs_as_before(lab, aws, client)


def test_killed_between_parking_and_the_word_to_the_engine(lab, redis):
    """The parked tasks hold the pipes on which the engine's monitor waits: it goes on when they are killed."""
    aws, azure = redis
    client = Client(lab)
    dumped = kit.dump_complete(aws)
    arrival = Arrival(aws, azure)
    arrival.prepare()
    tracer = kit.kill_at_exit(azure, arrival.runtime_pid)
    kit.carry_images(aws, azure)
    arrival.drill.say("go")
    arrival.drill.step("parked")
    tracer.wait(timeout=10)
    time.sleep(1)
    assert arrival.start.poll() is None
    arrival.drill.say("kill")
    arrival.drill.step("killed")
    arrival.drill.end()
    arrival.start_fails()
    azure.run(["podman", "rm", "-f", "-t0", NAME])
    azure.run([kit.DRILL, "clean"])
    kit.wait_clean(azure)
    dumped.decide("rollback")
    runs_as_before(lab, aws, client)


def test_gate_gives_up_in_time(lab, redis):
    aws, azure = redis
    arrival = Arrival(aws, azure, hold=700)
    begin = time.monotonic()
    out = arrival.start_fails()
    assert time.monotonic() - begin < 5
    assert "in time" in out, out
    arrival.drill.kill()
    azure.run([kit.DRILL, "clean"])
    assert kit.leftovers(azure) == []


@pytest.mark.parametrize("damage", ["rm pages-1.img", "truncate -s 40 core-1.img", "rm inventory.img"])
def test_broken_images_are_explained(lab, redis, damage):
    aws, azure = redis
    dumped = kit.dump_complete(aws)
    arrival = Arrival(aws, azure)
    arrival.prepare()
    kit.carry_images(aws, azure)
    azure.run(f"cd {IMAGES} && {damage}")
    arrival.drill.say("go")
    why = arrival.drill.failure()
    assert "CRIU says: Error (" in why, why
    assert "CRIU says" in arrival.start_fails()
    arrival.drill.end()
    dumped.decide("rollback")
    assert answers(lab)
    kit.wait_clean(azure)


def test_restore_that_hangs_is_ended(lab, redis):
    """CRIU reads a pages file that is too short for ever."""
    aws, azure = redis
    dumped = kit.dump_complete(aws)
    arrival = Arrival(aws, azure, hold=4000)
    arrival.prepare()
    kit.carry_images(aws, azure)
    azure.run(f"truncate -s 100000 {IMAGES}/pages-1.img")
    arrival.drill.say("go")
    assert "time was up" in arrival.drill.failure()
    assert "time was up" in arrival.start_fails()
    arrival.drill.end()
    dumped.decide("rollback")
    kit.wait_clean(azure)


def test_gate_without_daemon_never_starts_a_fresh_copy(hosts):
    azure = hosts[1]
    container = kit.create(azure)
    try:
        azure.run(f"mkdir -p /run/transship/gates/{container}")
        started = azure.run(["podman", "start", NAME], check=False)
        assert started.returncode != 0 and "not starting a fresh copy" in started.stderr
        assert azure.run("pgrep -x redis-server", check=False).stdout == ""
        azure.run([kit.DRILL, "clean"])
        azure.run(["podman", "start", NAME])  # and without the gate it is an ordinary container
    finally:
        azure.run(["podman", "rm", "-f", "-t0", NAME])


def test_parked_container_outlives_its_daemon(lab, redis):
    aws, azure = redis
    client = Client(lab)
    arrival = Arrival(aws, azure)
    arrival.prepare()
    dumped = kit.dump_complete(aws)
    kit.carry_images(aws, azure)
    parked = arrival.restore()
    arrival.drill.kill()
    azure.run([kit.DRILL, "clean"])
    dumped.decide("commit")
    assert "frozen 1" in azure.run(["cat", f"{parked['cgroup']}/cgroup.events"]).stdout
    lab.route(ADDRESS, "azure")
    again = Drill(azure, "adopt", "--facts", parked["facts"], "--then", "release")
    again.step("adopted")
    again.step("released")
    again.end()
    client.end()
    assert answers(lab)


TICKER = ("sh", "-c", 'i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.05; done')


@pytest.mark.parametrize("options", [(), ("-t",), ("-i",), ("-t", "-i"), ("--cgroupns=host",), ("--read-only",)])
def test_terminals_and_pipes_go_along(lab, hosts, options):
    """What the container writes goes to the destination's log, without a hole."""
    aws, azure = hosts
    try:
        aws.run(["podman", "run", "-d", "--name", NAME, "--ip", ADDRESS, *options, kit.IMAGE, *TICKER])
        wait_for("ticks", lambda: "tick 3" in aws.run(["podman", "logs", NAME]).stdout)
        kit.move(lab, aws, azure, *options, command=TICKER)
        wait_for("ticks", lambda: azure.run(["podman", "logs", NAME]).stdout.count("tick") > 5)
        ticks = [int(line.split()[1]) for line in azure.run(["podman", "logs", NAME]).stdout.split("\n") if line.startswith("tick")]
        assert ticks[0] > 3 and ticks == list(range(ticks[0], ticks[0] + len(ticks)))
        kit.move(lab, azure, aws, *options, command=TICKER)
        wait_for("ticks", lambda: aws.run(["podman", "logs", NAME]).stdout.count("tick") > 5)
    finally:
        Drill.kill_all()
        for host in hosts:
            host.run(["podman", "rm", "-f", "-t0", "--ignore", NAME], timeout=60)
        if ADDRESS in lab.routes():
            lab.unroute(ADDRESS)


def test_calls_pass_through_quickly(hosts):
    aws = hosts[0]
    assert "transship-runtime version" in aws.run(["transship-runtime", "--version"]).stdout
    assert json.loads(aws.run(["transship-runtime", "features"]).stdout)["ociVersionMin"]
    missing = aws.run(["transship-runtime", "state", "no-such-container"], check=False)
    assert missing.returncode != 0 and "does not exist" in missing.stderr


BUNDLE = "/run/gate-test/bundle"
TICK_FILE = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /tick; sleep 0.05; done"


def make_bundle(host, netns: str) -> None:
    """A bundle whose root is the Redis image's, with a ticker in it."""
    host.run(f"rm -rf {BUNDLE}; mkdir -p {BUNDLE}/rootfs; c=$(podman create {kit.IMAGE} x); "
             f"podman export $c | tar x -C {BUNDLE}/rootfs; podman rm $c; cd {BUNDLE} && runc spec", timeout=60)
    config = json.loads(host.get(f"{BUNDLE}/config.json"))
    config["process"].update(terminal=False, args=["/bin/sh", "-c", TICK_FILE])
    config["root"]["readonly"] = False
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network" and netns:
            namespace["path"] = f"/run/netns/{netns}"
    host.put(f"{BUNDLE}/config.json", json.dumps(config))
    if netns:
        host.run(f"ip netns add {netns} && ip -n {netns} link set lo up")


@pytest.mark.parametrize("netns", ["", "gatetest"], ids=["own-network", "named-network"])
@pytest.mark.parametrize("stdout", [">/dev/null 2>&1", "2>&1 | cat >/dev/null"], ids=["null", "pipe"])
def test_runc_bundle(lab, hosts, netns, stdout):
    """Without an engine: the daemon calls the runtime. What went into a pipe goes into a file of the bundle afterwards."""
    aws, azure = hosts
    try:
        for host in hosts:
            make_bundle(host, netns)
        aws.spawn(["sh", "-c", f"runc run -d --bundle {BUNDLE} bundle1 </dev/null {stdout}"])
        for source, destination in ((aws, azure), (azure, aws)):
            def tick(host):
                return int(host.run(f"cat {BUNDLE}/rootfs/tick", check=False).stdout or 0)

            wait_for("ticks", lambda host=source: tick(host) > 3)
            pid = json.loads(source.run(["runc", "state", "bundle1"]).stdout)["pid"]
            kit.fresh_dirs(source)
            kit.fresh_dirs(destination)
            dumped = Drill(source, "dump", "--pid", str(pid), "--bundle", BUNDLE, "--images", IMAGES, "--work", kit.WORK, "--then", "ask")
            dumped.step("start")
            dumped.step("dump")
            kit.carry_images(source, destination)
            destination.put(f"{BUNDLE}/rootfs/tick", source.get(f"{BUNDLE}/rootfs/tick"))
            drill = Drill(destination, "gate", "--id", "bundle1", "--images", IMAGES, "--work", kit.WORK, "--then", "release")
            drill.step("armed")
            destination.run(f"transship-runtime create --bundle {BUNDLE} bundle1 </dev/null >/dev/null 2>{kit.WORK}/create.err")
            destination.run(["transship-runtime", "start", "bundle1"])
            for step in ("waiting", "prepared", "parked"):
                drill.step(step)
            dumped.decide("commit")
            drill.step("released")
            drill.end()
            at_move = tick(source)
            source.run(["runc", "delete", "--force", "bundle1"])
            wait_for("ticks after the move", lambda host=destination, n=at_move: tick(host) > n + 3)
            assert json.loads(destination.run(["runc", "state", "bundle1"]).stdout)["status"] == "running"
            assert destination.run(["runc", "exec", "bundle1", "cat", "/proc/1/comm"]).stdout == "sh\n"
            if "cat" in stdout:
                assert destination.run(["tail", "-n1", f"{BUNDLE}/output.log"]).stdout.strip().isdigit()
            assert kit.leftovers(source) == []
        aws.run(["runc", "delete", "--force", "bundle1"])
        wait_for("end of the log keeper", lambda: aws.run("pgrep -x transship-runti", check=False).stdout == "")
    finally:
        Drill.kill_all()
        for host in hosts:
            host.run(f"runc delete --force bundle1; ip netns del {netns or 'none'}; rm -rf {BUNDLE}", check=False)


def test_dump_of_a_shell_that_starts_programs_all_the_time(lab, hosts):
    """Frozen between vfork and exec, a parent cannot be seized: the freeze must find another moment."""
    aws = hosts[0]
    try:
        aws.run(["podman", "run", "-d", "--name", NAME, "--ip", ADDRESS, kit.IMAGE, "sh", "-c", "while :; do /bin/true; done"])
        for _ in range(25):
            dumped = kit.dump(aws, then="rollback")
            for step in ("start", "dump", "rollback"):
                dumped.step(step)
            assert dumped.end() == 0
    finally:
        Drill.kill_all()
        aws.run(["podman", "rm", "-f", "-t0", "--ignore", NAME], timeout=60)
