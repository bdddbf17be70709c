"""The router's route table over HTTP, as a cloud has one: `route_service.py PORT`.

  PUT /routes/ADDRESS {"via": HOST_ADDRESS}    DELETE /routes/ADDRESS    GET /routes
Answers after the kernel has the route. Serves one request at a time: routes change in the order they were asked for.
"""

import errno
import http.server
import ipaddress
import json
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rtnetlink import Routes  # noqa: E402

LONGEST_BODY = 4096


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5
    routes: Routes

    def do_GET(self):
        if self.path != "/routes":
            return self.answer(404, {"error": f"no such path: {self.path}; try /routes"})
        self.answer(200, [{"address": str(a), "via": str(v)} for a, v in self.routes.list()])

    def do_PUT(self):
        self.change(lambda address: self.routes.replace(address, self.gateway(address)))

    def do_DELETE(self):
        self.change(self.routes.delete)

    def change(self, action):
        try:
            if not self.path.startswith("/routes/"):
                raise ValueError(f"no such path: {self.path}; try /routes/ADDRESS")
            action(ipaddress.ip_address(self.path.removeprefix("/routes/")))
        except (ValueError, KeyError, TypeError) as e:
            return self.answer(400, {"error": str(e)})
        except OSError as e:
            if e.errno == errno.ESRCH:
                return self.answer(404, {"error": f"there is no route to {self.path.removeprefix('/routes/')}"})
            return self.answer(409, {"error": f"the kernel refused the route: {e.strerror}"})
        self.answer(200, {"ok": True})

    def gateway(self, address):
        length = int(self.headers.get("Content-Length", "0"))
        if not 0 < length <= LONGEST_BODY:
            raise ValueError(f'the body must be {{"via": HOST_ADDRESS}} and at most {LONGEST_BODY} bytes')
        via = ipaddress.ip_address(json.loads(self.rfile.read(length))["via"])
        if via.version != address.version:
            raise ValueError(f"{address} is IPv{address.version}, {via} is not")
        return via

    def answer(self, code, content):
        data = json.dumps(content).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, format, *values):
        sys.stderr.write(f"{self.client_address[0]} {format % values}\n")

    def address_string(self):
        return self.client_address[0]


class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 64

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "wan", self.server_address[1]


Handler.routes = Routes()
Server(("::", int(sys.argv[1])), Handler).serve_forever()
