"""ssh_client.py ADDRESS KEY: a login with a terminal and one without, each with a shell that stays the same process and keeps its
variables; a child of it goes on as well. What is echoed has to come back as it is, every line of it."""

import random
import subprocess
import sys
import time

from steady import PATIENCE, Watch, run

watch = Watch()
SSH = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10",
       "-i", sys.argv[2], f"root@{sys.argv[1]}"]


def answer(shell, begins):
    """The next line that begins so: a terminal also has a prompt and what was typed."""
    while True:
        line = shell.stdout.readline()
        if not line:
            raise ConnectionError(f"ssh ended: {shell.stderr.read()[-500:]!r}")
        if line.startswith(begins):
            return line.decode().split()[1:]


def session(terminal):
    shell = subprocess.Popen([*SSH[:1], "-tt" if terminal else "-T", *SSH[1:], "exec bash --noprofile --norc"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    out = shell.stdout
    shell.stdout = open(out.fileno(), "rb", closefd=False)
    secret = str(random.randrange(10**9))
    setup = "PS1=; stty -echo; " if terminal else ""
    shell.stdin.write(f"{setup}kept={secret}; n=0; sleep 100000 & child=$!\necho begins: $$ $(tty) $child\n".encode())
    pid, *_, child = answer(shell, b"begins: ")
    number = 0
    while not watch.stopping.is_set():
        number += 1
        since = time.monotonic()
        shell.stdin.write(b"n=$((n+1)); echo 'is:' $n $kept $$ $child $(jobs -r | wc -l)\n")
        watch.expect("lines by a terminal" if terminal else "lines", answer(shell, b"is: "), [str(number), secret, pid, child, "1"])
        watch.silence(since)
        watch.sleep(0.01)
    shell.stdin.write(b"kill $child; exit 7\n")
    watch.expect("ends as it was told", shell.wait(PATIENCE), 7)


run(watch, lambda: session(True), lambda: session(False), steady=("lines", "lines by a terminal"))
