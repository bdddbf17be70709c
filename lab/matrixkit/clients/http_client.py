"""http_client.py ADDRESS PORT PATH BYTES SHA256 RATE: asks for PATH again and again on one connection that stays open.

With BYTES every answer is read at RATE bytes a second and must have that SHA-256; without, it must be "ready" and a new line.
"""

import hashlib
import sys
import time

from steady import Watch, connect, read_line, run

address, port, path, size, digest, rate = sys.argv[1:]
size, rate = int(size), int(rate)
watch = Watch()
PIECE = 1 << 16


def head(reader):
    status = read_line(reader)
    if not status.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"the answer is {status!r}")
    length, closes = -1, False
    while line := read_line(reader):
        key, _, value = line.lower().partition(b":")
        if key == b"content-length":
            length = int(value)
        closes = closes or (key == b"connection" and value.strip() == b"close")
    if closes:
        raise ConnectionError("the server does not keep the connection")
    return length


def body(reader, length, since):
    """Read at the rate; returns its SHA-256."""
    sha, left, begun = hashlib.sha256(), length, time.monotonic()
    while left:
        piece = reader.read1(min(PIECE, left))
        if not piece:
            raise ConnectionError(f"the connection ended {left} bytes early")
        since = watch.silence(since)
        watch.right("pieces")
        sha.update(piece)
        left -= len(piece)
        ahead = (length - left) / rate - (time.monotonic() - begun)
        if ahead > 0:
            time.sleep(min(ahead, 0.1))
            since = time.monotonic()
        if watch.stopping.is_set():
            begun = 0  # at full speed to the end
    return sha.hexdigest()


def downloads():
    s = connect(address, port)
    s.setsockopt(1, 8, 256 << 10)  # SO_RCVBUF: else all of it is in buffers at once
    reader = s.makefile("rb")
    while not watch.stopping.is_set():
        since = time.monotonic()
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        length = head(reader)
        watch.expect("downloads", (length, body(reader, length, since)), (size, digest))


def answers():
    s = connect(address, port)
    reader = s.makefile("rb")
    while not watch.stopping.is_set():
        since = time.monotonic()
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        watch.expect("kept-alive answers", reader.read(head(reader)), b"ready\n")
        watch.silence(since)
        watch.sleep(0.002)


run(watch, downloads if size else answers, steady=("pieces" if size else "kept-alive answers",))
