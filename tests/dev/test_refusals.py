"""./dev says in one sentence why it cannot work on a machine, before it changes anything there."""

import re
import shutil

import pytest

REFUSED = 4


def assert_refused(dev, process, *words):
    assert process.returncode == REFUSED, process.stderr_text
    assert process.stdout_text == ""
    assert re.fullmatch(r"dev: [^\n]+\n", process.stderr_text), "one line, and nothing else"
    for word in words:
        assert word in process.stderr_text
    assert not dev.cache.exists()


def test_not_root(dev):
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for verb in ("setup", "build", "test", "lab", "clean"):
        assert_refused(dev, dev.run(verb, before=nobody), "needs root", "uid 65534", "sudo")


@pytest.mark.parametrize(
    "os_release, name",
    [
        ('ID=fedora\nVERSION_ID=42\nPRETTY_NAME="Fedora Linux 42"\n', "Fedora Linux 42"),
        ('ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n', "Ubuntu 22.04.5 LTS"),
        ("ID=arch\n", "arch"),
    ],
)
def test_unsupported_system(dev, tmp_path, os_release, name):
    (tmp_path / "os-release").write_text(os_release)
    process = dev.run("setup", TRANSSHIP_OS_RELEASE=str(tmp_path / "os-release"))
    assert_refused(dev, process, name, "Debian 12, Debian 13 or Ubuntu 24.04")


def test_too_little_disk(dev):
    process = dev.run("setup", TRANSSHIP_MIN_FREE_GB="1000000")
    assert_refused(dev, process, str(dev.cache.parent), "1000000 GB", "TRANSSHIP_CACHE")


def test_no_network(dev):
    process = dev.run("setup", TRANSSHIP_MIN_FREE_GB="0", TRANSSHIP_MIRROR="http://127.0.0.1:9/debian/")
    assert_refused(dev, process, "http://127.0.0.1:9/debian", "Connection refused", "TRANSSHIP_MIRROR")


def test_capability_missing(dev):
    confined = ["setpriv", "--bounding-set=-checkpoint_restore,-net_admin"]
    process = dev.run("setup", before=confined, TRANSSHIP_MIN_FREE_GB="0")
    assert_refused(dev, process, "CAP_NET_ADMIN CAP_CHECKPOINT_RESTORE", "--privileged")


def test_kernel_feature_missing(dev):
    without_tun = ["unshare", "--mount", "--propagation=private", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"]
    process = dev.run("setup", before=without_tun, TRANSSHIP_MIN_FREE_GB="0")
    assert_refused(dev, process, "/dev/net/tun does not open", "VM")


@pytest.mark.parametrize("path", ["relative/cache", "/tmp/a:b", "/tmp/a,b", "/tmp/a b"])
def test_cache_path_that_overlay_would_misread(dev, path):
    assert_refused(dev, dev.run("setup", TRANSSHIP_CACHE=path), f"TRANSSHIP_CACHE={path} ")


@pytest.mark.parametrize("arguments", [["frobnicate"], ["clean", "--everything"], ["setup", "now"]])
def test_wrong_usage(dev, arguments):
    process = dev.run(*arguments)
    assert process.returncode == 2
    assert "./dev help" in process.stderr_text
    assert not dev.cache.exists()


def test_help_works_for_anyone_anywhere(dev):
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    everything = dev.run("help", before=nobody)
    verbs = re.findall(r"^  (\w+) ", everything.stdout_text, re.MULTILINE)
    assert verbs == ["setup", "build", "test", "model", "demo", "faults", "matrix", "bench", "lab", "shell", "fmt", "lint", "asan", "tsan", "fuzz", "clean"]
    for verb in verbs:
        process = dev.run(verb, "--help", before=nobody)
        assert process.returncode == 0
        assert process.stdout_text.startswith(f"./dev {verb}")


def test_tool_missing(dev, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "readlink", "sha256sum", "cut", "cat", "apt-get", "flock", "unshare", "mount"):
        (tools / tool).symlink_to(shutil.which(tool))
    assert_refused(dev, dev.run("setup", PATH=str(tools)), "perl is missing", "install")
