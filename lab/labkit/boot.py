"""Turns itself into a lab host: `boot.py SPEC READY_FD`.

A program of its own (not imported), because unsharing namespaces cannot be undone in the process that does it. It joins
the host's cgroup, makes the namespaces, forks what becomes PID 1 inside, prints that one's pid on stdout and ends. The
child builds the root and executes the init, which writes "ready" to READY_FD; an error is written there instead.
"""

import ctypes
import json
import os
import signal
import sys

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NAMESPACES = os.CLONE_NEWCGROUP | os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWNET | os.CLONE_NEWUTS | os.CLONE_NEWIPC
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
OPTIONAL_DEVICES = ("net/tun", "fuse", "userfaultfd")

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source, target, kind="", flags=0, data=""):
    raw = [x.encode() or None for x in (source, target, kind)]
    check(libc.mount(*raw, ctypes.c_ulong(flags), data.encode() or None), f"mount {kind or 'bind'} {source} on {target}")


def bind(source, target, read_only=False):
    mount(source, target, flags=MS_BIND)
    if read_only:
        mount(source, target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def build_root(spec):
    root = spec["root"]
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("overlay", root, "overlay", data=f"lowerdir={spec['lower']},upperdir={spec['upper']},workdir={spec['work']}")
    for source, target, read_only in spec["binds"]:
        os.makedirs(root + target, exist_ok=True)
        bind(source, root + target, read_only)
    os.makedirs(root + "/old", exist_ok=True)
    leave_chroot(root)
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"old"), f"pivot_root to {root}")
    os.chdir("/")


def leave_chroot(root):
    """Goes to `root` as seen from the true top of this mount namespace.

    If we were started in a chroot, pivot_root would swap only the chroot's mount, and whoever enters the namespace later
    would find the machine's root. Entering our own mount namespace puts us at its top.
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    os.setns(own, os.CLONE_NEWNS)
    os.fchdir(directory)
    os.close(own)
    os.close(directory)


def mount_kernel_file_systems():
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", "/proc", "proc", safe)
    mount("sysfs", "/sys", "sysfs", safe)
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,size=1m")
    for name in DEVICES + OPTIONAL_DEVICES:
        if name in OPTIONAL_DEVICES and not os.path.exists(f"/old/dev/{name}"):
            continue
        os.makedirs(os.path.dirname(f"/dev/{name}"), exist_ok=True)
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_CLOEXEC))
        bind(f"/old/dev/{name}", f"/dev/{name}")
    os.mkdir("/dev/pts")
    os.mkdir("/dev/shm")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for link, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        os.symlink(target, f"/dev/{link}")


def become_init(spec, ready):
    try:
        check(libc.sethostname(spec["name"].encode(), len(spec["name"])), "sethostname")
        build_root(spec)
        mount_kernel_file_systems()
        check(libc.umount2(b"/old", MNT_DETACH), "umount /old")
        os.rmdir("/old")
        os.makedirs("/run/transship-lab", mode=0o700)
        os.umask(0o022)
        log = os.open("/var/log/transship-lab-init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.set_inheritable(ready, True)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        os.closerange(3, ready)
        os.closerange(ready + 1, 1024)
        os.execve("/usr/bin/python3", ["transship-lab-init", "-I", "-S", "/usr/lib/transship-lab/init.py", str(ready)], environment)
    except OSError as e:
        os.write(ready, f"error {e.strerror or e}\n".encode())
    finally:
        os._exit(1)


def main():
    with open(sys.argv[1]) as f:
        spec = json.load(f)
    ready = int(sys.argv[2])
    try:
        # First the host's cgroup, so that it becomes the root of the cgroup namespace; then its leaf.
        join(spec["cgroup"])
        os.unshare(NAMESPACES)
        join(spec["cgroup"] + "/" + spec["leaf"])
    except OSError as e:
        os.write(ready, f"error making the namespaces: {e}\n".encode())
        sys.exit(1)
    pid = os.fork()
    if pid == 0:
        become_init(spec, ready)
    print(pid, flush=True)


def join(cgroup):
    with open(cgroup + "/cgroup.procs", "w") as f:
        f.write("0")


if __name__ == "__main__":
    main()
