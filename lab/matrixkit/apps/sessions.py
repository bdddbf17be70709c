"""The same server in several languages (session_client.py), and a WebSocket server."""

from ..app import App
from ..client import Client

PORT = 7000


class Sessions(App):
    promises = ("answers", "ticks", "looks at memory")
    checks = "4 connections: running sums kept by the server, ticks of its timers without a gap, checksum of 32 MiB of its memory"
    program = "session_client.py"

    def ready(self, host):
        return self.port_open(host, PORT)

    def start_load(self, host):
        self.clients = [Client(self.client_host, self.program, self.address, PORT)]


class Asyncio(Sessions):
    name = "asyncio"
    what = "a Python server with asyncio"
    packages = ("python3-minimal",)


class Jvm(Sessions):
    name = "jvm"
    what = "a Java server, virtual threads"
    packages = ("openjdk-21-jre-headless",)


class Go(Sessions):
    name = "go"
    what = "a Go server, goroutines"
    packages = ("golang-go",)
    needs = "`GODEBUG=multipathtcp=0`: from Go 1.24 on servers listen with multipath TCP, which CRIU cannot dump"


class Node(Sessions):
    name = "node"
    what = "Node.js, a WebSocket server with ws"
    packages = ("nodejs", "node-ws")
    program = "websocket_client.py"
    promises = ("answers", "pushed messages", "looks at memory")
    checks = "4 WebSockets: numbered messages both ways without gap or repetition, digest of 32 MiB of its memory"
