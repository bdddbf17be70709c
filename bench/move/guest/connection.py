"""One TCP connection to Redis that is read with deadlines."""

import select
import socket
import time


class Lost(Exception):
    """The connection was reset or ended, or nothing came in time."""


class Connection:
    def __init__(self, address, timeout=10.0):
        try:
            self.socket = socket.create_connection(address, timeout=timeout)
        except OSError as e:
            raise Lost(f"connect: {e}") from e
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def close(self):
        self.socket.close()

    def send(self, data, timeout=60.0):
        self.socket.settimeout(timeout)
        try:
            self.socket.sendall(data)
        except OSError as e:
            raise Lost(f"send: {e}") from e

    def wait(self, seconds) -> bool:
        """True when something can be read."""
        return bool(self.buffer) or bool(select.select([self.socket], [], [], max(0.0, seconds))[0])

    def receive(self, deadline) -> None:
        """Adds what has come to the buffer."""
        if not select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise Lost("no answer in time")
        try:
            data = self.socket.recv(1 << 20)
        except OSError as e:
            raise Lost(f"receive: {e}") from e
        if not data:
            raise Lost("the other side closed it")
        self.buffer += data

    def take(self, size, deadline) -> bytes:
        while len(self.buffer) < size:
            self.receive(deadline)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def line(self, deadline) -> bytes:
        while (end := self.buffer.find(b"\r\n")) < 0:
            self.receive(deadline)
        line, self.buffer = self.buffer[:end], self.buffer[end + 2:]
        return line

    def command(self, deadline, *words: str) -> bytes:
        """The answer to a command that succeeds with one string. ValueError: it does not."""
        self.send(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        head = self.line(deadline)
        return head[1:] if head[:1] == b"+" else self.bulk(deadline, head) or b""

    def bulk(self, deadline, head=None) -> bytes | None:
        """The answer to a GET, or the rest of it after its first line."""
        head = head or self.line(deadline)
        if head[:1] != b"$":
            raise ValueError(f"not a value: {head[:200]!r}")
        size = int(head[1:])
        return None if size < 0 else self.take(size + 2, deadline)[:-2]
