"""video_client.py ADDRESS PORT: watches an MPEG transport stream on one connection. Every packet begins as one, the counter of each
stream in it goes on without a gap, and presentation times never go back by more than reordered pictures do."""

import sys
import time

from steady import Watch, connect, run

watch = Watch()
PACKET = 188
REORDER = 90_000  # a second of the clock of 90 kHz


def read_head(reader):
    while line := reader.readline():
        if line == b"\r\n":
            return
    raise ConnectionError("the connection ended in the head")


def chunks(reader):
    """Of the body, which has no length."""
    while not watch.stopping.is_set():
        size = int(reader.readline().strip() or b"0", 16)
        if not size:
            raise ConnectionError("the stream ended")
        data = reader.read(size)
        if len(data) != size or reader.read(2) != b"\r\n":
            raise ConnectionError("the stream ended in the middle of a chunk")
        yield data


def pts_of(payload):
    if payload[:3] != b"\0\0\1" or not payload[7] & 0x80:
        return None
    b = payload[9:14]
    return (b[0] >> 1 & 7) << 30 | b[1] << 22 | b[2] >> 1 << 15 | b[3] << 7 | b[4] >> 1


def packet(data, counters, times):
    if data[0] != 0x47:
        watch.fault(f"a packet begins with {data[:4].hex()}")
        watch.stopping.set()
        return
    stream, adaptation, counter = (data[1] & 0x1F) << 8 | data[2], data[3] >> 4 & 3, data[3] & 15
    if stream == 0x1FFF or not adaptation & 1:
        return
    if stream in counters:
        watch.expect("packets", counter, (counters[stream] + 1) & 15)
    counters[stream] = counter
    if data[1] & 0x40:
        pts = pts_of(data[4 + (1 + data[4] if adaptation & 2 else 0):])
        if pts is not None:
            last = times.get(stream, pts)
            watch.expect("pictures and sounds", last - REORDER <= pts <= last + 5 * REORDER, True)
            times[stream] = max(last, pts)


def look():
    s = connect(sys.argv[1], int(sys.argv[2]))
    s.sendall(b"GET /video.ts HTTP/1.1\r\nHost: x\r\n\r\n")
    reader = s.makefile("rb")
    read_head(reader)
    rest, counters, times, since = b"", {}, {}, time.monotonic()
    for data in chunks(reader):
        since = watch.silence(since)
        rest += data
        while len(rest) >= PACKET:
            packet(rest[:PACKET], counters, times)
            rest = rest[PACKET:]


run(watch, look, steady=("packets", "pictures and sounds"))
