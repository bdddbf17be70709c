"""Running a command in the root: its exit code, its signals, its throw-away changes; nothing stays behind."""

import os
import pathlib
import signal
import time


def mounts_of_cache(dev):
    return [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(dev.cache) in line]


def test_exit_code_and_output_pass_through(ready_dev):
    process = ready_dev.run("shell", "echo out; echo err >&2; exit 37")
    assert (process.returncode, process.stdout_text, process.stderr_text) == (37, "out\n", "err\n")
    assert mounts_of_cache(ready_dev) == []


def test_what_a_command_sees(ready_dev):
    script = """
        pwd; cmp -s dev /src/dev && echo checkout; test -w /src && echo writable
        mountpoint -q /proc && mountpoint -q /sys && test -c /dev/null && echo kernel
        ls -A /tmp | wc -l; cat /var/lib/transship-lab/state; echo "$CCACHE_DIR"
        touch /var/lib/transship-root/x 2>/dev/null || echo pristine
    """
    assert ready_dev.run("shell", "true").returncode == 0
    (ready_dev.cache / "lab/state").write_text("shared\n")
    process = ready_dev.run("shell", script)
    expected = ["/src", "checkout", "writable", "kernel", "0", "shared", "/var/cache/ccache", "pristine"]
    assert process.stdout_text.split() == expected, process.stderr_text


def test_changes_vanish_and_reach_neither_root_nor_machine(ready_dev):
    process = ready_dev.run("shell", "touch /etc/changed /tmp/changed && rm /usr/bin/jq && mount -t tmpfs none /mnt")
    assert process.returncode == 0, process.stderr_text
    process = ready_dev.run("shell", "ls /etc/changed /tmp/changed; test -x /usr/bin/jq && ! mountpoint -q /mnt")
    assert process.returncode == 0
    assert process.stdout_text == ""
    assert not os.path.exists("/var/lib/transship-root/etc/changed")


def test_lab_state_is_shared_by_commands(ready_dev):
    assert ready_dev.run("shell", "echo kept >/var/lib/transship-lab/note").returncode == 0
    assert ready_dev.run("shell", "cat /var/lib/transship-lab/note").stdout_text == "kept\n"


def test_a_signal_ends_the_command_and_its_mounts(ready_dev):
    process = ready_dev.start("shell", "echo ready; exec sleep 1000")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert mounts_of_cache(ready_dev) == []
    assert list((ready_dev.cache / "mnt").iterdir()) == []


def test_nothing_to_do_takes_under_five_seconds(ready_dev):
    ready_dev.run("setup")
    start = time.monotonic()
    assert ready_dev.run("setup").returncode == 0
    assert ready_dev.run("shell", "true").returncode == 0
    assert time.monotonic() - start < 5


def test_clean_all_refuses_while_a_command_runs(copied_dev):
    running = copied_dev.start("shell", "echo ready; exec sleep 1000")
    try:
        assert running.stdout.readline() == "ready\n"
        process = copied_dev.run("clean", "--all")
        assert process.returncode == 4
        assert f"process {running.pid} (sleep)" in process.stderr_text
        assert (copied_dev.cache / "lab").is_dir()
        assert (copied_dev.checkout / "build/release").is_dir()
    finally:
        running.kill()
        running.communicate()


def test_clean_all_sees_a_process_that_has_a_root_of_its_own(copied_dev):
    """As lab hosts do: their mount tables name neither the cached root nor any path that ./dev knows."""
    script = """
        mkdir -p /var/lib/transship-lab/x /tmp/own && mount -t tmpfs none /tmp/own && mkdir /tmp/own/data
        mount --bind /var/lib/transship-lab/x /tmp/own/data
        ldd /usr/bin/sleep | grep -o '/[^ ]*' | xargs cp --parents -L -t /tmp/own /usr/bin/sleep
        exec chroot /tmp/own /usr/bin/sleep 1000
    """
    running = copied_dev.start("shell", script)
    try:
        comm = pathlib.Path(f"/proc/{running.pid}/comm")
        deadline = time.monotonic() + 10
        while comm.read_text().strip() != "sleep":
            assert time.monotonic() < deadline and running.poll() is None, "did not start"
            time.sleep(0.02)
        process = copied_dev.run("clean", "--all")
        assert process.returncode == 4
        assert f"process {running.pid} (sleep)" in process.stderr_text
    finally:
        running.kill()
        running.communicate()


def test_clean_all_removes_what_dev_made_and_nothing_else(copied_dev):
    copied_dev.run("setup")
    (copied_dev.cache / "root-000000000000").mkdir()
    (copied_dev.cache / "mine.txt").write_text("not made by ./dev\n")
    process = copied_dev.run("clean", "--all")
    assert process.returncode == 0, process.stderr_text
    assert [path.name for path in copied_dev.cache.iterdir()] == ["mine.txt"]
    assert not (copied_dev.checkout / "build").exists()
    assert os.path.exists("/var/lib/transship-root/usr/bin")


def test_clean_alone_keeps_the_caches(copied_dev):
    copied_dev.run("setup")
    assert copied_dev.run("clean").returncode == 0
    assert not (copied_dev.checkout / "build").exists()
    assert (copied_dev.cache / "ccache").is_dir()
