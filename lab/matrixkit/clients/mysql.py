"""As much of MySQL's protocol as a client of a server on the same network needs: log in without a password, ask, read rows."""

import struct

from steady import connect

CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x80000  # long password, database, 4.1, transactions, 4.1's login, plugins


class ServerSaid(Exception):
    """An error of the server."""


class Connection:
    def __init__(self, address, port, user, database):
        self.socket = connect(address, port)
        self.reader = self.socket.makefile("rb")
        self.packet()  # the greeting
        self.send(struct.pack("<IIB23x", CAPABILITIES, 1 << 24, 45) + user.encode() + b"\0\0" + database.encode()
                  + b"\0mysql_native_password\0", 1)
        first = self.packet()
        if first[:1] == b"\xfe":  # another way to log in: no password there either
            self.send(b"", self.number + 1)
            first = self.packet()
        self.check(first)

    def exactly(self, size):
        data = self.reader.read(size)
        if len(data) != size:
            raise ConnectionError("the connection ended")
        return data

    def packet(self):
        head = self.exactly(4)
        self.number = head[3]
        return self.exactly(int.from_bytes(head[:3], "little"))

    def send(self, data, number=0):
        self.socket.sendall(len(data).to_bytes(3, "little") + bytes([number]) + data)

    @staticmethod
    def check(data):
        if data[:1] == b"\xff":
            raise ServerSaid(data[3:].decode(errors="replace"))
        return data

    def ask(self, query):
        """Rows of text, or how many were changed."""
        self.send(b"\x03" + query.encode())
        first = self.check(self.packet())
        if first[:1] == b"\0":
            return number_at(first, 1)[0]
        while self.packet()[:1] != b"\xfe":  # columns
            pass
        rows = []
        while True:
            data = self.check(self.packet())
            if data[:1] == b"\xfe" and len(data) < 9:
                return rows
            rows.append(row_of(data))


def number_at(data, at):
    """A number in front of what has that length, and where that begins; None is NULL."""
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(data[at], 0)
    if data[at] == 0xFB:
        return None, at + 1
    return (int.from_bytes(data[at + 1:at + 1 + size], "little"), at + 1 + size) if size else (data[at], at + 1)


def row_of(data):
    row, at = [], 0
    while at < len(data):
        length, at = number_at(data, at)
        row.append(None if length is None else data[at:at + length].decode())
        at += length or 0
    return row
