"""Dumps that leave memory out, and restores that get it back: from the images, and from a pager."""

import gate_kit as kit
import pytest
from gate_kit import ADDRESS, IMAGES, NAME, Drill, wait_for


@pytest.fixture(scope="module")
def hosts(lab):
    lab.image("redis")
    kit.install(lab)
    yield lab.host("aws"), lab.host("azure")
    for name in ("aws", "azure"):
        lab.host(name).run("nft delete table ip gate_test; rm -rf /run/gate-test /usr/bin/gate_drill", check=False)


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
    Drill.kill_all()
    for host in hosts:
        host.run(["podman", "rm", "-f", "-t0", "--ignore", NAME], timeout=60)
        assert kit.leftovers(host) == []


def image_sizes(host) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in host.path(IMAGES).iterdir()}


@pytest.mark.parametrize("method", ["parent", "lazy-pages", "full"])
def test_rollback_leaves_no_trace(lab, redis, method):
    aws, _ = redis
    digest = cli(lab, "debug", "digest")
    client = kit.Client(lab)
    kdat = aws.run("md5sum /run/criu.kdat; ls /run", check=False).stdout
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
    if kdat.startswith("md5") or "criu.kdat" in kdat:
        assert aws.run("md5sum /run/criu.kdat; ls /run", check=False).stdout == kdat
    pid = kit.container_pid(aws)
    assert aws.run(["nsenter", "-t", str(pid), "-n", "nft", "list", "tables"]).stdout == ""
    assert sorted(image.name for image in aws.path(kit.WORK).iterdir() if image.is_dir()) == []
