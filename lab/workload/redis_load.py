"""Clients of a Redis that check every answer. Runs on the lab's client host until it is told to stop (SIGTERM).

Each client is a thread with one TCP connection that it never opens again: a reset, an end or a wrong answer is recorded
and ends it. `counter` clients INCR a key of their own: the answer must be the last one plus one. `value` clients SET a
value and GET it back. Silences of more than 20 ms are recorded with the time they ended (CLOCK_MONOTONIC, which all lab
hosts share). `keeper` clients remember every write that was acknowledged, ask for any of them again now and then and for all
at the end. At the end one JSON object goes to the file named by --out.
"""

import argparse
import json
import os
import random
import signal
import socket
import threading
import time

SILENCE = 0.020


class Client(threading.Thread):
    def __init__(self, kind, number, address, stop, pause, patience):
        super().__init__(name=f"{kind}-{number}", daemon=True)
        self.kind, self.number, self.stop, self.pause = kind, number, stop, pause
        self.requests = self.wrong = self.lost = 0
        self.resets, self.errors, self.silences = 0, [], []
        self.random = random.Random(number)
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.settimeout(patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")
        self.last = int(self.ask("GET", f"counter:{number}") or 0)
        self.kept = {}

    def ask(self, *words):
        data = b"*%d\r\n" % len(words)
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode()
            data += b"$%d\r\n%s\r\n" % (len(raw), raw)
        begin = time.monotonic()
        self.socket.sendall(data)
        answer = self.read()
        end = time.monotonic()
        if end - begin > SILENCE:
            self.silences.append((end, end - begin))
        self.requests += 1
        return answer

    def read(self):
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection ended")
        head, rest = line[:1], line[1:-2]
        if head == b"$":
            size = int(rest)
            return None if size < 0 else self.reader.read(size + 2)[:-2]
        if head == b"-":
            raise ValueError(rest.decode())
        return rest

    def count(self):
        value = int(self.ask("INCR", f"counter:{self.number}"))
        if value != self.last + 1:
            self.lost += 1
            self.errors.append(f"INCR gave {value} after {self.last}")
        self.last = value

    def set_and_get(self):
        key, value = f"value:{self.number}:{self.requests % 997}", self.random.randbytes(200)
        self.ask("SET", key, value)
        if self.ask("GET", key) != value:
            self.wrong += 1
            self.errors.append(f"{key} is not what was set")

    def keep(self):
        key, value = f"kept:{self.number}:{self.random.randrange(400)}", self.random.randbytes(100)
        self.ask("SET", key, value)
        self.kept[key] = value
        if self.requests % 8 == 0:
            self.look(self.random.choice(list(self.kept)))

    def look(self, key):
        found = self.ask("GET", key)
        if found != self.kept[key]:
            self.lost += 1
            self.errors.append(f"{key} is {'gone' if found is None else 'not what was acknowledged last'}")

    def run(self):
        step = {"counter": self.count, "value": self.set_and_get, "keeper": self.keep}[self.kind]
        try:
            while not self.stop.is_set():
                step()
                time.sleep(self.pause)
            for key in self.kept:
                self.look(key)
        except ConnectionResetError as e:
            self.resets += 1
            self.errors.append(f"reset: {e}")
        except (OSError, ValueError) as e:
            self.errors.append(f"{type(e).__name__}: {e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--counters", type=int, default=2)
    parser.add_argument("--values", type=int, default=2)
    parser.add_argument("--keepers", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first client: its keys have it")
    parser.add_argument("--pause", type=float, default=0.001)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--patience", type=float, default=120, help="seconds that an answer may take")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    with open(args.out + ".pid", "w", encoding="utf-8") as out:
        out.write(str(os.getpid()))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    kinds = ["counter"] * args.counters + ["value"] * args.values + ["keeper"] * args.keepers
    clients = [Client(kind, n, (args.host, args.port), stop, args.pause, args.patience) for n, kind in enumerate(kinds, args.first)]
    for client in clients:
        client.start()
    print("ready", flush=True)
    stop.wait(args.seconds)
    stop.set()
    for client in clients:
        client.join(args.patience + 1)
    report = {
        "requests": sum(c.requests for c in clients),
        "lost_writes": sum(c.lost for c in clients),
        "wrong_values": sum(c.wrong for c in clients),
        "tcp_resets": sum(c.resets for c in clients),
        "errors": [f"{c.name}: {e}" for c in clients for e in c.errors],
        "unfinished": [c.name for c in clients if c.is_alive()],
        "counters": {f"counter:{c.number}": c.last for c in clients if c.kind == "counter"},
        "silences": sorted(s for c in clients for s in c.silences),
    }
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(report, out)


main()
