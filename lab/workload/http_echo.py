"""In a container: says over HTTP who answers, and to whom; and sends datagrams back.

  GET /              {"name", "peer", "forwarded"}: of the container; who is connected; X-Forwarded-For
  GET /slow?SECONDS  a line at once, another one that much later
  GET /health        200, or 503 while there is a file /data/sick
  GET /fill?MIB      takes that much memory
  PUT /              {"sha256"} of the body
  UDP port 9001      every datagram comes back
"""

import hashlib
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, words = self.path.partition("?")
        if path == "/health":
            return self.say(503 if os.path.exists("/data/sick") else 200, b"")
        if path == "/fill":
            kept.append(os.urandom(int(words) << 20))
            return self.say(200, b"")
        if path == "/slow":
            return self.slow(float(words))
        body = {"name": sys.argv[1], "peer": self.client_address[0], "forwarded": self.headers.get_all("X-Forwarded-For")}
        self.say(200, json.dumps(body).encode())

    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left and (piece := self.rfile.read(min(left, 1 << 16))):
            digest.update(piece)
            left -= len(piece)
        self.say(200, json.dumps({"sha256": digest.hexdigest()}).encode())

    def slow(self, seconds):
        name = sys.argv[1].encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(2 * len(name)))
        self.end_headers()
        self.wfile.write(name)
        time.sleep(seconds)
        self.wfile.write(name)

    def say(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True


def echo(udp):
    while True:
        data, sender = udp.recvfrom(2048)
        udp.sendto(data, sender)


kept = []
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.bind(("::", 9001))
threading.Thread(target=echo, args=(datagrams,), daemon=True).start()
Server(("::", 8080), Handler).serve_forever()
