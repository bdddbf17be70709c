"""What a peer could send, byte by byte: the beginning of programs that run on a host and speak with its key."""

# After it: connect(ADDRESS, NAME) is a session by the name that it gives itself; request(SESSION, NUMBER, BODY) is the answer
# to the request of that number.
RAW_PEER = r"""
import socket, ssl, struct, sys
def varint(n): return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
def part(number, data): return varint(number << 3 | 2) + varint(len(data)) + data
def number(n, value): return varint(n << 3) + varint(value)
def send(s, message): s.sendall(struct.pack(">I", len(message)) + message)
def receive(s):
    f = s.makefile("rb")
    return f.read(struct.unpack(">I", f.read(4))[0])
def connect(address, name):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
    c.load_cert_chain("/var/lib/transship/node.crt", "/var/lib/transship/node.key")
    s = c.wrap_socket(socket.create_connection((address, 7440), 5))
    send(s, part(1, number(1, 1) + number(2, 1) + part(3, name) + number(4, 1)))
    receive(s)
    return s
def request(s, which, body):
    send(s, part(4, part(which, body)))
    return receive(s)
"""
