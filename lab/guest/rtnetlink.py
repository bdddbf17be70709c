"""Just enough rtnetlink to set, remove and list host routes, over one socket that stays open."""

import ipaddress
import os
import socket
import struct

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_CREATE = 1, 4, 0x300, 0x100, 0x400
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTN_UNICAST, RT_SCOPE_UNIVERSE = 254, 1, 0
PROTOCOL = 179  # marks our routes (rtm_protocol); not one of the assigned numbers
HEADER, ROUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI")


class Routes:
    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        self.socket.settimeout(2.0)
        self.sequence = 0

    def replace(self, address, via):
        """The host route to `address` goes through `via` from now on, in one step."""
        self.change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, address, via)

    def delete(self, address):
        self.change(RTM_DELROUTE, 0, address, None)

    def change(self, kind, flags, address, via):
        body = self.route_header(address) + attribute(RTA_DST, address.packed)
        if via is not None:
            body += attribute(RTA_GATEWAY, via.packed)
        for answer, data in self.talk(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body):
            if answer == NLMSG_ERROR:
                number = -struct.unpack_from("=i", data)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return

    def list(self):
        """[(address, gateway)] of the routes that we set."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for kind, data in self.talk(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, body):
                if kind == NLMSG_DONE:
                    break
                if kind == RTM_NEWROUTE and ROUTE.unpack_from(data)[5] == PROTOCOL:
                    attributes = dict(parse_attributes(data[ROUTE.size:]))
                    if RTA_DST in attributes and RTA_GATEWAY in attributes:
                        found.append(tuple(ipaddress.ip_address(attributes[k]) for k in (RTA_DST, RTA_GATEWAY)))
        return found

    @staticmethod
    def route_header(address):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return ROUTE.pack(family, address.max_prefixlen, 0, 0, RT_TABLE_MAIN, PROTOCOL, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)

    def talk(self, kind, flags, body):
        """Sends one request, yields the messages that answer it."""
        self.sequence += 1
        self.socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self.sequence, 0) + body)
        while True:
            data = self.socket.recv(65536)
            while len(data) >= HEADER.size:
                length, answer, _, sequence, _ = HEADER.unpack_from(data)
                if length < HEADER.size:
                    return
                if sequence == self.sequence:
                    yield answer, data[HEADER.size:length]
                data = data[(length + 3) & ~3:]


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def parse_attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind, data[4:length]
        data = data[(length + 3) & ~3:]
