"""Moves that succeed, on real Podman, CRIU and Redis."""

import json
import os
import time
from pathlib import Path

import pytest

from demokit.load import longest_silence_ms
from demokit.runc_subject import RuncRedis
from demokit.subject import PodmanRedis
from labkit.errors import LabError
from moving import DONE, Scene, move
from test_move_fails import restart_daemon


# What TCP leaves of an Ethernet link's rate: 1448 of 1514 bytes, less acknowledgements.
PAYLOAD_SHARE = 0.944


def test_there_and_back_twenty_times(scene):
    s = scene(mib=16, clients=4)
    names = ["aws", "azure"]
    for n in range(20):
        outcome = move(s.lab.host(names[n % 2]), "podman:redis", names[(n + 1) % 2])
        assert outcome.code == DONE, f"move {n + 1}: {outcome.lines[-1]}"
    s.check_runs_on("aws")


def test_a_plain_runc_bundle_there_and_back(scene, moving_lab):
    s = scene(redis=RuncRedis(moving_lab), mib=16, clients=4)
    names = ["aws", "azure"]
    for n in range(6):
        outcome = move(s.lab.host(names[n % 2]), "runc:redis", names[(n + 1) % 2])
        assert outcome.code == DONE, f"move {n + 1}: {outcome.lines[-1]}"
    s.check_runs_on("aws")


def test_the_engine_goes_on_as_if_it_had_been_started_there(scene):
    s = scene(clients=2, options=["--env", "COLOUR=green", "--label", "team=blue", "--restart", "on-failure:3", "--hostname", "keeper"])
    aws, azure = s.lab.host("aws"), s.lab.host("azure")
    before = s.redis.inspect(aws)
    assert move(aws, "redis", "azure").code == DONE
    after = s.redis.inspect(azure)
    assert sorted(after["Config"]["Env"]) == sorted(before["Config"]["Env"]) and "COLOUR=green" in after["Config"]["Env"]
    assert after["Config"]["Labels"]["team"] == "blue"
    assert after["Config"]["Hostname"] == "keeper"
    assert after["Image"] == before["Image"] and after["ImageDigest"] == before["ImageDigest"]
    assert after["HostConfig"]["RestartPolicy"] == before["HostConfig"]["RestartPolicy"]
    assert after["NetworkSettings"]["Networks"]["podman"]["IPAddress"] == s.redis.address
    assert "redis" in azure.run(["podman", "ps", "--format", "{{.Names}}"]).stdout.split()
    assert azure.run(["podman", "exec", "redis", "redis-cli", "PING"]).stdout.strip() == "PONG"
    assert azure.run(["podman", "exec", "redis", "hostname"], check=False).returncode in (0, 127)
    azure.run(["podman", "logs", "redis"])
    s.check_runs_on("azure")
    # A restart by the engine is a fresh start of the same container.
    azure.run(["podman", "restart", "-t", "2", "redis"], timeout=60)
    s.redis.wait_answer(azure)
    assert s.redis.mark(azure) == "kept"
    azure.run(["podman", "stop", "-t", "2", "redis"], timeout=60)
    azure.run(["podman", "rm", "redis"], timeout=60)


@pytest.mark.parametrize("step", ["create", "fill", "data_digest"])
def test_a_scene_that_cannot_be_made_leaves_nothing(moving_lab, monkeypatch, step):
    """Of the tests' own tools: what one test leaves is another one's failure."""
    made = getattr(PodmanRedis, step)

    def fails_afterwards(*arguments):
        made(*arguments)
        raise LabError("on purpose")

    monkeypatch.setattr(PodmanRedis, step, fails_afterwards)
    with pytest.raises(LabError, match="on purpose"):
        Scene(moving_lab, mib=1, address="10.88.0.31", name="unmade")
    assert moving_lab.host("aws").run(["podman", "ps", "-a", "--format", "{{.Names}}"]).stdout.split() == []
    assert "10.88.0.31" not in moving_lab.routes()
    assert moving_lab.host("client").run(["pgrep", "-f", "redis_load.py"], check=False).stdout == ""


def test_keep_source_leaves_it_stopped(scene):
    s = scene(clients=0)
    aws = s.lab.host("aws")
    outcome = move(aws, "redis", "azure", "--keep-source")
    assert outcome.code == DONE and outcome.summary["source_kept"]
    assert s.redis.copies(aws) == 0 and s.redis.copies(s.lab.host("azure")) == 1
    assert s.redis.inspect(aws)["State"]["Status"] == "exited"
    assert s.redis.inspect(aws)["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")


def test_gap_is_the_transfer_and_a_bit(scene):
    """The demo measures 256 MiB at 1 Gbit/s; this one is small and slow, so that noise counts less."""
    s = scene(mib=64, clients=2)
    for host in ("aws", "azure"):
        s.lab.shape(host, rate="500mbit")
    try:
        begin = time.monotonic()
        outcome = move(s.lab.host("aws"), "redis", "azure")
        assert outcome.code == DONE
        time.sleep(0.5)
        report = s.load.stop()
        gap = longest_silence_ms(report, begin, time.monotonic())
        transfer = outcome.summary["bytes_memory"] * 8000 / (500e6 * PAYLOAD_SHARE)
        print(f"gap {gap:.0f} ms, images at link rate {transfer:.0f} ms, parts {json.dumps(outcome.summary['gap_parts_ms'])}")
        assert gap <= transfer + 350
    finally:
        for host in ("aws", "azure"):
            s.lab.clear_shape(host)


def test_criu_has_its_shortcuts(scene):
    """Without them a container stands still for longer, and nothing else tells."""
    s = scene(mib=16, clients=1)
    aws, azure = s.lab.host("aws"), s.lab.host("azure")
    says = json.loads(aws.run(["transship", "node", "info", "--json"]).stdout)["dump_shortcuts"]
    release = os.uname().release.split(".")
    if Path("/sys/kernel/btf/vmlinux").exists() and (int(release[0]), int(release[1].split("-")[0])) >= (6, 11):
        assert says == "mappings, scans"
    outcome = move(aws, "redis", "azure")
    assert outcome.code == DONE
    assert all(name in says for name in outcome.summary["dump_shortcuts"])
    if says == "mappings, scans":
        assert outcome.summary["dump_shortcuts"] == ["mappings", "scans"]
    # Taken away, it is said, and moves go on.
    library = "/usr/lib/transship/libtransship-criu.so"
    azure.run(["mv", library, library + ".away"])
    try:
        restart_daemon(azure)
        info = json.loads(azure.run(["transship", "node", "info", "--json"]).stdout)
        assert info["dump_shortcuts"] == "none: libtransship-criu.so is not installed"
        outcome = move(azure, "redis", "aws")
        assert outcome.code == DONE and outcome.summary["dump_shortcuts"] == []
    finally:
        azure.run(["mv", library + ".away", library])
        restart_daemon(azure)


def test_the_image_comes_from_the_source_when_no_registry_has_it(moving_lab):
    """An image that was committed on the source: its upper layer exists nowhere else."""
    aws, openstack = moving_lab.host("aws"), moving_lab.host("openstack")
    image = "localhost/own-redis:1"
    aws.run(["podman", "create", "--name", "to-commit", PodmanRedis(moving_lab).image], timeout=60)
    aws.put("/tmp/own", "only in this image\n")
    aws.run(["podman", "cp", "/tmp/own", "to-commit:/own"])
    aws.run(["podman", "commit", "-q", "to-commit", image], timeout=60)
    aws.run(["podman", "rm", "to-commit"])
    s = Scene(moving_lab, redis=PodmanRedis(moving_lab, name="own", address="10.88.0.31", image=image), clients=1)
    try:
        outcome = move(aws, "own", "openstack")
        assert outcome.code == DONE, outcome.lines[-1]
        assert outcome.summary["bytes_image"] > 0
        assert openstack.run(["podman", "exec", "own", "cat", "/own"]).stdout == "only in this image\n"
        s.check_runs_on("openstack")
    finally:
        s.close()
        for host in (aws, openstack):
            host.run(["podman", "rmi", "-f", image], check=False)
