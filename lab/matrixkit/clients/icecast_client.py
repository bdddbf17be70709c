"""icecast_client.py ADDRESS PORT: a source that sends numbered blocks at 32 KB a second, and three listeners, to each of which every
block must come once, whole and in order. None of them ever connects again."""

import base64
import hashlib
import sys
import threading
import time

from steady import Watch, connect, run

watch = Watch()
address, port = sys.argv[1], int(sys.argv[2])
BLOCK, EVERY = 1024, 1 / 32
MAGIC = b"\xff\xfbblock "
sending = threading.Event()


def block(number):
    head = MAGIC + b"%012d " % number
    return head + hashlib.shake_128(head).digest(BLOCK - len(head))


def head_of(s):
    got = b""
    while b"\r\n\r\n" not in got:
        piece = s.recv(1)
        if not piece:
            raise ConnectionError(f"the connection ended after {got!r}")
        got += piece
    return got


def source():
    s = connect(address, port)
    s.sendall(b"PUT /stream HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + base64.b64encode(b"source:lab")
              + b"\r\nContent-Type: audio/mpeg\r\nIce-Public: 0\r\nExpect: 100-continue\r\n\r\n")
    head = head_of(s)
    if not head.startswith((b"HTTP/1.1 100", b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise ConnectionError(f"the source is answered {head!r}")
    number, due = 0, time.monotonic()
    while not ended.is_set():
        s.sendall(block(number))
        number += 1
        if number == 64:
            sending.set()
        due += EVERY
        time.sleep(max(0.0, due - time.monotonic()))
    watch.right("blocks sent", number)


def listener():
    if not sending.wait(60):
        raise ConnectionError("nothing is sent")
    s = connect(address, port)
    s.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    head = head_of(s)
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(f"the listener is answered {head!r}")
    data, number, since = b"", None, time.monotonic()
    while not watch.stopping.is_set():
        piece = s.recv(1 << 16)
        if not piece:
            raise ConnectionError(f"the stream ended after block {number}")
        since = watch.silence(since)
        data += piece
        if number is None:
            at = data.find(MAGIC)
            if at < 0 or len(data) < at + BLOCK:
                continue
            data, number = data[at:], int(data[at + len(MAGIC):at + len(MAGIC) + 12])
        while len(data) >= BLOCK:
            watch.expect("blocks heard", hashlib.md5(data[:BLOCK]).hexdigest(), hashlib.md5(block(number)).hexdigest())
            data, number = data[BLOCK:], number + 1


def listeners():
    threads = [threading.Thread(target=lambda: run_one(listener), daemon=True) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    ended.set()  # the source last


def run_one(loop):
    try:
        loop()
    except Exception as e:  # noqa: BLE001
        watch.fault(f"listener: {type(e).__name__}: {e}")


ended = threading.Event()
run(watch, source, listeners, steady=("blocks heard",))
