"""Dumps that leave memory out, and restores that get it back: from the images, and from a pager."""

import json
import subprocess
from pathlib import Path

import gate_kit as kit
import pytest
from gate_kit import ADDRESS, IMAGES, NAME, Arrival, Drill, wait_for


def cli(lab, *words) -> str:
    return lab.host("client").run(["timeout", "20", "redis-cli", "-h", ADDRESS, *words], check=False).stdout.strip()


@pytest.fixture
def redis(lab, hosts):
    """A Redis of some 64 MiB on aws, routed."""
    aws, azure = hosts
    aws.run(["podman", "run", "-d", "--name", NAME, "--runtime", "runc", "--ip", ADDRESS, kit.IMAGE])
    lab.route(ADDRESS, "aws")
    wait_for("answer of Redis", lambda: cli(lab, "ping") == "PONG")
    cli(lab, "debug", "populate", "50000", "key", "1000")
    yield aws, azure
    lab.unroute(ADDRESS)
    kit.tidy(hosts)


def image_sizes(host) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in host.path(IMAGES).iterdir()}


def caches_of_criu(host) -> str:
    return host.run("md5sum /run/*criu*", check=False).stdout


@pytest.mark.parametrize("method", ["parent", "lazy-pages", "full"])
def test_rollback_leaves_no_trace(lab, redis, method):
    aws, _ = redis
    digest = cli(lab, "debug", "digest")
    client = kit.Client(lab)
    caches = caches_of_criu(aws)
    for _ in range(3):
        dumped = kit.dump(aws, then="rollback", memory=method)
        if method != "full":
            found = dumped.step("method")
            assert method != "parent" or found["best"] == "parent", found
        dumped.step("start")
        dumped.step("dump")
        dumped.step("rollback")
        assert dumped.end() == 0
        sizes = image_sizes(aws)
        pages = sum(size for name, size in sizes.items() if name.startswith("pages-"))
        assert "parent" not in sizes
        assert pages > 50 << 20 if method == "full" else pages < 4 << 20, sizes
    value = int(cli(lab, "get", "counter"))
    wait_for("progress of the client", lambda: int(cli(lab, "get", "counter")) > value)
    client.end()
    cli(lab, "del", "counter")
    assert cli(lab, "debug", "digest") == digest
    assert aws.run("pgrep -x criu; pgrep -x cat", check=False).stdout == ""
    if caches:  # CRIU makes its own where there is none
        assert caches_of_criu(aws) == caches
    pid = kit.container_pid(aws)
    assert aws.run(["nsenter", "-t", str(pid), "-n", "nft", "list", "tables"]).stdout == ""
    assert sorted(image.name for image in aws.path(kit.WORK).iterdir() if image.is_dir()) == []


# Reads the missing pages of frozen tasks into one file. Arguments: the plan, the file, a pid of the container.
READER = """
import json, os, sys
plan, out, first = json.load(open(sys.argv[1])), open(sys.argv[2], "wb"), sys.argv[3]
cgroup = [l for l in open("/proc/%s/cgroup" % first) if l.startswith("0::")][0].strip()[3:]
outer = {}
for pid in open("/sys/fs/cgroup" + cgroup + "/cgroup.procs").read().split():
    inner = [l for l in open("/proc/%s/status" % pid) if l.startswith("NSpid")][0].split()[-1]
    outer[int(inner)] = int(pid)
index, offset, files = [], 0, {}
for shared, number, address, pages, lazy in plan:
    assert not shared
    if number not in files:
        files[number] = open("/proc/%d/mem" % outer[number], "rb", 0)
    done = 0
    while done < pages * 4096:
        data = os.pread(files[number].fileno(), min(1 << 20, pages * 4096 - done), address + done)
        assert data, (number, hex(address))
        out.write(data)
        done += len(data)
    index.append([shared, number, address, pages, offset])
    offset += pages * 4096
json.dump(index, open(sys.argv[2] + ".json", "w"))
"""

# Answers CRIU's lazy-pages.socket from such a file: faults first, then everything. Prints a JSON line at its end.
PAGER = """
import array, bisect, ctypes, fcntl, json, mmap, os, select, socket, struct, sys, time
sock, pages = sys.argv[1:3]
data = mmap.mmap(os.open(pages, os.O_RDWR), 0)
base = ctypes.addressof(ctypes.c_char.from_buffer(data))
lazy = {(n, a) for s, n, a, p, z in json.load(open(sys.argv[3])) if z}
tasks, uffds, faults, filled = {}, {}, 0, 0
for shared, number, address, count, offset in json.load(open(pages + ".json")):
    if not shared and (number, address) in lazy:
        tasks.setdefault(number, []).append((address, count * 4096, offset))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sock); listener.listen(1); print("ready", flush=True)
listener.settimeout(60); c, _ = listener.accept()
def copy(fd, to, source, size):
    while True:
        b = bytearray(struct.pack("<QQQQq", to, source, size, 0, 0))
        try:
            return fcntl.ioctl(fd, 0xc028aa03, b, True)
        except OSError as e:
            if e.errno == 17: return
            if e.errno != 11: raise
            handle(fd)
def handle(fd):
    global faults
    try: events = os.read(fd, 32 * 16)
    except BlockingIOError: return
    for k in range(0, len(events), 32):
        assert events[k] == 0x12, events[k]
        faults += 1
        a = struct.unpack("<Q", events[k + 16:k + 24])[0] & ~4095
        ranges = tasks.get(uffds[fd], [])
        i = bisect.bisect_right(ranges, (a, 1 << 62)) - 1
        if i >= 0 and a < ranges[i][0] + ranges[i][1]: copy(fd, a, base + ranges[i][2] + a - ranges[i][0], 4096)
        else: fcntl.ioctl(fd, 0xc020aa04, bytearray(struct.pack("<QQQq", a, 4096, 0, 0)), True)
poll, finished = select.poll(), False
poll.register(c, select.POLLIN)
while not finished:
    for fd, _ in poll.poll(60000):
        if fd != c.fileno():
            handle(fd); continue
        word = c.recv(4)
        assert word, "CRIU gave up"
        pid = struct.unpack("<i", word)[0]
        if pid == 0x52535446:
            finished = True
        elif pid > 0:
            fds = array.array("i"); fds.frombytes(c.recvmsg(1, socket.CMSG_LEN(4))[1][0][2][:4])
            uffds[fds[0]] = pid; poll.register(fds[0], select.POLLIN)
early = faults
for fd, pid in uffds.items():
    for address, size, offset in tasks.get(pid, []):
        for at in range(0, size, 4096):
            if at % (1 << 20) == 0: handle(fd)
            copy(fd, address + at, base + offset + at, 4096); filled += 1
    os.close(fd)
print(json.dumps({"tasks": sorted(uffds.values()), "early_faults": early, "faults": faults, "filled": filled}), flush=True)
"""

PAGES = "/run/gate-test/pages"


def put_scripts(hosts):
    for host in hosts:
        host.put("/run/gate-test/reader.py", READER)
        host.put("/run/gate-test/pager.py", PAGER)


def dump_and_read(source) -> tuple[Drill, dict, dict]:
    """Frozen, its images without memory, and the missing pages in PAGES."""
    dumped = kit.dump(source, "ask", "parent")
    dumped.step("method")
    dumped.step("start")
    times = dumped.step("dump")
    plan = json.loads(source.run([kit.DRILL, "plan", "--images", IMAGES], timeout=60).stdout)
    source.put("/run/gate-test/plan.json", json.dumps(plan["ranges"]))
    source.run(["python3", "/run/gate-test/reader.py", "/run/gate-test/plan.json", PAGES, str(kit.container_pid(source))])
    return dumped, plan, times


def carry(source, destination) -> dict:
    """Images and pages over, what cannot be lazy put in."""
    kit.carry_images(source, destination)
    for file in (PAGES, f"{PAGES}.json", "/run/gate-test/plan.json"):
        destination.put(file, source.get(file))
    return json.loads(destination.run([kit.DRILL, "fill", "--images", IMAGES, "--pages", PAGES], timeout=60).stdout)


def lazy_move(lab, source, destination, *options, command=()) -> tuple[dict, dict]:
    """A whole move with a restore from the pager; returns the plan and what the pager did."""
    put_scripts((source, destination))
    arrival = Arrival(source, destination, *options, command=command, lazy=True)
    arrival.prepare()
    dumped, plan, times = dump_and_read(source)
    filled = carry(source, destination)
    assert (filled["lazy"], filled["eager"]) == (plan["lazy"], plan["eager"])
    pager = destination.popen(["python3", "/run/gate-test/pager.py", f"{kit.WORK}/lazy-pages.socket", PAGES,
                               "/run/gate-test/plan.json"], stdout=-1, stderr=-1, text=True)
    assert pager.stdout.readline() == "ready\n", pager.communicate(timeout=5)[1]
    parked = arrival.restore()
    assert "frozen 1" in destination.run(["cat", f"{parked['cgroup']}/cgroup.events"]).stdout
    dumped.say("commit")
    dumped.step("commit")
    assert dumped.end() == 0
    if ADDRESS in lab.routes():
        lab.route(ADDRESS, destination.name)
    arrival.drill.say("release")
    arrival.drill.step("released")
    assert arrival.drill.end() == 0
    source.run(["podman", "rm", "-f", "-t0", NAME])
    out, err = pager.communicate(timeout=60)
    assert pager.returncode == 0, err
    return plan, json.loads(out)


def test_redis_moves_twice_with_its_memory_from_a_pager(lab, redis):
    aws, azure = redis
    digest = cli(lab, "debug", "digest")
    client = kit.Client(lab)
    for source, destination in ((aws, azure), (azure, aws)):
        plan, pager = lazy_move(lab, source, destination)
        assert plan["lazy"] > 12_000 and 0 < plan["eager"] < 2_000 and plan["present"] < 50
        assert pager["filled"] == plan["lazy"] and pager["tasks"] == [1]
        assert kit.leftovers(source) == []
    last, _ = client.end()
    assert last > 100
    cli(lab, "del", "counter")
    assert cli(lab, "debug", "digest") == digest


def fine(host) -> list[int]:
    """How often each of the four processes was content; nobody may complain."""
    lines = host.run(["podman", "logs", NAME]).stdout.splitlines()
    assert not [line for line in lines if "BAD" in line], lines[-5:]
    return [sum(line.startswith(f"{n} fine") for line in lines) for n in range(4)]


def test_several_processes_and_all_kinds_of_memory(lab, hosts, tmp_path):
    source = Path(__file__).with_name("memory_zoo.c")
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", tmp_path / "zoo", source], check=True)
    options = ("-v", "/run/zoo:/zoo:ro")
    try:
        for host in hosts:
            host.run("mkdir -p /run/zoo")
            host.put("/run/zoo/zoo", (tmp_path / "zoo").read_bytes(), 0o755)
        hosts[0].run(["podman", "run", "-d", "--name", NAME, "--runtime", "runc", "--ip", ADDRESS, *options, kit.IMAGE, "/zoo/zoo"])
        wait_for("contented processes", lambda: min(fine(hosts[0])) > 3)
        for source, destination in (hosts, hosts[::-1]):
            plan, pager = lazy_move(lab, source, destination, *options, command=("/zoo/zoo",))
            assert len([space for space in plan["spaces"] if not space[0]]) == 5, "four processes and a zombie"
            # Changed pages of files cannot be lazy, nor the vDSO; what cannot be read, or is shared, CRIU writes by
            # itself. (Locked memory cannot be lazy either, but CRIU restores only the first process's as locked.)
            assert plan["eager"] >= 16 + 4 * (2 + 2) and plan["present"] >= 4 * 8 + 1024
            assert pager["filled"] == plan["lazy"] and len(pager["tasks"]) == 4
            wait_for("contented processes", lambda host=destination: min(fine(host)) > 3)
    finally:
        for host in hosts:
            host.run("rm -rf /run/zoo")
        kit.tidy(hosts)


def test_commit_of_a_lazy_dump_kills_and_leaves_nothing(lab, redis):
    """CRIU's page server never gets to serve anybody."""
    aws, _ = redis
    pid = kit.container_pid(aws)
    dumped = kit.dump(aws, "ask", "lazy-pages")
    for step in ("method", "start", "dump"):
        dumped.step(step)
    criu = aws.run("pgrep -x criu").stdout.split()
    assert criu and aws.run("ss -Hltnp | grep criu", check=False).stdout == ""
    dumped.say("commit")
    dumped.step("commit")
    assert dumped.end() == 0
    assert not aws.path(f"/proc/{pid}").exists() and aws.run("pgrep -x criu", check=False).stdout == ""


@pytest.mark.parametrize("method", ["parent", "lazy-pages"])
def test_criu_killed_when_the_images_are_complete(lab, redis, method):
    aws, _ = redis
    client = kit.Client(lab)
    dumped = kit.dump(aws, "ask", method)
    for step in ("method", "start", "dump"):
        dumped.step(step)
    aws.run(["pkill", "-KILL", "-x", "criu"])
    dumped.say("rollback")
    dumped.step("rollback")
    dumped.end()
    value = int(cli(lab, "get", "counter"))
    wait_for("progress of the client", lambda: int(cli(lab, "get", "counter")) > value)
    client.end()
