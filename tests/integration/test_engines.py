"""The engines against real Podman and runc: what `engine-tool` says and does on two hosts of the lab.

No move happens here: the destination starts a fresh process under a transship-runtime that is plain runc.
"""

import json
import time

import pytest
from labkit import deploy
from labkit.api import CommandFailed, Host

TOOL = "/usr/lib/transship/engine-tool"

# Everything a user can ask for that needs no controller that this machine may lack.
FAT = """
podman create --name fat --network engnet:ip=10.77.0.9,mac=92:d0:c6:0a:29:33,alias=fatty,interface_name=eth7
--network engnet6:ip=10.78.0.9,ip6=fd00:78::9 --env A=1 --env 'B=two words' --unsetenv LANG --label l1=v1 --label 'l 2=v 2'
--annotation an1=av1 --umask 0027 --entrypoint '["/bin/sh","-c"]' --user 1000:1000 --group-add 33 --workdir /data
--hostname fathost --ulimit nofile=1000:2000 --ulimit core=-1 --cap-add NET_ADMIN --cap-drop CHOWN --security-opt no-new-privileges
--security-opt mask=/proc/version --security-opt unmask=/proc/acpi --security-opt seccomp=unconfined
--tmpfs /scratch:size=10m,mode=1777 -p 8080:80 -p 127.0.0.1:9000:9000/udp -p 7000-7003:7000-7003 --expose 1234
--restart on-failure:3 --health-cmd 'redis-cli ping' --health-interval disable --health-retries 4 --health-timeout 5s
--health-start-period 7s --health-on-failure kill --log-driver k8s-file --log-opt max-size=10mb
--stop-signal SIGRTMIN+3 --stop-timeout 17 --sysctl net.core.somaxconn=2048 --dns 10.1.1.1 --dns-search ex.org
--dns-option ndots:2 --add-host foo:10.2.2.2 --shm-size 32m --tty --interactive DEVICE
--tz Europe/Paris --secret engsec --secret engsec,type=env,target=SEC --oom-score-adj 100 --pid private --ipc shareable
--systemd false --sdnotify ignore --group-entry 'x:*:99:' IMAGE 'exec sleep 1000'
"""

# `podman generate spec` fails for FAT, because of the secret in its environment. Here its answer is used. (inspect does not
# show a device that is bind mounted into /dev, as on lab hosts, so only this one has a device.)
FAT_NO_SECRET_ENV = FAT.replace("--secret engsec,type=env,target=SEC", "").replace("DEVICE", "--device /dev/null:/dev/mynull:rw")
# runc cannot put a secret into a read-only root, so this is another one; on the default network, with the image's command.
READ_ONLY = "podman create --name fat --read-only --no-hosts --cap-drop ALL --rm IMAGE"
HOST_NETWORK = "podman create --name fat --network host --uts host --ipc host --cgroupns host --privileged IMAGE"

# Fields of `podman inspect` that may differ between the source and the destination, and why.
MAY_DIFFER = {
    "Id": "every Podman gives its own",
    "Created": "made anew",
    "OCIRuntime": "containers that moved run under transship-runtime",
    "State": "another process",
    "GraphDriver": "paths with this host's layer ids",
    "Config.Env": "compared as a set: Podman lists it in no order",
    "NetworkSettings.SandboxKey": "another network namespace",
    "NetworkSettings.Networks.*.NetworkID": "each host has its own network of that name",
    "NetworkSettings.Networks.*.Aliases": "one of them is the short id; the others are compared",
    "HostConfig.RestartPolicy": "held at `no` until finish(); compared after it",
    "HostConfig.LogConfig.Path": "has the id in it",
    "Config.Secrets": "ids of this host's secrets; names and modes are compared",
    "lockNumber": "this host's",
    "ResolvConfPath": "has the id in it",
    "HostnamePath": "has the id in it",
    "HostsPath": "has the id in it",
    "StaticDir": "has the id in it",
    "OCIConfigPath": "has the id in it",
    "ConmonPidFile": "has the id in it",
    "PidFile": "has the id in it",
}


class Tool:
    """The engine-tool on one host."""

    def __init__(self, host: Host, engine: str, options: dict | None = None):
        self.host, self.engine = host, engine
        # Not the daemon's own directory: both may run.
        options = {"--run-dir": "/run/engine-tool"} | (options or {})
        self.options = [word for pair in options.items() for word in pair]

    def __call__(self, *words, options=(), timeout=60.0):
        return json.loads(self.host.run([TOOL, *self.options, *options, self.engine, *words], timeout=timeout).stdout)

    def fails(self, *words, options=()) -> dict:
        with pytest.raises(CommandFailed) as failed:
            self(*words, options=options)
        return json.loads(failed.value.result.stderr.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def hosts(lab):
    """aws and azure with the tool, a transship-runtime that is runc, and the same networks and secret."""
    tool = (deploy.DEFAULT_BUILD / "engine-tool").read_bytes()
    pair = lab.host("aws"), lab.host("azure")
    for host in pair:
        deploy.stop_daemon(host.record)  # it has a Podman service of its own, in the same place
        host.put(TOOL, tool, 0o755)
        host.put("/usr/bin/transship-runtime", '#!/bin/sh\nexec /usr/bin/runc "$@"\n', 0o755)
        host.run("podman network create --subnet 10.77.0.0/24 engnet; podman network create --subnet 10.78.0.0/24 --subnet fd00:78::/64 --ipv6 engnet6")
        host.run(["podman", "secret", "create", "engsec", "-"], input="s3cret")
    yield pair
    for host in pair:
        host.run("podman rm --all --force --time 0; podman network rm engnet engnet6; podman secret rm engsec; rm /usr/bin/transship-runtime")


@pytest.fixture(scope="module")
def image(lab):
    return lab.image("redis")


@pytest.fixture
def podman(hosts):
    source, destination = Tool(hosts[0], "podman"), Tool(hosts[1], "podman")
    yield source, destination
    for host in hosts:
        host.run("podman rm --all --force --time 0")


def inspect(host: Host, name: str) -> dict:
    return json.loads(host.run(["podman", "inspect", name]).stdout)[0]


def processes(host: Host) -> set[str]:
    """Command lines on the host."""
    return set(host.run("ps -e -o args=").stdout.splitlines())


def send(tool: Tool, container: dict) -> str:
    path = "/tmp/container.json"
    tool.host.put(path, json.dumps(container), 0o600)
    return path


def differences(a, b, path=""):
    """Paths at which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b


def allowed(path: str) -> bool:
    words = path.split(".")
    for pattern in MAY_DIFFER:
        want = pattern.split(".")
        if len(words) >= len(want) and all(w in ("*", p) for w, p in zip(want, words)):
            return True
    return False


def run_fat(host: Host, image: str, command: str = FAT) -> dict:
    host.run(command.replace("\n", " ").replace("DEVICE", "").replace("IMAGE", image), timeout=60)
    host.run(["podman", "start", "fat"])
    return inspect(host, "fat")


def pull_and_stage(destination: Tool, container: dict) -> dict:
    path = send(destination, container)
    destination("pull", path)
    assert destination("conflicts", path) == []
    return destination("stage", path)


def test_version_and_list(podman, image):
    source, _ = podman
    assert source("version").startswith("podman 5.")
    source.host.run(["podman", "create", "--name", "one", image])
    source.host.run(["podman", "run", "-d", "--name", "two", image])
    rows = {row["name"]: row for row in source("list")}
    assert rows["one"]["state"] == "created" and rows["one"]["pid"] == 0
    assert rows["two"]["state"] == "running" and rows["two"]["image"] == image
    assert source.host.run(["cat", f"/proc/{rows['two']['pid']}/comm"]).stdout == "redis-server\n"
    error = source.fails("inspect", "three")
    assert error["code"] == "not_found" and "three" in error["message"]


def test_inspect_tells_what_a_move_needs(podman, image):
    source, _ = podman
    run_fat(source.host, image)
    c = source("inspect", "fat")
    assert {(a["network"], a["ip"], a["prefix"], a["interface"]) for a in c["addresses"]} == {
        ("engnet", "10.77.0.9", 24, "eth7"),
        ("engnet6", "10.78.0.9", 24, "eth0"),
        ("engnet6", "fd00:78::9", 64, "eth0"),
    }
    assert {a["mac"] for a in c["addresses"] if a["network"] == "engnet"} == {"92:d0:c6:0a:29:33"}
    assert {(p["host_ip"], p["host_port"], p["protocol"]) for p in c["host_ports"]} >= {("", 8080, "tcp"), ("127.0.0.1", 9000, "udp"), ("", 7003, "tcp")}
    assert source.host.run(["test", "-f", c["bundle"] + "/config.json"]).returncode == 0
    assert source.host.run(["ls", c["rootfs"]]).stdout.split() == sorted(source.host.run(["ls", c["rootfs"]]).stdout.split()) != []
    assert source.host.run(["test", "-d", c["upper_dir"]]).returncode == 0
    assert c["rootfs_kind"] == "overlay" and c["restart_policy"] == "on-failure:3" and c["terminal"]
    assert c["image"] == image and len(c["image_id"]) == 64 and c["image_digest"].startswith("sha256:") and c["image_layers"]
    assert [m["destination"] for m in c["mounts"] if m["type"] != "tmpfs"] == []
    assert {"/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/shm"} <= set(c["managed_files"])
    assert "s3cret" not in c["spec"]


@pytest.mark.parametrize("command", [FAT, FAT_NO_SECRET_ENV, READ_ONLY, HOST_NETWORK], ids=["fat", "fat-no-secret-env", "read-only", "host-network"])
def test_destination_container_is_the_same(podman, image, command):
    source, destination = podman
    before = run_fat(source.host, image, command)
    container = source("inspect", "fat")
    staged = pull_and_stage(destination, container)
    assert destination.host.run(["test", "-d", staged["upper_dir"]]).returncode == 0
    assert inspect(destination.host, "fat")["State"]["Status"] == "created"
    assert inspect(destination.host, "fat")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    destination("start", staged["id"])
    destination("finish", "/tmp/container.json", staged["id"])
    after = inspect(destination.host, "fat")
    shared = {"Config.Hostname"} if before["HostConfig"]["UTSMode"] == "host" else set()  # then it is each host's
    assert [d for d in differences(before, after) if not allowed(d[0]) and d[0] not in shared] == []
    assert sorted(before["Config"]["Env"]) == sorted(after["Config"]["Env"])
    assert before["HostConfig"]["RestartPolicy"] == after["HostConfig"]["RestartPolicy"]
    assert after["OCIRuntime"] == "transship"
    for name, network in before["NetworkSettings"]["Networks"].items():
        ids = {before["Id"][:12], after["Id"][:12]}
        assert set(after["NetworkSettings"]["Networks"][name].get("Aliases", [])) - ids == set(network.get("Aliases", [])) - ids
    strip = lambda secrets: [{k: v for k, v in s.items() if k != "ID"} for s in secrets or []]  # noqa: E731
    assert strip(before["Config"].get("Secrets")) == strip(after["Config"].get("Secrets"))
    assert command != FAT or "SEC=s3cret" in destination.host.run(["podman", "exec", "fat", "env"]).stdout
    # What inspect does not show.
    before_oci, after_oci = (json.loads(t.host.run(["cat", i["OCIConfigPath"]]).stdout) for t, i in ((source, before), (destination, after)))
    for path in (("process", "capabilities"), ("process", "rlimits"), ("process", "args"), ("process", "user"), ("process", "oomScoreAdj"),
                 ("linux", "sysctl"), ("linux", "devices"), ("linux", "resources"), ("linux", "seccomp"), ("linux", "readonlyPaths")):
        assert before_oci[path[0]].get(path[1]) == after_oci[path[0]].get(path[1]), path
    assert set(before_oci["linux"].get("maskedPaths", [])) == set(after_oci["linux"].get("maskedPaths", []))
    shape = lambda oci: sorted((m["destination"], m["type"], tuple(m.get("options", []))) for m in oci["mounts"])  # noqa: E731
    assert shape(before_oci) == shape(after_oci)


def test_a_second_move_does_not_drift(podman, image):
    """What arrives is inspected into the same create request again."""
    source, destination = podman
    run_fat(source.host, image)
    container = source("inspect", "fat")
    staged = pull_and_stage(destination, container)
    destination("start", staged["id"])
    destination("finish", "/tmp/container.json", staged["id"])
    first, second = json.loads(container["spec"]), json.loads(destination("inspect", "fat")["spec"])
    assert list(differences(first["create"], second["create"])) == []
    assert first["secrets"] == second["secrets"]


def test_held_restarts_stay_held(podman, image):
    """A task killed from outside, as CRIU does it, is not started again; released, it is."""
    source, _ = podman
    host = source.host
    host.run(["podman", "run", "-d", "--name", "one", "--restart", "on-failure:5", image])
    assert source("hold", "one") == "on-failure:5"
    host.run(["kill", "-9", str(inspect(host, "one")["State"]["Pid"])])
    wait_for(lambda: inspect(host, "one")["State"]["Status"] == "exited")
    time.sleep(1)
    assert inspect(host, "one")["State"]["Status"] == "exited"
    source("release", "one", "on-failure:5")
    assert inspect(host, "one")["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 5}
    host.run(["podman", "start", "one"])
    first = inspect(host, "one")["State"]["Pid"]
    host.run(["kill", "-9", str(first)])
    wait_for(lambda: inspect(host, "one")["State"]["Pid"] not in (0, first))


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_forget(podman, image):
    source, _ = podman
    host = source.host
    for name in ("gone", "kept", "auto"):
        extra = ["--rm"] if name == "auto" else ["--restart", "always"]
        host.run(["podman", "run", "-d", "--name", name, *extra, image])
        error = source.fails("forget", name, options=["--deadline-ms", "300"])
        assert error["code"] == "timeout" and inspect(host, name)["State"]["Running"]
        source("hold", name)
        host.run(["kill", "-9", str(inspect(host, name)["State"]["Pid"])])
        source("forget", name, *(["keep"] if name == "kept" else []))
    assert host.run("podman ps -a --format '{{.Names}} {{.State}}'").stdout.split() == ["kept", "exited"]
    assert inspect(host, "kept")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    source("forget", "gone")


def test_conflicts(podman, image):
    """Every row with what was found and what to do."""
    source, destination = podman
    run_fat(source.host, image)
    container = source("inspect", "fat")
    there = destination.host
    there.run(["podman", "run", "-d", "--name", "fat", "--network", "engnet:ip=10.77.0.9", "-p", "8080:6379", image])
    listener = there.popen(["python3", "-c", "import socket,time; s=socket.create_server(('0.0.0.0', 7002)); print(flush=True); time.sleep(60)"],
                           stdout=-1)
    listener.stdout.readline()
    try:
        there.run(["podman", "secret", "rm", "engsec"])
        rows = {row["check"]: row for row in destination("conflicts", send(destination, container))}
        ports = [r["found"] for r in destination("conflicts", "/tmp/container.json") if r["check"] == "host-port"]
    finally:
        listener.kill()
        listener.wait()
        there.run(["podman", "secret", "create", "engsec", "-"], input="s3cret")
    assert set(rows) == {"name", "host-port", "address", "secret"}
    assert any("8080" in f and "container fat" in f for f in ports) and any("7002" in f and "a process" in f for f in ports)
    assert all(row["remedy"] for row in rows.values())
    container["name"] = "other"
    container["addresses"][0].update(network="engnet", ip="10.99.0.1")
    container["spec"] = container["spec"].replace('"engnet6"', '"nonet"')
    rows = [r for r in destination("conflicts", send(destination, container)) if r["check"] == "network"]
    assert any("nonet" in r["found"] for r in rows) and any("10.77.0.0/24" in r["found"] for r in rows)


def test_volumes_and_missing_runtime_are_reported(podman, image):
    source, destination = podman
    source.host.run(["podman", "run", "-d", "--name", "one", "-v", "vol:/v", "-v", "/srv:/s:ro", "--tmpfs", "/t", image])
    container = source("inspect", "one")
    destination.host.run(["sh", "-c", "podman volume create vol; mkdir -p /srv; echo precious > /srv/theirs"])
    found = [r["found"] for r in destination("conflicts", send(destination, container)) if r["check"] == "volumes"]
    assert found == ["this host has a volume vol", "the directory /srv of this host is not empty"]
    destination.host.run(["sh", "-c", "podman volume rm vol; rm /srv/theirs"])
    assert [r for r in destination("conflicts", send(destination, container)) if r["check"] == "volumes"] == []
    rows = destination("conflicts", "/tmp/container.json", options=["--runtime", "nosuch"])
    runtime = [r for r in rows if r["check"] == "runtime"]
    assert len(runtime) == 1 and "nosuch" in runtime[0]["found"] and "containers.conf" in runtime[0]["remedy"]
    source.host.run(["podman", "rm", "-f", "-t", "0", "-v", "one"])
    source.host.run(["podman", "volume", "rm", "vol"])
    # What can't be made again elsewhere.
    source.host.run(["podman", "run", "-d", "--name", "two", "--pid", "host", "--label", "PODMAN_SYSTEMD_UNIT=two.service", image])
    source.host.run(["podman", "run", "-d", "--name", "three", "--network", "container:two", image])
    for name, checks in (("two", {"namespace", "systemd-unit"}), ("three", {"namespace", "dependency"})):
        rows = destination("conflicts", send(destination, source("inspect", name)))
        assert {r["check"] for r in rows} == checks


def test_images(podman, image):
    source, destination = podman
    there = destination.host
    source.host.run(["podman", "run", "-d", "--name", "one", image])
    container = source("inspect", "one")
    there.run("podman rmi --all --force")
    path = send(destination, container)
    assert destination("has-image", path) is False
    destination("pull", path)
    assert destination("has-image", path) is True
    assert there.run(["podman", "image", "inspect", "--format", "{{.Id}}", image]).stdout.strip() == container["image_id"]
    spec = json.loads(container["spec"])
    spec["image_refs"] = [spec["image_refs"][0].split("@")[0] + "@sha256:" + "0" * 64]
    error = destination.fails("pull", send(destination, container | {"spec": json.dumps(spec), "image_id": "0" * 64}))
    assert error["code"] == "unavailable" and "podman says" in error["message"] and "0000" in error["message"]


def test_failed_start_and_discard(podman, image):
    """The gate refuses: the start fails with what the runtime said, and discard leaves nothing, twice."""
    source, destination = podman
    there = destination.host
    source.host.run(["podman", "run", "-d", "--name", "one", image])
    container = source("inspect", "one")
    staged = pull_and_stage(destination, container)
    before = processes(there)
    there.put("/usr/bin/transship-runtime", '#!/bin/sh\ncase "$*" in *create*) echo "the gate said no" >&2; exit 1;; esac\nexec /usr/bin/runc "$@"\n', 0o755)
    try:
        assert "the gate said no" in destination.fails("start", staged["id"])["message"]
    finally:
        there.put("/usr/bin/transship-runtime", '#!/bin/sh\nexec /usr/bin/runc "$@"\n', 0o755)
    destination("discard", staged["id"])
    destination("discard", staged["id"])
    assert there.run("podman ps -aq").stdout == ""
    assert not there.path(staged["upper_dir"]).exists()
    assert {p for p in processes(there) - before if "ps -e" not in p} == set()


def test_discard_does_not_wait_longer_than_told(podman, image):
    """While the gate is closed Podman holds the container's lock: discard gives up at its deadline, and works after."""
    source, destination = podman
    there = destination.host
    source.host.run(["podman", "run", "-d", "--name", "one", image])
    staged = pull_and_stage(destination, source("inspect", "one"))
    there.put("/usr/bin/transship-runtime", '#!/bin/sh\ncase "$*" in *create*) sleep 4; exit 1;; esac\nexec /usr/bin/runc "$@"\n', 0o755)
    try:
        start = there.popen([TOOL, "podman", "start", staged["id"]], stdout=-1, stderr=-1)
        time.sleep(1)
        begin = time.monotonic()
        error = destination.fails("discard", staged["id"], options=["--deadline-ms", "500", "--run-dir", "/run/other"])
        assert error["code"] == "timeout" and time.monotonic() - begin < 3.5
        start.communicate(timeout=20)
        assert start.returncode == 1
    finally:
        there.put("/usr/bin/transship-runtime", '#!/bin/sh\nexec /usr/bin/runc "$@"\n', 0o755)
    destination("discard", staged["id"])
    assert there.run("podman ps -aq").stdout == ""


def test_service_of_our_own_ends_with_the_engine(podman):
    source, _ = podman
    nobody = ["--socket", "/run/nobody.sock"]
    assert source("version", options=nobody).startswith("podman")
    assert not any("system service" in p and "transship" in p for p in processes(source.host))
    assert not source.host.path("/run/engine-tool/podman").exists()
    error = source.fails("version", options=[*nobody, "--program", ""])
    assert error["code"] == "unavailable" and "/run/nobody.sock" in error["message"]
    error = source.fails("version", options=[*nobody, "--program", "/usr/bin/nosuch"])
    assert error["code"] == "unavailable" and "nosuch" in error["message"] and error["remedy"]


def test_the_hosts_service_is_used_where_ours_cannot_run(podman):
    source, _ = podman
    assert source("version", options=["--program", ""]).startswith("podman")


# ---- runc

BUNDLE = "/srv/bundles/counter"
ARRIVED = "/var/lib/transship/bundles"


def make_bundle(host: Host, image: str) -> None:
    """A Redis bundle in a prepared network namespace, with one file beside config.json that is bind mounted."""
    host.run(f"ip netns add engns && ip -n engns link add eth0 type bridge && ip -n engns address add 10.79.0.5/24 dev eth0 && "
             f"ip -n engns link set eth0 up && ip -n engns link set lo up && mkdir -p {BUNDLE}/rootfs {BUNDLE}/conf && echo hello > {BUNDLE}/conf/note && "
             f"podman pull -q {image} && id=$(podman create {image}) && podman export $id | tar -C {BUNDLE}/rootfs -xf - && podman rm $id && "
             f"cd {BUNDLE} && runc spec", timeout=60)
    config = json.loads(host.get(f"{BUNDLE}/config.json"))
    config["process"] |= {"terminal": False, "args": ["redis-server", "--save", "", "--protected-mode", "no"], "env": ["PATH=/usr/bin:/bin"]}
    config["root"]["readonly"] = False
    config["linux"].pop("resources", None)
    for ns in config["linux"]["namespaces"]:
        if ns["type"] == "network":
            ns["path"] = "/run/netns/engns"
    config["mounts"].append({"destination": "/etc/note", "type": "bind", "source": f"{BUNDLE}/conf/note", "options": ["bind", "ro"]})
    host.put(f"{BUNDLE}/config.json", json.dumps(config))


def run_bundle(host: Host) -> None:
    host.run(f"runc run --detach --bundle {BUNDLE} counter </dev/null >/dev/null 2>&1")


@pytest.fixture
def runc(hosts, image):
    source, destination = Tool(hosts[0], "runc"), Tool(hosts[1], "runc")
    make_bundle(hosts[0], image)
    yield source, destination
    for host in hosts:
        host.run(f"for id in $(runc list -q); do runc delete --force $id; done; ip netns del engns; rm -rf {BUNDLE} {ARRIVED}", check=False)


def test_bundle_is_started_on_the_other_host(runc):
    source, destination = runc
    run_bundle(source.host)
    assert source("version").startswith("runc 1.")
    rows = {r["name"]: r for r in source("list")}
    assert rows["counter"]["state"] == "running" and rows["counter"]["pid"] > 0
    c = source("inspect", "counter")
    assert c["rootfs_kind"] == "plain" and c["rootfs"] == f"{BUNDLE}/rootfs" and c["network_mode"] == "ns:/run/netns/engns"
    assert [(a["ip"], a["prefix"], a["interface"]) for a in c["addresses"]] == [("10.79.0.5", 24, "eth0")]
    path, there = send(destination, c), destination.host
    assert [r["check"] for r in destination("conflicts", path)] == ["network"]
    there.run("ip netns add engns && ip -n engns link set lo up")
    rows = destination("conflicts", path)
    assert [r["check"] for r in rows] == ["address"] and "10.79.0.5" in rows[0]["found"] and "address add" in rows[0]["remedy"]
    there.run("ip -n engns link add eth0 type bridge && ip -n engns address add 10.79.0.5/24 dev eth0")
    assert destination("conflicts", path) == []
    before = processes(there)
    staged = destination("stage", path)
    assert staged["rootfs"] == f"{ARRIVED}/counter/rootfs" and there.run(["ls", staged["rootfs"]]).stdout == ""
    assert {r["check"] for r in destination("conflicts", path)} == {"name"}
    tree = source.host.run(f"tar -C {BUNDLE}/rootfs -cf - .", text=False).stdout
    there.run(["tar", "-C", staged["rootfs"], "-xf", "-"], input=tree, text=False)
    destination("start", staged["id"])
    assert {r["name"]: r["state"] for r in destination("list")} == {"counter": "running"}
    wait_for(lambda: there.run("runc exec counter redis-cli ping", check=False).stdout == "PONG\n")
    assert there.run("runc exec counter cat /etc/note").stdout == "hello\n"
    wait_for(lambda: b"Ready to accept" in there.get(f"{ARRIVED}/counter/output.log"))
    again = destination("inspect", "counter")  # it can move on
    assert [a["ip"] for a in again["addresses"]] == ["10.79.0.5"]
    assert json.loads(again["spec"])["blocks"] == []
    destination("discard", "counter")
    destination("discard", "counter")
    assert destination("list") == [] and not there.path(f"{ARRIVED}/counter").exists()
    wait_for(lambda: not {p for p in processes(there) - before if "ps -e" not in p})


def test_bundle_forgotten_and_failed(runc):
    source, destination = runc
    run_bundle(source.host)
    assert source.fails("inspect", "nosuch")["code"] == "not_found"
    assert source.fails("inspect", "../etc")["code"] == "invalid_argument"
    assert source("hold", "counter") == "no"
    assert source.fails("forget", "counter", options=["--deadline-ms", "300"])["code"] == "timeout"
    container = source("inspect", "counter")
    source.host.run("runc kill counter KILL")
    source("forget", "counter", "keep")
    assert [r["state"] for r in source("list")] == ["stopped"]
    source("forget", "counter")
    source("forget", "counter")
    assert source("list") == [] and source.host.path(f"{BUNDLE}/config.json").exists()  # the user's own directory
    staged = destination("stage", send(destination, container))  # no network namespace, empty root
    error = destination.fails("start", staged["id"])
    assert "transship-runtime create counter ended with code 1" in error["message"] and "engns" in error["message"]
    destination("discard", staged["id"])
    assert destination("list") == [] and not destination.host.path(f"{ARRIVED}/counter").exists()
