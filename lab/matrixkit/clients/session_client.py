"""session_client.py ADDRESS PORT: talks to the servers of servers/ that all speak the same: the first line is a token; "add N" is
answered by "sum TOTAL TOKEN" of this connection, "memory" by "memory CRC" of what the server filled its memory with when it
began; "tick K" comes by itself every 20 ms, and no K may be missing, or come twice.
"""

import random
import sys
import time

from steady import Watch, connect, read_line, run

watch = Watch()
address, port = sys.argv[1], int(sys.argv[2])
LOOK_AT_MEMORY = 200  # answers


class Session:
    def __init__(self, number):
        self.random = random.Random(number)

    def __call__(self):
        self.socket = connect(address, port)
        self.reader = self.socket.makefile("rb")
        self.token = read_line(self.reader)
        self.ticks, self.total, self.heard = 0, 0, time.monotonic()
        memory = self.ask("memory")
        number = 0
        while not watch.stopping.is_set():
            number += 1
            value = self.random.randrange(1_000_000)
            self.total += value
            watch.expect("answers", self.ask(f"add {value}"), f"sum {self.total} {self.token.decode()}".encode())
            if number % LOOK_AT_MEMORY == 0:
                self.look(memory)
            watch.sleep(0.002)
        self.look(memory)
        if not self.ticks:
            watch.fault("no tick has come")

    def look(self, memory):
        watch.expect("looks at memory", self.ask("memory"), memory)

    def ask(self, words):
        self.socket.sendall(words.encode() + b"\n")
        since = time.monotonic()
        while (line := read_line(self.reader)).startswith(b"tick "):
            since = watch.silence(since)
            self.ticks += 1
            watch.expect("ticks", int(line[5:]), self.ticks)
        watch.silence(since)
        return line


run(watch, *(Session(number) for number in range(4)), steady=("answers", "ticks"))
