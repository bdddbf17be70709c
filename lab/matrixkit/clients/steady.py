"""What the clients of the matrix have in common. Each is a program on the lab's client host that keeps its connections for its
whole life and says on standard output "ready", once all of them are in use, and then answers lines on standard input:

  progress   {"checked": {WHAT: TIMES}, "wrong": N}, of what has to go on all the time
  stop       its report, and it ends:
             {"checked": {WHAT: TIMES}, "wrong": [TEXT], "silences": [[OVER AT, SECONDS]]}

Silences of more than 20 ms are recorded with the time at which they ended (CLOCK_MONOTONIC, which all lab hosts share).
"""

import json
import socket
import sys
import threading
import time

SILENCE = 0.020
BEGINS_WITHIN = 60.0
PATIENCE = 120.0  # s without a byte: then something is wrong


class Watch:
    """Of one program: what it has seen. Thread-safe."""

    def __init__(self):
        self.lock = threading.Lock()
        self.checked, self.wrong, self.silences = {}, [], []
        self.stopping = threading.Event()

    def right(self, what, times=1):
        with self.lock:
            self.checked[what] = self.checked.get(what, 0) + times

    def fault(self, text):
        with self.lock:
            if len(self.wrong) < 20:
                self.wrong.append(str(text)[:300])

    def expect(self, what, have, want):
        """Counts it as right, or says what is wrong."""
        if have == want:
            self.right(what)
        else:
            self.fault(f"{what}: {have!r} instead of {want!r}")

    def silence(self, since):
        """Something has come, after nothing since then; returns the time of now."""
        now = time.monotonic()
        if now - since > SILENCE:
            with self.lock:
                self.silences.append((now, now - since))
        return now

    def sleep(self, seconds):
        self.stopping.wait(seconds)

    def progress(self, of):
        with self.lock:
            return {"checked": {what: self.checked.get(what, 0) for what in of}, "wrong": len(self.wrong)}

    def report(self):
        with self.lock:
            return {"checked": self.checked, "wrong": self.wrong, "silences": self.silences}


def connect(address, port, timeout=PATIENCE):
    s = socket.create_connection((address, port), 10)
    s.settimeout(timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_line(reader):
    line = reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError(f"the connection ended (after {line[-80:]!r})")
    return line.rstrip(b"\r\n")


def run(watch, *loops, steady, at_end=None):
    """Each of `loops` in a thread of its own: called with nothing, begins, and goes on until watch.stopping. "ready" is said when
    all of `steady` have been right once, or something is wrong; they are what has to go on after each move. `at_end`: what is
    checked when all have ended."""
    threads = [threading.Thread(target=guarded, args=(watch, loop), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    while not set(steady) <= set(watch.checked) and not watch.wrong:
        if time.monotonic() - begun > BEGINS_WITHIN:
            watch.fault(f"has begun with {list(watch.checked)} of {steady} in {BEGINS_WITHIN:g} s")
        time.sleep(0.01)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "progress":
            print(json.dumps(watch.progress(steady)), flush=True)
        elif line.strip() == "stop":
            break
    watch.stopping.set()
    for thread in threads:
        thread.join(PATIENCE)
        if thread.is_alive():
            watch.fault("never got an answer")
    if at_end and not watch.wrong:
        guarded(watch, at_end)
    print(json.dumps(watch.report()), flush=True)


def guarded(watch, loop):
    """Whatever ends it ends it: a connection is never opened again."""
    try:
        loop()
    except Exception as e:  # noqa: BLE001  (all of it goes into the report)
        watch.fault(f"{type(e).__name__}: {e}")
