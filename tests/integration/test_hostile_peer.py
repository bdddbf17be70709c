"""What a pinned peer that has been broken into cannot do: a program with the key of aws, or of openstack, speaks to the real
daemon of azure, which has real Podman, runc and CRIU. docs/threat-model.md names the test of each line.

  aws, openstack (liars) ──▶ azure
"""

import json
import time

import pytest

from demokit import leftovers
from demokit.runc_subject import RuncRedis
from demokit.subject import IMAGE
from hostile import Peer, changed
from labkit import deploy

TOOL = "/usr/lib/transship/engine-tool"
LOG = "/var/log/transship/transshipd.log"
CANARY = "/etc/canary"
AT_AZURE = 20.0  # seconds until nothing is left of what was refused


@pytest.fixture(scope="module")
def azure(moving_lab):
    azure = moving_lab.host("azure")
    moving_lab.image("redis")
    azure.run(["podman", "pull", "-q", IMAGE], timeout=90)
    azure.put(CANARY, "untouched\n", 0o644)
    yield azure
    azure.run(["rm", "-f", CANARY])


@pytest.fixture(scope="module")
def liar(moving_lab, azure):
    return Peer(moving_lab.host("aws"), azure)


@pytest.fixture(scope="module")
def container(moving_lab, liar):
    """What aws would say, honestly, of a container that it has."""
    aws = liar.host
    aws.put(TOOL, (deploy.DEFAULT_BUILD / "engine-tool").read_bytes(), 0o755)
    aws.run(["podman", "run", "-d", "--name", "decoy", "--ip", "10.88.0.77", IMAGE], timeout=90)
    try:
        facts = json.loads(aws.run([TOOL, "--run-dir", "/run/engine-tool", "podman", "inspect", "decoy"], timeout=60).stdout)
    finally:
        aws.run(["podman", "rm", "-f", "-t", "0", "decoy"], timeout=60)
    return facts


@pytest.fixture(scope="module")
def bundle(moving_lab, liar):
    """The same of a plain bundle."""
    redis = RuncRedis(moving_lab, name="bundled", address="10.88.0.78")
    redis.create(liar.host)
    try:
        facts = json.loads(liar.host.run([TOOL, "--run-dir", "/run/engine-tool", "runc", "inspect", "bundled"], timeout=60).stdout)
        yield facts
    finally:
        for host in moving_lab.clouds():
            redis.remove(host)
        moving_lab.unroute(redis.address)


@pytest.fixture(autouse=True)
def unharmed(azure):
    """The daemon lives, nothing is left, the file outside of every container is as it was."""
    before, daemon = leftovers.collect(azure), deploy.daemon_pid(azure.record)
    images = azure.run("podman images -a -q --no-trunc | sort -u").stdout
    yield
    assert deploy.daemon_pid(azure.record) == daemon, azure.run(["tail", "-n", "30", LOG]).stdout
    assert leftovers.left_behind(azure, before, patience=AT_AZURE) == []
    assert azure.run(["cat", CANARY]).stdout == "untouched\n"
    assert azure.run(["stat", "-c", "%a %u", CANARY]).stdout == "644 0\n"
    assert azure.run("ls -d /tmp/escaped /escaped /var/lib/escaped 2>/dev/null", check=False).stdout == ""
    assert azure.run("podman images -a -q --no-trunc | sort -u").stdout == images


def log_since(host, mark: int) -> str:
    return host.run(f"tail -c +{mark + 1} {LOG}").stdout


def log_mark(host) -> int:
    return int(host.run(["stat", "-c", "%s", LOG]).stdout)


def refusals(told, expected: dict[str, str]) -> list[str]:
    """What was not refused, or in other words than those."""
    said = dict(told)
    return [f"{name}: {said.get(name)!r} lacks {words!r}" for name, words in expected.items() if words not in said.get(name, "")]


# Each facts in a conversation of its own: refused with the reservation, however the plan was gone about.
RESERVE_ALL = r"""
for name, c in DATA["cases"].items():
    s = session()
    tell(name, reserve(s, "0badmove" + str(list(DATA["cases"]).index(name)), facts(c)))
    s.close()
"""

HOST = {"source": "/etc", "destination": "/h", "type": "bind"}
MORE = {
    "privileged": ({"privileged": True}, "says something else about being privileged"),
    "capability": ({"cap_add": ["SYS_ADMIN"]}, "allow.capabilities"),
    "all capabilities": ({"cap_add": ["ALL"]}, "allow.capabilities"),
    "device": ({"devices": [{"path": "/dev/sda"}]}, "allow.devices"),
    "device rule": ({"device_cgroup_rule": [{"allow": True, "type": "b", "access": "rwm"}]}, "allow.device_rules"),
    "host mount": ({"mounts": [HOST]}, "allow.writable_mounts"),
    "host mount for reading": ({"mounts": [HOST | {"options": ["ro"]}]}, "allow.read_only_mounts"),
    "mount by a way round": ({"mounts": [HOST | {"source": "/srv/../etc"}]}, "not a plain absolute path"),
    "shared mount": ({"mounts": [HOST | {"options": ["rshared"]}]}, "rshared"),
    "overlay volume": ({"overlay_volumes": [{"source": "/etc", "destination": "/h"}]}, "overlay volumes"),
    "volume": ({"volumes": [{"Name": "others", "Dest": "/h"}]}, "of which it did not speak before"),
    "secret": ({"secrets": [{"Source": "password", "Target": "password"}]}, "allow.secrets"),
    "host network": ({"netns": {"nsmode": "host"}}, "allow.host_namespaces"),
    "host pid": ({"pidns": {"nsmode": "host"}}, "allow.host_namespaces"),
    "host ipc": ({"ipcns": {"nsmode": "host"}}, "allow.host_namespaces"),
    "host uts": ({"utsns": {"nsmode": "host"}}, "allow.host_namespaces"),
    "host cgroup": ({"cgroupns": {"nsmode": "host"}}, "allow.host_namespaces"),
    "another's network": ({"netns": {"nsmode": "path", "value": "/proc/1/ns/net"}}, "which is not its own"),
    "user namespace": ({"userns": {"nsmode": "auto"}}, "\"userns\""),
    "no apparmor": ({"apparmor_profile": "unconfined"}, "allow.unconfined"),
    "a lax filter": ({"seccomp_profile_path": "/tmp/lax.json"}, "allow.seccomp_profiles"),
    "unmasked": ({"unmask": ["ALL"]}, "allow.unmasked_paths"),
    "sysctl": ({"sysctl": {"kernel.core_pattern": "|/bin/sh"}}, "allow.sysctls"),
    "ulimit": ({"r_limits": [{"type": "RTPRIO", "soft": 99, "hard": 99}, {"type": "NOFILE", "soft": 9, "hard": 1 << 40}]}, "limits.ulimits"),
    "oom score": ({"oom_score_adj": -1000}, "limits.oom_score_adj"),
    "cgroup parent": ({"cgroup_parent": "/system.slice"}, "allow.cgroup_parents"),
    "no cgroup": ({"cgroups_mode": "disabled"}, "cgroup of its own"),
    "annotation": ({"annotations": {"org.criu.config": "/data/criu.conf"}}, "allow.annotations"),
    "systemd unit": ({"labels": {"PODMAN_SYSTEMD_UNIT": "sshd.service"}}, "PODMAN_SYSTEMD_UNIT"),
    "log file": ({"log_configuration": {"driver": "k8s-file", "path": CANARY}}, "allow.writable_mounts"),
    "health log": ({"healthLogDestination": "/etc"}, "allow.writable_mounts"),
    "host file as hosts": ({"base_hosts_file": "/etc/shadow"}, "allow.read_only_mounts"),
    "host file as init": ({"init_path": "/etc/shadow"}, "allow.read_only_mounts"),
    "time zone": ({"timezone": "../../../etc/shadow"}, "time zone"),
    "another spelling": ({"Privileged": True}, "\"Privileged\""),
    "a runtime": ({"oci_runtime": "/tmp/x"}, "\"oci_runtime\""),
    "a root of the host's": ({"rootfs": "/"}, "\"rootfs\""),
    "a port that was not reserved": ({"portmappings": [{"host_port": 22, "container_port": 22, "protocol": "tcp"}]}, "a published port that its facts do not have"),
    "an address that was not reserved": ({"Networks": {"podman": {"static_ips": ["10.88.0.99"]}}}, "an address that its facts do not have"),
}


def test_podman_containers_get_nothing_past_the_policy(liar, azure, container):
    mark = log_mark(azure)
    cases = {name: changed(container, create=create, name=f"liar{n}") for n, (name, (create, _)) in enumerate(MORE.items())}
    cases["said to be privileged"] = changed(container, create={"privileged": True}, privileged=True)
    told = liar.run(RESERVE_ALL, cases=cases)
    assert refusals(told, {name: words for name, (_, words) in MORE.items()} | {"said to be privileged": "allow.privileged = true"}) == []
    assert all(said.startswith("kRefused") or said.startswith("refused") for _, said in told), told
    log = log_since(azure, mark)
    assert log.count("of aws refused") >= len(cases) and "policy: podman:" in log


BUNDLED = {
    "hooks": ({"hooks": {"prestart": [{"path": "/bin/sh"}]}}, "\"hooks\""),
    "an empty hook": ({"hooks": {"poststop": []}}, "\"hooks\""),
    "vm": ({"vm": {"hypervisor": {"path": "/bin/sh"}}}, "\"vm\""),
    "capability": ({"process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}}, "allow.capabilities"),
    "scheduler": ({"process": {"scheduler": {"policy": "SCHED_FIFO"}}}, "\"scheduler\""),
    "host mount": ({"mounts": [HOST]}, "allow.writable_mounts"),
    "a link of its own root": ({"mounts": [HOST | {"source": "rootfs/link"}]}, "mount of"),
    "a disk": ({"mounts": [HOST | {"source": "/dev/sda", "type": "ext4"}]}, "type \"ext4\""),
    "a second proc": ({"mounts": [{"destination": "/p", "type": "proc"}]}, "instead of /proc"),
    "host namespaces": ({"linux": {"namespaces": [{"type": "mount"}]}}, "allow.host_namespaces"),
    "host mounts": ({"linux": {"namespaces": [{"type": "pid"}]}}, "mount namespace"),
    "the host's network by a file": ({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/1/ns/net"}]}}, "network"),
    "another's pids": ({"linux": {"namespaces": [{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}]}}, "/proc/1/ns/pid"),
    "device": ({"linux": {"devices": [{"path": "/dev/x", "type": "b", "major": 8, "minor": 0}]}}, "allow.device_rules"),
    "a program that is told": ({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/x"}}}, "\"listenerPath\""),
    "a cgroup of the host's": ({"linux": {"cgroupsPath": "/system.slice/sshd.service"}}, "allow.cgroup_parents"),
    "its network device": ({"linux": {"netDevices": {"eth0": {}}}}, "\"netDevices\""),
    "annotation": ({"annotations": {"org.criu.config": "/x"}}, "allow.annotations"),
}


def test_bundles_get_nothing_past_the_policy(liar, bundle):
    told = liar.run(RESERVE_ALL, cases={name: changed(bundle, config=config) for name, (config, _) in BUNDLED.items()})
    assert refusals(told, {name: words for name, (_, words) in BUNDLED.items()}) == []


def test_names_are_plain_names(liar, container, bundle):
    bad = {
        "name": changed(container, name="../../etc/x"),
        "id": container | {"id": "../x"},
        "option": container | {"name": "--privileged"},
        "image": container | {"image": "[overlay@/var/lib/escaped+/run/x]app:1"},
        "image id": container | {"image_id": "docker.io/library/nginx:latest"},
        "digest": container | {"image_digest": "sha256:../../x"},
        "layer": container | {"image_layers": ["../../x"]},
        "address": container | {"addresses": [container["addresses"][0] | {"ip": "10.88.0.5 via 1.2.3.4"}]},
        "network": container | {"addresses": [container["addresses"][0] | {"network": "../x"}]},
        "port": container | {"host_ports": [{"host_ip": "", "host_port": 80, "container_port": 80, "protocol": "tcp; x"}]},
        "engine": container | {"engine": "../podman"},
        "bundle": changed(bundle, id="../escaped", name="../escaped"),
    }
    told = liar.run(RESERVE_ALL, cases=bad)
    assert [t for t in told if t[1] == "done"] == []
    told = liar.run(r"""
for name in ("../x", "/x", ".x", "-x", "", "x" * 200, "a b"):
    s = session(); tell("move " + name, reserve(s, name, facts(DATA["c"]))); s.close()
s = session(); token = token_of(reserve_soon(s, "0badnames", facts(DATA["c"])))
for name in ("../escaped", "/tmp/escaped", ".x", b"a\0b", b"\xff"):
    l = Lane("0badnames", token); l.send(1, name, 0, b"x"); tell(repr(name), l.flush())
s.close()
""", c=container)
    assert [t for t in told if t[1] in ("done", "ok")] == []


def test_no_more_than_was_reserved(liar, azure, container):
    told = dict(liar.run(r"""
c = facts(DATA["c"])
for name, amounts in {"memory": {"memory": 1 << 50}, "images": {"images": 1 << 50}, "storage": {"storage": 1 << 50},
                      "pages": {"memory": 1, "pages": 1 << 50}, "wrapped": {"images": (1 << 64) - 1}}.items():
    s = session(); tell("reserve " + name, reserve(s, "0bad" + name, c, **amounts)); s.close()
def lane(move, **amounts):
    s = session(); r = reserve_soon(s, move, c, **amounts)
    return s, Lane(move, token_of(r))
s, l = lane("0badlayers", storage=2 * MIB)
for n in range(3): l.send(3, "layer", n * MIB, b"x" * MIB)
tell("layers", l.flush()); s.close()
s, l = lane("0badfar", storage=2 * MIB); l.send(3, "layer", 1 << 40, b"x"); tell("a layer's far end", l.flush()); s.close()
s, l = lane("0badpages", pages=MIB); l.send(4, "pages", 0, b"\0" * 100); tell("no batch", l.flush()); s.close()
s, l = lane("0badnopages"); l.send(4, "pages", 0, b"\0" * 100); tell("pages that were not announced", l.flush()); s.close()
s, l = lane("0badmany"); tell("a lane with a made-up token", Lane("0badmany", b"x").refused); s.close()
s, l = lane("0badprepared"); tell("prepare", ask(s, 6))
l.send(1, "pages-1.img", 100 * MIB, b"x"); tell("images", l.flush()); s.close()
s, l = lane("0badfull", images=1); ask(s, 6)
for n in range(80): l.send(1, "f%d" % n, 0, b"x" * MIB)
tell("images that fill it", l.flush()); s.close()
s, l = lane("0badroot", storage=MIB); ask(s, 6)
l.stream("round-0", archive(("data/big", {}, b"x" * (3 * MIB))))
tell("root file system", ask(s, 9, b"")); s.close()
s, l = lane("0badrounds", storage=2 * MIB); ask(s, 6)
l.stream("round-0", archive(("data/a", {}, b"x" * MIB))); tell("first round", ask(s, 9, b""))
l.stream("round-1", archive(("data/b", {}, b"x" * MIB))); tell("second round", ask(s, 9, count(1, 1)))
l.stream("round-2", archive(("data/c", {}, b"x" * MIB))); tell("third round", ask(s, 9, count(1, 2))); s.close()
""", c=container))
    for what in ("memory", "images", "storage", "pages"):
        assert "reserve" in told[f"reserve {what}"] and told[f"reserve {what}"] != "done", told
    assert "a reservation of" in told["reserve wrapped"]
    assert "was reserved for the image" in told["layers"] and "was reserved for the image" in told["a layer's far end"]
    assert told["no batch"] != "ok" and "without a reservation" in told["pages that were not announced"]
    assert "not its token" in told["a lane with a made-up token"]
    assert "was reserved for CRIU's images" in told["images"]
    assert "no_space" in told["images that fill it"].lower() or "No space left" in told["images that fill it"], told["images that fill it"]
    assert "larger than" in told["root file system"]
    assert told["first round"] == "done" and "larger than" in told["third round"], told


def test_the_root_file_system_stays_in_its_root(liar, azure, container):
    """Every stream into a container that azure has really made; `fine` shows that such a stream can work."""
    told = dict(liar.run(r"""
c, n = facts(DATA["c"]), 0
def apply(name, *entries):
    global n
    n += 1
    s = session(); l = Lane("0badtree%d" % n, token_of(reserve_soon(s, "0badtree%d" % n, c))); ask(s, 6)
    l.stream("round-0", archive(*entries))
    tell(name, ask(s, 9)); s.close(); time.sleep(0.1)
link = lambda target: {"type": tarfile.SYMTYPE, "linkname": target}
hard = lambda target: {"type": tarfile.LNKTYPE, "linkname": target}
apply("fine", ("data/s", {"mode": 0o4755}, b"#!/bin/sh\n"), ("data/l", link("/etc/canary")), ("data/h", hard("data/s")))
apply("up", ("../../../../../../tmp/escaped", {}, b"x"))
apply("up in the middle", ("data/../../../../../../tmp/escaped", {}, b"x"))
apply("absolute", ("/tmp/escaped", {}, b"x"))
apply("through a link", ("data/l", link("/tmp")), ("data/l/escaped", {}, b"x"))
apply("through a relative link", ("l", link("../../../../../../tmp")), ("l/escaped", {}, b"x"))
apply("onto a link", ("data/c", link("/etc/canary")), ("data/c", {"mode": 0o777}, b"overwritten"))
apply("hard link up", ("data/h", hard("../../../../../../etc/canary")))
apply("absolute hard link", ("data/h", hard("/etc/canary")))
apply("hard link through a link", ("data/e", link("/etc")), ("data/h", hard("data/e/canary")))
apply("a disk", ("data/disk", {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0}))
apply("memory", ("data/mem", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1}))
apply("metacopy", ("data/m", {"pax_headers": xattr("trusted.overlay.metacopy", "")}))
apply("a file as the root", (".", {}, b"x"))
""", c=container))
    refused = {name: said for name, said in told.items() if name not in ("fine", "onto a link")}
    # The name is taken away from the link, and given to a file: nothing is followed.
    assert (told["fine"], told["onto a link"]) == ("done", "done"), told
    assert [f"{name}: {said}" for name, said in refused.items() if "refused" not in said and "no name below" not in said] == []


def test_two_rounds_at_once(liar, container):
    """A directory that becomes a link while another lane writes into it."""
    told = dict(liar.run(r"""
s = session(); token = token_of(reserve_soon(s, "0badrace", facts(DATA["c"]))); ask(s, 6)
one, two = Lane("0badrace", token), Lane("0badrace", token)
one.send(2, "round-0", 0, archive(("data/d/f", {}, b"x" * MIB))[:MIB])
tell("the first", one.flush())
two.send(2, "round-1", 0, archive(("data/d", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}))); tell("the second", two.flush())
three = Lane("0badrace", token)
three.send(2, "round-0", 7, b"x"); tell("into the first", three.flush())
s.close()
""", c=container))
    assert told["the first"] == "ok"
    assert 'began before "round-0" was over' in told["the second"]
    assert "goes on at 7" in told["into the first"]


def test_moves_of_others(moving_lab, liar, azure, container):
    """openstack, which is pinned as well, and knows the id of a move of aws, and its lanes' token."""
    mark = log_mark(azure)
    program = r"""
s = session(); r = reserve_soon(s, "0badvictim", facts(DATA["c"])); print(json.dumps(["token", token_of(r).decode()]), flush=True)
s2 = session(); r2 = reserve_soon(s2, "0badother", facts(DATA["d"])); print(json.dumps(["other", token_of(r2).decode()]), flush=True)
ask(s, 6); l = Lane("0badvictim", token_of(r2)); tell("another move's token", l.refused)
l = Lane("0badvictim", token_of(r)); l.send(1, "a.img", 0, b"mine"); tell("mine", l.flush())
open("/tmp/ready", "w"); 
for _ in range(200):
    if os.path.exists("/tmp/go-on"): break
    time.sleep(0.1); ask(s, 15)
l.send(1, "b.img", 0, b"mine"); tell("still mine", l.flush()); tell("it goes on", ask(s, 15))
"""
    aws = liar.host
    aws.run("rm -f /tmp/ready /tmp/go-on /tmp/told")
    aws.put("/tmp/victim.json", json.dumps({"target": azure.address, "c": container, "d": changed(container, create={"Networks": {}}, name="decoy2", addresses=[])}))
    from hostile import HOSTILE
    aws.put("/tmp/victim.py", HOSTILE + program)
    victim = aws.popen("python3 /tmp/victim.py /tmp/victim.json >/tmp/told 2>&1")
    try:
        end = time.monotonic() + 40
        while aws.run("test -e /tmp/ready", check=False).returncode != 0:
            assert time.monotonic() < end and victim.poll() is None, aws.run("cat /tmp/told", check=False).stdout
            time.sleep(0.1)
        tokens = dict(json.loads(line) for line in aws.run(["cat", "/tmp/told"]).stdout.splitlines() if line.startswith("["))
        told = dict(Peer(moving_lab.host("openstack"), azure).run(r"""
c = facts(DATA["c"])
tell("lane", Lane("0badvictim", DATA["token"]).refused)
s = session()
tell("commit", ask(s, 12, text(1, "0badvictim")))
tell("fill", ask(s, 17, text(1, "0badvictim") + count(2, 1)))
tell("decision", ask(s, 14, text(1, "0badvictim")))
tell("reserve", reserve(s, "0badvictim", c))
for name, which in (("abort", 13), ("renew", 15), ("prepare", 6), ("arm", 16), ("restore", 11), ("rootfs", 9), ("image", 8), ("layers", 7)):
    tell(name, ask(s, which))
""", c=changed(container, create={"Networks": {}}, name="decoy3", addresses=[]), token=tokens["token"]))
        aws.run("touch /tmp/go-on")
        assert victim.wait(30) == 0, aws.run("cat /tmp/told").stdout
    finally:
        aws.run("touch /tmp/go-on")
        victim.wait(30)
    assert [t for t in told.items() if t[1] in ("done", "")] == [], told
    assert "no such move" in told["lane"] and "no move 0badvictim of openstack" in told["commit"] + told["fill"], told
    assert "is not with openstack" in told["decision"] and "known here already" in told["reserve"], told
    assert all("needs a reservation first" in told[k] for k in ("abort", "renew", "prepare", "arm", "restore", "rootfs", "image", "layers")), told
    mine = dict(json.loads(line) for line in aws.run(["cat", "/tmp/told"]).stdout.splitlines() if line.startswith("["))
    assert "not its token" in mine["another move's token"]
    assert (mine["mine"], mine["still mine"], mine["it goes on"]) == ("ok", "ok", "done"), mine
    assert "asks for the decision of a move that is not with it" in log_since(azure, mark)


def test_a_move_is_made_once(liar, container):
    """The same messages again, and messages out of turn."""
    told = dict(liar.run(r"""
c = facts(DATA["c"])
s = session(); r = reserve_soon(s, "0badreplay", c); tell("first", r)
tell("again in the session", reserve(s, "0badreplay", c))
other = session(); tell("again in another", reserve(other, "0badreplay", c))
tell("commit too early", ask(s, 12, text(1, "0badreplay"))); tell("restore too early", ask(s, 11)); tell("arm too early", ask(s, 16))
tell("round too early", ask(s, 9))
tell("abort", ask(s, 13)); tell("prepare after the abort", ask(s, 6)); s.close(); other.close(); time.sleep(1.5)
s = session(); tell("after its end", reserve(s, "0badreplay", c))
tell("commit after its end", ask(s, 12, text(1, "0badreplay")))
tell("lane after its end", Lane("0badreplay", token_of(r)).refused)
tell("decision of one that never was", ask(s, 14, text(1, "0badnever")))
""", c=container))
    assert (told["first"], told["abort"]) == ("done", "done"), told
    assert "has reserved already" in told["again in the session"] and "known here already" in told["again in another"]
    assert all("is not allowed while the move is" in told[f"{k} too early"] for k in ("commit", "restore", "arm", "round")), told
    assert "was ended on the destination" in told["prepare after the abort"]
    assert "has been a move 0badreplay here already" in told["after its end"]
    assert "was ended on" in told["commit after its end"] and "no such move" in told["lane after its end"]


# inventory, process tree, ids, mounts, files: what CRIU would read first.
IMAGES = r"""
def ids(n, mnt=None): return b"".join(number(k, n) for k in (1, 2, 3, 4, 5, 6, 7, 8)) + number(9, mnt or n) + number(10, 1)
def mount(kind, point, key=""): return number(1, kind) + number(2, 1) + number(3, 1) + number(4, 1) + number(5, 0) + text(6, "/") + text(7, point) + text(8, "x") + part(9, b"") + text(18, key)
def images(first, mounts, name="/data/x"):
    return {"inventory.img": image(0x58313116, number(1, 2) + part(3, ids(1))), "pstree.img": image(0x50273030, number(1, 1) + number(2, 0) + number(3, 1) + number(4, 1) + number(5, 1)),
            "ids-1.img": image(0x54432030, first), "mountpoints-11.img": image(0x55563928, *mounts),
            "files.img": image(0x56303138, number(1, 1) + number(2, 1) + part(3, number(1, 1) + number(2, 0) + number(3, 0) + part(5, b"") + text(6, name)))}
def restore(name, files):
    global n
    n += 1
    move = "0badimages%d" % n
    s = session(); l = Lane(move, token_of(reserve_soon(s, move, facts(DATA["c"])))); ask(s, 6)
    l.send(1, "descriptors.json", 0, b'["/dev/null", "pipe:[1]", "pipe:[2]"]')
    for file, data in files.items(): l.send(1, file, 0, data)
    tell(name + " sent", l.flush()); tell(name + " armed", ask(s, 16))
    body = b"".join(part(1, text(1, f) + count(2, len(d))) for f, d in files.items())
    tell(name, ask(s, 11, body))
    tell(name + " again", ask(s, 11, body))
    l.send(1, "inventory.img", 0, b"another"); tell(name + " late", l.flush())
    tell(name + " commit", ask(s, 12, text(1, move)))
    s.close(); time.sleep(1)
n, root = 0, mount(17, "/")
"""


def test_images_restore_nothing_outside_of_the_container(liar, azure, container):
    """What CRIU would be told: the plan, the reservation and the engine's container are all in order."""
    mark = log_mark(azure)
    told = dict(liar.run(IMAGES + r"""
restore("host mounts", images(ids(11, 1), [root]))
restore("host network", images(ids(11).replace(number(6, 11), number(6, 1)), [root]))
restore("a disk", images(ids(11), [root, mount(16, "/h")]))
restore("a path up", images(ids(11), [root], "/data/../../../etc/shadow"))
restore("nothing", {"inventory.img": b"x"})
""", c=container))
    expected = {"host mounts": "see the host's mounts", "host network": "use the host's network", "a disk": "mount a file system of kind 16",
                "a path up": "open \"/data/../../../etc/shadow\"", "nothing": "pstree.img"}
    for name, words in expected.items():
        assert (told[f"{name} sent"], told[f"{name} armed"]) == ("ok", "done"), told
        assert words in told[name] or (name == "nothing" and told[name] != "done"), told
        assert "has been tried already" in told[f"{name} again"], told
        assert "after the restore had begun" in told[f"{name} late"], told
        assert "is not allowed while the move is starting" in told[f"{name} commit"], told
    assert log_since(azure, mark).count("the images of the source would") >= 4


def test_an_image_from_the_source_gets_no_name(liar, azure, container):
    """Not even that of an image which is not here: whoever asks for it later would get what the peer sent."""
    name = "docker.io/library/nginx:latest"
    told = dict(liar.run(r"""
import hashlib, gzip
blob = lambda d: hashlib.sha256(d).hexdigest()
layer = io.BytesIO(); t = tarfile.open(fileobj=layer, mode="w"); i = tarfile.TarInfo("evil"); i.size = 5; t.addfile(i, io.BytesIO(b"evil\n")); t.close(); layer = layer.getvalue()
def send_image(move, name, layer, diff):
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff]}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + blob(config), "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + blob(layer), "size": len(layer)}]}).encode()
    c = dict(DATA["c"]); spec = json.loads(c["spec"]); spec["create"]["image"] = blob(config); spec["image_refs"] = []
    c |= {"image": DATA["name"], "image_id": blob(config), "image_digest": "", "image_layers": ["sha256:" + diff], "spec": json.dumps(spec)}
    s = session(); l = Lane(move, token_of(reserve_soon(s, move, facts(c)))); ask(s, 6)
    for f, d in (("manifest.json", manifest), ("version", b"Directory Transport Version: 1.1\n"), (blob(config), config), (blob(layer), layer)): l.send(3, f, 0, d)
    l.flush(); tell(name, ask(s, 8, text(1, DATA["name"]))); s.close()
    return blob(config)
print(json.dumps(["id", send_image("0badname", "sent", layer, blob(layer))]), flush=True)
packed = gzip.compress(b"\0" * (64 * MIB)); send_image("0badbomb", "packed", packed, blob(b"\0" * (64 * MIB)))
""", c=container, name=name))
    try:
        assert told["sent"] == "done" and "came packed" in told["packed"], told
        assert azure.run(["podman", "image", "exists", told["id"]], check=False).returncode == 0
        assert azure.run(["podman", "image", "exists", name], check=False).returncode == 1
    finally:
        azure.run(["podman", "rmi", "-f", told["id"]], check=False)


def test_the_log_cannot_be_forged(liar, azure, container):
    """Text from a peer is one line of the log, without what a terminal would obey."""
    mark = log_mark(azure)
    liar.run(r"""
s = session(); reserve_soon(s, "0badlog", facts(DATA["c"])); ask(s, 13, text(1, "x\n[error] forged\x1b[2J")); s.close()
""", c=container)
    log = log_since(azure, mark)
    assert "\x1b" not in log and not any(line.startswith("[error] forged") for line in log.splitlines()), log
