"""Volumes and bind mounts travel with their container."""

import json
import time

import pytest

from demokit.load import Load, problems
from labkit import deploy, namespace, services
from moving import DONE, move
from test_daemon_killed import kill_daemon, start_daemon, wait_for

ADDRESS = "10.88.0.30"
POINTS = "/run/volume-points"
BIND = "/srv/lab/bind"
READ_ONLY = "/srv/lab/fixed"
# Everything a tree can have; the name with a newline is no accident.
TREE = r"""
set -e; cd "$1"
mkdir -p deep/er 'with space'; printf 'a\n' > deep/er/file; ln deep/er/file linked; ln -s deep/er/file pointing; ln -s /nowhere dangling
truncate -s 64M sparse; printf end | dd of=sparse bs=1 seek=50000000 conv=notrunc status=none
mkfifo pipe; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
printf x > "$(printf 'new\nline')"; chmod 4755 deep/er/file; chown 1234:4321 linked; touch -d '2001-02-03 04:05:06.789' deep
setfattr -n user.colour -v green deep; setfattr -n trusted.secret -v 42 sparse; setfacl -m u:77:rw linked; head -c 3000000 /dev/urandom > large
"""
# One line for each name: all of its attributes, and a digest of what is in it.
LISTING = r"""
import hashlib, json, os, sys
top = sys.argv[1].encode()
for directory, names, files in os.walk(top):
    names.sort()
    for name in sorted([b"."] if directory == top else []) + sorted(names + files):
        path = os.path.join(directory, name); s = os.lstat(path)
        x = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in os.listxattr(path, follow_symlinks=False)}
        plain = (s.st_mode & 0o170000) == 0o100000
        body = hashlib.sha256(open(path, "rb").read()).hexdigest() if plain else os.readlink(path).hex() if os.path.islink(path) else ""
        print(json.dumps([os.path.relpath(path, top).hex(), oct(s.st_mode), s.st_uid, s.st_gid, s.st_nlink if plain else 0,
                          s.st_size if plain else 0, s.st_mtime_ns, x, body, plain and s.st_blocks * 512 < s.st_size]))
"""


def listing(host, path):
    return host.run(["python3", "-c", LISTING, path], timeout=120).stdout.splitlines()


def make_tree(host, path):
    host.run(["mkdir", "-p", path])
    host.run(["bash", "-c", TREE, "bash", path], timeout=60)


class VolumeScene:
    """A Redis that writes every command to a file of a volume before it answers, and two directories of the host."""

    def __init__(self, lab, *options):
        self.lab, self.home = lab, lab.host("aws")
        make_tree(self.home, BIND)
        make_tree(self.home, READ_ONLY)
        self.home.run(["podman", "volume", "create", "--label", "who=blue", "data"])
        self.home.run(["podman", "run", "-d", "--name", "keeper", "--ip", ADDRESS, "-v", "data:/data", "-v", f"{BIND}:/mnt/bind",
                       "-v", f"{READ_ONLY}:/mnt/fixed:ro", *options, lab.image("redis"), "redis-server", "--save", "", "--protected-mode", "no", "--bind",
                       "0.0.0.0", "--appendonly", "yes", "--appendfsync", "always"], timeout=90)
        lab.route(ADDRESS, "aws")
        self.wait_answer(self.home)

    def cli(self, host, *words):
        return host.run(["redis-cli", "-h", ADDRESS, "-t", "5", *words], check=False, timeout=30).stdout.strip()

    def wait_answer(self, host, seconds=20):
        end = time.monotonic() + seconds
        while self.cli(host, "PING") != "PONG":
            assert time.monotonic() < end, host.run(["podman", "logs", "--tail", "20", "keeper"], check=False).stdout
            time.sleep(0.1)

    def volume(self, host):
        return host.run(["podman", "volume", "inspect", "--format", "{{.Mountpoint}}", "data"]).stdout.strip()

    def close(self):
        for name in ("aws", "azure", "openstack"):
            host = self.lab.host(name)
            host.run(["podman", "rm", "-f", "-t", "0", "-i", "keeper"], check=False, timeout=60)
            host.run(["podman", "volume", "rm", "-f", "data"], check=False)
            host.run(["rm", "-rf", "/srv/lab"], check=False)
        if ADDRESS in self.lab.routes():
            self.lab.unroute(ADDRESS)


@pytest.fixture
def volume_scene(moving_lab):
    scene = VolumeScene(moving_lab)
    yield scene
    scene.close()


def test_all_that_was_acknowledged_is_in_the_volume(volume_scene):
    s = volume_scene
    aws, azure = s.home, s.lab.host("azure")
    before = {path: listing(aws, path) for path in (BIND, READ_ONLY)}
    load = Load(s.lab.host("client"), ADDRESS, counters=2, values=2, keepers=1)
    try:
        outcome = move(aws, "keeper", "azure")
        assert outcome.code == DONE, outcome.lines[-1]
    finally:
        report = load.stop()
    assert problems(report) == [] and report["tcp_resets"] == 0
    assert {path: listing(azure, path) for path in (BIND, READ_ONLY)} == before
    made = json.loads(azure.run(["podman", "volume", "inspect", "data"]).stdout)[0]
    assert made["Labels"]["who"] == "blue"
    # What it has in memory came by another way: only a fresh start shows what the volume holds.
    counter = s.cli(azure, "GET", "counter:0")
    assert int(counter) > 0
    azure.run(["podman", "kill", "--signal", "KILL", "keeper"])
    azure.run(["podman", "start", "keeper"], timeout=60)
    s.wait_answer(azure)
    assert s.cli(azure, "GET", "counter:0") == counter


def volume_bytes(outcome):
    return outcome.lines[-1]["bytes_volumes"]


def test_back_again_only_what_changed_is_sent(volume_scene):
    s = volume_scene
    aws, azure = s.home, s.lab.host("azure")
    aws.run(["bash", "-c", f"head -c 64M /dev/urandom > {BIND}/big; echo old > {BIND}/rewritten; echo old > {BIND}/removed"])
    outcome = move(aws, "keeper", "azure")
    assert outcome.code == DONE, outcome.lines[-1]
    assert volume_bytes(outcome) > 64 << 20
    azure.run(["bash", "-c", f"dd if=/dev/urandom of={BIND}/big bs=64K seek=300 count=2 conv=notrunc status=none;"
                             f"cd {BIND}; rm removed; echo new > rewritten; mkdir added; echo new > added/file; mv deep moved"])
    assert int(s.cli(azure, "INCR", "counter")) == 1
    expected = {path: listing(azure, path) for path in (BIND, READ_ONLY)}
    outcome = move(azure, "keeper", "aws")
    assert outcome.code == DONE, outcome.lines[-1]
    assert volume_bytes(outcome) < 1 << 20
    assert {path: listing(aws, path) for path in (BIND, READ_ONLY)} == expected
    aws.run(["podman", "kill", "--signal", "KILL", "keeper"])
    aws.run(["podman", "start", "keeper"], timeout=60)
    s.wait_answer(aws)
    assert s.cli(aws, "GET", "counter") == "1"
    # And once more to where it has been, with a copy that is two moves old there.
    assert move(aws, "keeper", "openstack").code == DONE
    outcome = move(s.lab.host("openstack"), "keeper", "azure")
    assert outcome.code == DONE, outcome.lines[-1]
    assert {path: listing(azure, path) for path in (BIND, READ_ONLY)} == expected


def test_a_copy_that_was_changed_since_it_was_left_is_kept(volume_scene):
    s = volume_scene
    aws, azure = s.home, s.lab.host("azure")
    assert move(aws, "keeper", "azure").code == DONE
    aws.run(["sh", "-c", f"echo precious > {BIND}/theirs"])
    outcome = move(azure, "keeper", "aws")
    assert outcome.code != DONE
    assert f"the directory {BIND} was changed here since it moved to azure (theirs)" in json.dumps(outcome.lines)
    assert aws.run(["cat", f"{BIND}/theirs"]).stdout == "precious\n"
    s.wait_answer(azure)
    # Taken away it is as it was left.
    aws.run(["rm", f"{BIND}/theirs"])
    aws.run(["rm", "-rf", BIND])
    assert move(azure, "keeper", "aws").code == DONE


def test_a_copy_that_was_begun_to_be_filled_is_filled_again(volume_scene, points):
    s = volume_scene
    aws, azure = s.home, s.lab.host("azure")
    assert move(aws, "keeper", "azure").code == DONE
    azure.run(["sh", "-c", f"echo more > {BIND}/more"])
    points(aws, "destination.restore", "fail")
    assert move(azure, "keeper", "aws").code != DONE
    s.wait_answer(azure)
    aws.run(["rm", "-f", f"{POINTS}/destination.restore"])
    azure.run(["sh", "-c", f"rm {BIND}/more"])
    expected = {path: listing(azure, path) for path in (BIND, READ_ONLY)}
    outcome = move(azure, "keeper", "aws")
    assert outcome.code == DONE, outcome.lines[-1]
    assert {path: listing(aws, path) for path in (BIND, READ_ONLY)} == expected


def test_what_was_there_before_is_not_overwritten(volume_scene):
    s = volume_scene
    azure = s.lab.host("azure")
    azure.run(["podman", "volume", "create", "data"])
    azure.run(["mkdir", "-p", BIND])
    azure.run(["sh", "-c", f"echo precious > {BIND}/theirs"])
    outcome = move(s.home, "keeper", "azure")
    assert outcome.code != DONE
    text = json.dumps(outcome.lines)
    # A directory that was made anew may have got the inode of one that an earlier test has moved: then it is said as that.
    changed = "was changed here since it moved"
    assert "this host has a volume data" in text or f"the volume data {changed}" in text
    assert f"{BIND} of this host is not empty" in text or f"the directory {BIND} {changed}" in text
    assert azure.run(["cat", f"{BIND}/theirs"]).stdout == "precious\n"
    s.wait_answer(s.home)


@pytest.fixture
def points(moving_lab):
    """Both daemons fail where they are told to."""
    for host in moving_lab.clouds():
        host.run(["mkdir", "-m", "700", POINTS])
        kill_daemon(host)
        host.run(["rm", "-f", "/run/transship/transshipd.sock"])
        namespace.ask_init(host.record, {**deploy.DAEMON, "env": {"TRANSSHIP_FAULT_POINTS": POINTS}})
        services.wait_until(f"transshipd on {host.name}", lambda host=host: deploy.daemon_answers(host.record))
    yield lambda host, point, order: host.run(f"echo {order} > {POINTS}/{point}")
    for host in moving_lab.clouds():
        host.run(["rm", "-rf", POINTS])
        if deploy.daemon_pid(host.record):
            kill_daemon(host)
        start_daemon(host)


@pytest.mark.parametrize("point, order", [("source.volumes", "fail"), ("destination.prepare.created", "die"), ("destination.restore", "fail"),
                                          ("source.restore", "die")])
def test_a_move_that_fails_leaves_no_volume(volume_scene, points, point, order):
    s = volume_scene
    azure = s.lab.host("azure")
    side = azure if point.startswith("destination") else s.home
    azure.run(["mkdir", "-p", READ_ONLY])  # one that was there, and empty
    points(side, point, order)
    assert move(s.home, "keeper", "azure").code != DONE
    if order == "die":
        start_daemon(side)

    def left():
        found = azure.run(["podman", "volume", "ls", "-q"]).stdout.split() + azure.run(["podman", "ps", "-aq"]).stdout.split()
        return found + [path for path in azure.run(["find", "/srv/lab"]).stdout.splitlines() if path not in ("/srv/lab", READ_ONLY)]

    wait_for("azure to be as it was", lambda: left() == [])
    s.wait_answer(s.home)
    assert s.cli(s.home, "INCR", "goes:on") == "1"
