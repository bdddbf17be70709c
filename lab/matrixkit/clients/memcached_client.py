"""memcached_client.py ADDRESS PORT: counters that only this program raises, values with their digest in them, and check-and-set,
each on a connection of its own. At the end every value that was stored is there (nothing had to be thrown out)."""

import hashlib
import random
import sys
import time

from steady import Watch, connect, read_line, run

watch = Watch()
KEYS = 500


class Connection:
    def __init__(self):
        self.socket = connect(sys.argv[1], int(sys.argv[2]))
        self.reader = self.socket.makefile("rb")

    def ask(self, data):
        since = time.monotonic()
        self.socket.sendall(data)
        line = read_line(self.reader)
        watch.silence(since)
        return line

    def get(self, key, word="get"):
        """(value, the number that cas takes)"""
        line = self.ask(f"{word} {key}\r\n".encode())
        if line == b"END":
            return None, b""
        fields = line.split()
        value = self.reader.read(int(fields[3]) + 2)[:-2]
        if read_line(self.reader) != b"END":
            raise ConnectionError("the answer does not end")
        return value, fields[-1]

    def store(self, words, value):
        return self.ask(words.encode() + b" %d\r\n" % len(value) + value + b"\r\n")


def value_of(key, version):
    body = random.Random(f"{key} {version}").randbytes(4096)
    return hashlib.sha256(body).digest() + body


def counters():
    c, count = Connection(), 0
    c.store("set counter 0 0", b"0")
    while not watch.stopping.is_set():
        count += 1
        watch.expect("counter values", c.ask(b"incr counter 1\r\n"), b"%d" % count)
        watch.sleep(0.002)


def values():
    c, kept, number = Connection(), {}, 0
    while not watch.stopping.is_set():
        number += 1
        key = f"value:{number % KEYS}"
        watch.expect("stores", c.store(f"set {key} 0 0", value_of(key, number)), b"STORED")
        kept[key] = number
        old = random.choice(list(kept))
        watch.expect("values", c.get(old)[0], value_of(old, kept[old]))
        watch.sleep(0.005)
    for key, version in kept.items():
        watch.expect("values at the end", c.get(key)[0], value_of(key, version))


def check_and_set():
    c, count = Connection(), 0
    c.store("set cas 0 0", b"0")
    while not watch.stopping.is_set():
        value, unique = c.get("cas", "gets")
        watch.expect("values of check-and-set", value, b"%d" % count)
        count += 1
        watch.expect("check-and-sets", c.ask(b"cas cas 0 0 %d %s\r\n%d\r\n" % (len(str(count)), unique, count)), b"STORED")
        watch.sleep(0.005)


run(watch, counters, values, check_and_set, steady=("counter values", "values", "check-and-sets"))
