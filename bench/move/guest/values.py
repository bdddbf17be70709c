"""What the keys hold: told by key and version alone, so that every byte can be checked afterwards."""

import os

# With Redis' own header just one of its allocator's classes: N MiB of values take little more than N MiB.
VALUE_BYTES = 1000
KEYS_PER_MIB = (1 << 20) // VALUE_BYTES
# Far more than a compressor looks back, so that random values stay random to it.
POOL_BYTES = 128 << 20
TEXT = (b'{"type":"reading","unit":"celsius","station":"north","quality":"good"}' * 16)[:VALUE_BYTES]


class Values:
    """kind: `random`, or `compressible`: about a quarter of each value is random, the rest a text that repeats."""

    def __init__(self, kind: str):
        self.random_bytes = VALUE_BYTES if kind == "random" else VALUE_BYTES // 5
        self.pool = b"".join(os.urandom(1 << 20) for _ in range(POOL_BYTES >> 20))

    def value(self, key: int, version: int) -> bytes:
        head = b"%08x:%08x:" % (key, version)
        # Odd multipliers spread neighbours all over the pool.
        offset = (key * 2654435761 + version * 40503477) % (POOL_BYTES - VALUE_BYTES)
        noise = self.pool[offset:offset + self.random_bytes - len(head)]
        return head + noise + TEXT[self.random_bytes:]


def key_name(key: int) -> bytes:
    return b"k:%08x" % key


def set_request(key: int, value: bytes) -> bytes:
    return b"*3\r\n$3\r\nSET\r\n$10\r\n%s\r\n$%d\r\n%s\r\n" % (key_name(key), len(value), value)


def get_request(key: int) -> bytes:
    return b"*2\r\n$3\r\nGET\r\n$10\r\n%s\r\n" % key_name(key)
