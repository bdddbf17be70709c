"""websocket_client.py ADDRESS PORT: see servers/websocket.js. Every number has to come once, in order, in one connection each."""

import base64
import hashlib
import json
import os
import struct
import sys
import time

from steady import Watch, connect, read_line, run

watch = Watch()
address, port = sys.argv[1], int(sys.argv[2])
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING = 1, 8, 9


class WebSocket:
    def __init__(self):
        self.socket = connect(address, port)
        self.reader = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "
                            + key + b"\r\nSec-WebSocket-Version: 13\r\n\r\n")
        head = []
        while line := read_line(self.reader):
            head.append(line)
        want = base64.b64encode(hashlib.sha1(key + GUID).digest())
        if b" 101 " not in head[0] or not any(line.lower().startswith(b"sec-websocket-accept:") and line.endswith(want) for line in head):
            raise ConnectionError(f"no WebSocket: {head}")

    def send(self, message):
        data, mask = json.dumps(message).encode(), os.urandom(4)
        length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack(">BH", 0xFE, len(data))
        self.socket.sendall(bytes([0x80 | TEXT]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def exactly(self, size):
        data = self.reader.read(size)
        if len(data) != size:
            raise ConnectionError("the connection ended")
        return data

    def receive(self):
        first, length = self.exactly(2)
        if length == 126:
            length, = struct.unpack(">H", self.exactly(2))
        if first != 0x80 | TEXT or length > 65535:
            raise ConnectionError(f"unexpected frame {first:#x} of {length} bytes")
        return json.loads(self.exactly(length))


def session():
    ws = WebSocket()
    pushed = number = total = 0
    memory = None
    ws.send({"memory": True})
    since = time.monotonic()
    while True:
        message = ws.receive()
        since = watch.silence(since)
        if "push" in message:
            pushed += 1
            watch.expect("pushed messages", message["push"], pushed)
            continue
        if "memory" in message:
            memory = memory or message["memory"]
            watch.expect("looks at memory", message["memory"], memory)
            if watch.stopping.is_set():
                return
        else:
            watch.expect("answers", message, {"n": number, "sum": total})
        if watch.stopping.is_set():
            ws.send({"memory": True})
            continue
        number += 1
        total += number
        watch.sleep(0.002)
        since = time.monotonic()
        ws.send({"n": number})


run(watch, *[session] * 4, steady=("answers", "pushed messages"))
