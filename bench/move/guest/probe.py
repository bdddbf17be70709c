"""Asks Redis for a random value every 2 ms on one connection and records the silences. Runs on the lab's client host.

A silence is the time between two answers. When one has lasted for half a second, new connections are tried beside the
old one: the first answer on any of them is when the service could be reached again. The old connection is given up only
when it is reset or ended; then a new one takes its place and that silence is marked `reconnected`.
"""

import random
import sys
import threading
import time

from connection import Connection, Lost
from control import serve
from values import VALUE_BYTES, get_request, key_name

PAUSE = 0.002
WORTH_RECORDING = 0.005
PATIENCE = 0.5           # s of silence before new connections are tried
ANSWER_TIMEOUT = 120.0


class Fresh(threading.Thread):
    """Tries new connections until one answers or it is told to stop."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.stop = address, threading.Event()
        self.connection, self.answered_at = None, None

    def run(self):
        while not self.stop.is_set():
            try:
                self.connection = Connection(self.address, timeout=0.25)
                self.connection.send(b"PING\r\n", 0.25)
                self.connection.line(time.monotonic() + 0.25)
                self.answered_at = time.monotonic()
                return
            except Lost:
                if self.connection:
                    self.connection.close()
                self.stop.wait(0.02)


class Probe(threading.Thread):
    def __init__(self, address, keys):
        super().__init__(daemon=True)
        self.address, self.keys, self.stop = address, keys, threading.Event()
        self.connection = Connection(address)
        self.random, self.fresh = random.Random(1), None
        self.silences, self.bins, self.errors = [], {}, []
        self.lost = self.wrong = 0
        self.last_answer = time.monotonic()

    def run(self):
        self.last_answer = time.monotonic()
        while not self.stop.is_set():
            try:
                self.ask()
            except Lost as e:
                self.lost += 1
                self.errors.append(f"probe: {e}")
                if not self.reconnect():
                    return
            except ValueError as e:
                self.errors.append(f"probe: {e}")
                return
            time.sleep(PAUSE)

    def ask(self):
        key = self.random.randrange(self.keys)
        self.connection.send(get_request(key))
        end = time.monotonic() + ANSWER_TIMEOUT
        while not self.connection.wait(0.1):
            if time.monotonic() > end:
                raise Lost(f"no answer in {ANSWER_TIMEOUT:g} s")
            if time.monotonic() - self.last_answer > PATIENCE:
                self.try_fresh()
        value = self.connection.bulk(end)
        if value is None or len(value) != VALUE_BYTES or not value.startswith(key_name(key)[2:] + b":"):
            self.wrong += 1
        self.answered(time.monotonic(), reconnected=False)

    def try_fresh(self):
        if self.fresh is None:
            self.fresh = Fresh(self.address)
            self.fresh.start()

    def reconnect(self) -> bool:
        self.connection.close()
        self.try_fresh()
        self.fresh.join(ANSWER_TIMEOUT)
        if self.fresh.answered_at is None:
            self.errors.append(f"probe: nothing answered a new connection for {ANSWER_TIMEOUT:g} s")
            return False
        self.connection = self.fresh.connection
        self.answered(self.fresh.answered_at, reconnected=True)
        return True

    def answered(self, now, reconnected):
        length = now - self.last_answer
        reachable = length
        if self.fresh:
            if self.fresh.answered_at:
                reachable = min(reachable, self.fresh.answered_at - self.last_answer)
            self.fresh.stop.set()
            if not reconnected:
                self.fresh.join(2)
                if self.fresh.connection:
                    self.fresh.connection.close()
            self.fresh = None
        if reconnected or length > WORTH_RECORDING:
            self.silences.append((now, length, reachable, reconnected))
        self.bins[int(now * 10)] = self.bins.get(int(now * 10), 0) + 1
        self.last_answer = now


class Program:
    def __init__(self, address):
        self.address, self.probe = address, None

    def start(self, order):
        self.probe = Probe(self.address, order["keys"])
        self.probe.start()

    def last(self, _order):
        return {"last_answer": self.probe.last_answer, "alive": self.probe.is_alive()}

    def end(self, _order):
        self.probe.stop.set()
        self.probe.join(ANSWER_TIMEOUT + 5)
        p = self.probe
        return {"silences": p.silences, "answers": sorted((at / 10, n) for at, n in p.bins.items()), "lost": p.lost,
                "wrong": p.wrong, "errors": p.errors, "connections": 1, "unfinished": ["probe"] if p.is_alive() else []}


if __name__ == "__main__":
    program = Program((sys.argv[1], 6379))
    serve({"start": program.start, "last": program.last, "end": program.end})
