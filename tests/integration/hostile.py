"""A pinned peer that has been broken into: what it may say is what any program with its key could send.

`Peer` runs programs on a host that hold whole conversations with another node's daemon and print what came of each; the
program's own helpers are in HOSTILE, behind those of raw_peer.
"""

import copy
import json

from raw_peer import RAW_PEER

# After it: TARGET; session() begins a conversation; ask(SESSION, NUMBER, BODY) is the answer by its kind, or "CODE: MESSAGE
# (REMEDY)"; reserve(SESSION, MOVE, FACTS, …); Lane(MOVE, TOKEN).send(KIND, NAME, OFFSET, DATA) and .flush(): "ok", or what the
# other end said; tell(NAME, RESULT) prints a line for the test.
HOSTILE = RAW_PEER + r"""
import json, os, io, tarfile, base64, time, urllib.parse
DATA = json.load(open(sys.argv[1])); TARGET = DATA["target"]
def text(n, value): return part(n, value.encode() if isinstance(value, str) else value) if value else b""
def flag(n, value): return number(n, 1) if value else b""
def count(n, value): return number(n, value) if value else b""
def fields(data):
    at, found = 0, {}
    def take():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]; at += 1
            value |= (byte & 127) << shift; shift += 7
            if byte < 128: return value
    while at < len(data):
        key = take()
        if key & 7 == 0: value = take()
        elif key & 7 == 2:
            size = take(); value = data[at:at + size]; at += size
        else: at += 8 if key & 7 == 1 else 4; continue
        found.setdefault(key >> 3, []).append(value)
    return found
def facts(c):
    out = b"".join(text(n, c[k]) for n, k in ((1, "engine"), (2, "id"), (3, "name"), (4, "image"), (5, "image_id"), (6, "image_digest")))
    for a in c["addresses"]:
        out += part(7, text(1, a["network"]) + text(2, a["ip"]) + count(3, a["prefix"]) + text(4, a["mac"]) + text(5, a["interface"]) + text(6, a["gateway"]))
    for p in c["host_ports"]:
        out += part(8, text(1, p["host_ip"]) + count(2, p["host_port"]) + count(3, p["container_port"]) + text(4, p["protocol"]))
    out += text(9, c["spec"]) + b"".join(text(12, l) for l in c["image_layers"]) + count(13, c["image_bytes"])
    out += text(16, c["rootfs_kind"]) + text(17, c["runtime"]) + text(18, c["network_mode"]) + text(19, c["restart_policy"])
    return out + flag(21, c["terminal"]) + flag(22, c["privileged"])
def spoken(failure):
    f = fields(failure)
    words = [f.get(n, [b""])[0].decode("utf-8", "replace") for n in (1, 2, 3)]
    return f"{words[0]}: {words[1]} ({words[2]})"
def session(): return connect(TARGET, b"liar")
def ask(s, which, body=b""):
    s.settimeout(60)
    reply = fields(fields(request(s, which, body))[5][0])
    kind = next(iter(reply))
    return spoken(reply[1][0]) if kind == 1 else {"kind": kind, "fields": fields(reply[kind][0])}
MIB = 1 << 20
def reservation(move, container, memory=8 * MIB, images=8 * MIB, storage=8 * MIB, pages=None):
    live = b"" if pages is None else flag(8, True) + count(9, pages)
    return text(1, move) + part(2, container) + count(3, memory) + count(4, images) + count(5, storage) + count(6, 30) + live
def reserve(s, move, container, **amounts): return ask(s, 5, reservation(move, container, **amounts))
# The same when something else of ours that has the name is just being undone.
def reserve_soon(s, move, container, **amounts):
    for _ in range(100):
        r = reserve(s, move, container, **amounts)
        if not isinstance(r, str) or "is taken by move" not in r: return r
        time.sleep(0.2)
    return r
def token_of(reserved): return reserved["fields"][2][0]
class Lane:
    def __init__(self, move, token):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
        c.load_cert_chain("/var/lib/transship/node.crt", "/var/lib/transship/node.key")
        self.s = c.wrap_socket(socket.create_connection((TARGET, 7440), 5)); self.s.settimeout(20)
        send(self.s, part(1, number(1, 1) + number(2, 1) + part(3, b"liar") + number(4, 2) + text(5, move) + text(6, token)))
        hello = fields(receive(self.s)); self.refused = spoken(hello[3][0]) if 3 in hello else ""
        self.flushes = 0
    def send(self, kind, name, offset, data):
        name = name.encode() if isinstance(name, str) else name
        try: self.s.sendall(struct.pack(">BBHIQ", 1, kind, len(name), len(data), offset) + name + data)
        except (ssl.SSLError, OSError): pass  # the other end has said why, see flush()
    def flush(self):
        self.flushes += 1
        try:
            self.s.sendall(struct.pack(">BBHIQ", 2, 0, 0, 0, self.flushes))
        except (ssl.SSLError, OSError): pass
        head = b""
        while len(head) < 16:
            got = self.s.recv(16 - len(head))
            if not got: return "closed"
            head += got
        kind, _, _, length, _ = struct.unpack(">BBHIQ", head)
        if kind == 3: return "ok"
        body = b""
        while len(body) < length: body += self.s.recv(length - len(body))
        return spoken(body)
    # A stream in pieces, and its end.
    def stream(self, name, data):
        for at in range(0, len(data), MIB): self.send(2, name, at, data[at:at + MIB])
        self.send(2, name, len(data), b"")
def xattr(name, value): return {"LIBARCHIVE.xattr." + name: base64.b64encode(value.encode()).decode().rstrip("=")}
# [(name, {field: value}, contents)] and the entry that ends a round.
def archive(*entries):
    out = io.BytesIO()
    tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
    def add(name, values, contents=b""):
        info = tarfile.TarInfo(name); info.size = len(contents)
        for key, value in values.items(): setattr(info, key, value)
        tar.addfile(info, io.BytesIO(contents))
    for entry in entries: add(*entry)
    add("end", {"pax_headers": {**xattr("transship.kind", "end"), **xattr("transship.count", str(len(entries)))}})
    tar.close()
    return out.getvalue()
# One of CRIU's images.
def image(magic, *records):
    words = ([0x54564319] if magic != 0x58313116 else []) + [magic]
    return b"".join(struct.pack("<I", w) for w in words) + b"".join(struct.pack("<I", len(r)) + r for r in records)
def tell(name, result): print(json.dumps([name, result if isinstance(result, str) else "done"]), flush=True)
"""


class Peer:
    """`host` speaks to the daemon of `target`."""

    def __init__(self, host, target):
        self.host, self.target = host, target

    def run(self, program: str, *, timeout=120, **data) -> list[tuple[str, str]]:
        """What the program told, in order."""
        path = "/tmp/hostile.json"
        self.host.put(path, json.dumps({"target": self.target.address, **data}), 0o600)
        self.host.put("/tmp/hostile.py", HOSTILE + program)
        out = self.host.run(["python3", "/tmp/hostile.py", path], timeout=timeout).stdout
        return [tuple(json.loads(line)) for line in out.splitlines()]


def changed(container: dict, create: dict | None = None, config: dict | None = None, **values) -> dict:
    """The facts of a container with other values; `create` goes into Podman's request, `config` into a bundle's config.json."""
    c = copy.deepcopy(container) | values
    spec = json.loads(c["spec"])
    if create is not None:
        spec["create"] |= create
    if config is not None:
        merge(spec["config"], config)
    if "name" in values and "create" in spec:
        spec["create"]["name"] = values["name"]
    return c | {"spec": json.dumps(spec)}


def merge(into: dict, values: dict) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value
