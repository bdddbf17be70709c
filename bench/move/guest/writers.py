"""Fills a Redis, writes to it at a steady rate, and checks every byte afterwards. Runs on the lab's client host.

A fifth of the keys is written to; each of these belongs to one connection, so the last acknowledged write of a key is
known. A write that was sent on a connection that broke may have happened or not: both are right then.
"""

import random
import sys
import threading
import time
from array import array

from connection import Connection, Lost
from control import serve
from values import KEYS_PER_MIB, VALUE_BYTES, Values, get_request, set_request

BATCH = 256            # requests on their way at once while filling and checking
TICK = 0.010           # s between two batches of a writer
HOT_SHARE = 5          # one in so many keys is written to
ANSWER_TIMEOUT = 120.0
OK = b"+OK\r\n"


class Store:
    """What must be in Redis."""

    def __init__(self, address, kind, mib):
        self.address, self.values = address, Values(kind)
        self.versions = array("L", [0]) * (mib * KEYS_PER_MIB)
        self.uncertain: dict[int, list[int]] = {}

    def fill(self) -> None:
        connection = Connection(self.address)
        for first in range(0, len(self.versions), BATCH):
            keys = range(first, min(first + BATCH, len(self.versions)))
            connection.send(b"".join(set_request(k, self.values.value(k, 0)) for k in keys))
            answers = connection.take(len(OK) * len(keys), time.monotonic() + ANSWER_TIMEOUT)
            if answers != OK * len(keys):
                raise ValueError(f"SET was answered by {answers[:200]!r}")
        self.settle(connection)
        connection.close()

    @staticmethod
    def settle(connection) -> None:
        """Redis moves its keys into a table that has grown over the half minute after the fill, and writes all over its
        memory meanwhile, whoever else does: here at once."""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        connection.command(deadline, "CONFIG", "SET", "hz", "500")
        while b"rehashing" in connection.command(deadline, "DEBUG", "HTSTATS", "0"):
            time.sleep(0.2)
        connection.command(deadline, "CONFIG", "SET", "hz", "10")

    def check(self) -> dict:
        connection = Connection(self.address)
        wrong_bytes, wrong_keys = 0, 0
        for first in range(0, len(self.versions), BATCH):
            keys = range(first, min(first + BATCH, len(self.versions)))
            connection.send(b"".join(map(get_request, keys)))
            for key in keys:
                wrong = self.difference(key, connection.bulk(time.monotonic() + ANSWER_TIMEOUT))
                wrong_bytes, wrong_keys = wrong_bytes + wrong, wrong_keys + bool(wrong)
        connection.close()
        return {"wrong_bytes": wrong_bytes, "wrong_keys": wrong_keys, "keys": len(self.versions)}

    def difference(self, key, found) -> int:
        """Bytes of a value that are not as they must be."""
        right = [self.versions[key], *self.uncertain.get(key, ())]
        if any(found == self.values.value(key, version) for version in right):
            return 0
        expected = self.values.value(key, right[0])
        found = found or b""
        return sum(a != b for a, b in zip(expected, found)) + abs(len(expected) - len(found))


class Writer(threading.Thread):
    """One connection that writes `rate` values a second to every `step`th of the hot keys, beginning with `number`."""

    def __init__(self, store, number, step, rate, stop):
        super().__init__(name=f"writer-{number}", daemon=True)
        self.store, self.rate, self.stop = store, rate, stop
        self.keys = range(number * HOT_SHARE, len(store.versions), step * HOT_SHARE)
        self.random = random.Random(number)
        self.connection = Connection(store.address)
        self.bins: dict[int, int] = {}
        self.lost, self.errors = 0, []

    def run(self):
        due, debt = time.monotonic(), 0.0
        while not self.stop.is_set():
            debt += self.rate * TICK
            batch, debt = int(debt), debt % 1
            try:
                self.write(batch)
            except Lost as e:
                self.lost += 1
                self.errors.append(f"{self.name}: {e}")
                if not self.reconnect():
                    return
            except ValueError as e:
                self.errors.append(f"{self.name}: {e}")
                return
            # What could not be written in time is not made up for: that would be another load than before.
            due = max(due + TICK, time.monotonic())
            self.stop.wait(due - time.monotonic())

    def write(self, count):
        pairs = [(k, self.store.versions[k] + 1 + len(self.store.uncertain.get(k, ())))
                 for k in dict.fromkeys(self.random.choices(self.keys, k=count))]
        answered = 0
        try:
            self.connection.send(b"".join(set_request(k, self.store.values.value(k, v)) for k, v in pairs))
            for answered in range(len(pairs)):
                self.acknowledged(pairs[answered], self.connection.take(len(OK), time.monotonic() + ANSWER_TIMEOUT))
            answered = len(pairs)
        finally:
            for key, version in pairs[answered:]:
                self.store.uncertain.setdefault(key, []).append(version)
        now = int(time.monotonic() * 10)
        self.bins[now] = self.bins.get(now, 0) + len(pairs)

    def acknowledged(self, pair, answer):
        if answer != OK:
            raise ValueError(f"SET was answered by {answer!r}")
        key, version = pair
        self.store.versions[key] = version
        self.store.uncertain.pop(key, None)

    def reconnect(self) -> bool:
        end = time.monotonic() + ANSWER_TIMEOUT
        self.connection.close()
        while not self.stop.is_set() and time.monotonic() < end:
            try:
                self.connection = Connection(self.store.address, timeout=1.0)
                return True
            except Lost:
                self.stop.wait(0.02)
        return False


class Program:
    def __init__(self, address):
        self.address, self.store = address, None
        self.writers, self.stop = [], threading.Event()

    def fill(self, order):
        self.store = Store(self.address, order["values"], order["mib"])
        self.store.fill()
        return {"keys": len(self.store.versions), "bytes": len(self.store.versions) * VALUE_BYTES}

    def start(self, order):
        count = order["connections"] if order["rate"] else 0
        self.writers = [Writer(self.store, n, count, order["rate"] / count, self.stop) for n in range(count)]
        for writer in self.writers:
            writer.start()

    def end(self, _order):
        self.stop.set()
        for writer in self.writers:
            writer.join(ANSWER_TIMEOUT + 5)
        bins: dict[int, int] = {}
        for writer in self.writers:
            for at, count in writer.bins.items():
                bins[at] = bins.get(at, 0) + count
        return {
            "written": sorted((at / 10, count) for at, count in bins.items()), "lost": sum(w.lost for w in self.writers),
            "connections": len(self.writers), "errors": [e for w in self.writers for e in w.errors],
            "unfinished": [w.name for w in self.writers if w.is_alive()],
        }

    def check(self, _order):
        return self.store.check()


if __name__ == "__main__":
    # Threads hand over quickly, so that one with a lot to do does not hold the others up.
    sys.setswitchinterval(0.0005)
    program = Program((sys.argv[1], 6379))
    serve({"fill": program.fill, "start": program.start, "end": program.end, "check": program.check})
