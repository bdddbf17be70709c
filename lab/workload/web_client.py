"""A client of the container `web`: one download, one upload, or one flow of datagrams. Prints "ready" when it has begun, and a
line of JSON at the end.

  web_client.py get ADDRESS PATH
  web_client.py put ADDRESS BYTES
  web_client.py datagrams ADDRESS PER_SECOND SECONDS
"""

import hashlib
import json
import random
import socket
import sys
import time

PATIENCE = 120  # s without a byte


def say(**report):
    print(json.dumps(report), flush=True)


def connect(address: str) -> socket.socket:
    s = socket.create_connection((address, 80), 10)
    s.settimeout(PATIENCE)
    return s


def read_head(s: socket.socket) -> tuple[bytes, bytes]:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = s.recv(65536)
        if not piece:
            raise OSError(f"the connection ended in the middle of the answer's head: {got[:200]!r}")
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(f"the answer is {head[:200]!r}")
    return head, body


def length_of(head: bytes) -> int:
    return next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))


def get(address: str, path: str):
    s = connect(address)
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: web\r\n\r\n".encode())
    head, body = read_head(s)
    total, digest, longest = length_of(head), hashlib.sha256(body), 0.0
    print("ready", flush=True)
    left, before = total - len(body), time.monotonic()
    buffer = memoryview(bytearray(1 << 20))
    while left:
        n = s.recv_into(buffer[:min(left, 1 << 20)])
        now = time.monotonic()
        if n == 0:
            raise OSError(f"the connection ended {left} bytes early")
        longest, before, left = max(longest, now - before), now, left - n
        digest.update(buffer[:n])
    say(sha256=digest.hexdigest(), bytes=total, silence_ms=round(longest * 1000, 1))


def put(address: str, size: str):
    total, block, digest = int(size), random.Random(7).randbytes(1 << 20), hashlib.sha256()
    s = connect(address)
    s.sendall(f"PUT /sink/upload HTTP/1.1\r\nHost: web\r\nContent-Length: {total}\r\n\r\n".encode())
    print("ready", flush=True)
    longest, sent = 0.0, 0
    while sent < total:
        # No two blocks are the same.
        piece = sent.to_bytes(8, "big") + block[:min(total - sent, 1 << 20) - 8]
        begin = time.monotonic()
        s.sendall(piece)
        longest = max(longest, time.monotonic() - begin)
        digest.update(piece)
        sent += len(piece)
    head, body = read_head(s)
    while len(body) < length_of(head):
        body += s.recv(65536)
    answer = json.loads(body)
    say(sha256=digest.hexdigest(), bytes=sent, silence_ms=round(longest * 1000, 1), answer=answer)


def datagrams(address: str, per_second: str, seconds: str):
    rate, total = int(per_second), int(float(seconds) * int(per_second))
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    s.connect((address, 9000))
    print("ready", flush=True)
    sent, refused, begin, filler = 0, 0, time.monotonic(), bytes(92)
    while sent < total:
        due = min(total, int((time.monotonic() - begin) * rate))
        while sent < due:
            try:
                s.send(sent.to_bytes(8, "big") + filler)
            except ConnectionRefusedError:
                refused += 1  # said of one before: this one has not been sent
                continue
            sent += 1
        time.sleep(0.001)
    say(sent=sent, refused=refused, seconds=round(time.monotonic() - begin, 3))


if __name__ == "__main__":
    {"get": get, "put": put, "datagrams": datagrams}[sys.argv[1]](*sys.argv[2:])
