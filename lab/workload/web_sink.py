"""In the container `web`, behind nginx: says the SHA-256 of what is uploaded, and counts numbered datagrams.

  PUT /upload        answers with the digest and the length of the body
  GET /datagrams     what came to UDP port 9000 so far: {"received", "duplicates", "out_of_order", "missing"}; `?forget` begins anew
"""

import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST = 1 << 24  # datagrams that are told apart


class Datagrams:
    def __init__(self):
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)  # as much as the host allows
        self.socket.bind(("::", 9000))
        self.forget()

    def forget(self):
        self.seen, self.received, self.duplicates, self.out_of_order, self.last = bytearray(MOST), 0, 0, 0, -1

    def serve(self):
        buffer = bytearray(2048)
        while True:
            self.socket.recv_into(buffer)
            number = int.from_bytes(buffer[:8], "big") % MOST
            if self.seen[number]:
                self.duplicates += 1
                continue
            self.seen[number] = 1
            self.received += 1
            if number < self.last:
                self.out_of_order += 1
            self.last = number

    def report(self) -> bytes:
        # Where some are missing, up to the last that has come.
        missing, at = [], -1
        while len(missing) < 20 and 0 <= (at := self.seen.find(0, at + 1, self.last + 1)):
            missing.append(at)
        return json.dumps({"received": self.received, "duplicates": self.duplicates, "out_of_order": self.out_of_order,
                           "missing": missing}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pieces(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                yield self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read1(min(left, 1 << 20))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def do_PUT(self):
        digest, length = hashlib.sha256(), 0
        for piece in self.pieces():
            digest.update(piece)
            length += len(piece)
        self.say(json.dumps({"sha256": digest.hexdigest(), "bytes": length}).encode())

    def do_GET(self):
        if self.path.endswith("?forget"):
            datagrams.forget()
        self.say(datagrams.report())

    def say(self, body: bytes):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


datagrams = Datagrams()
threading.Thread(target=datagrams.serve, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", 8081), Handler).serve_forever()
