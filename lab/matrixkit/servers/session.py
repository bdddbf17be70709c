"""The server of session_client.py with asyncio."""

import asyncio
import random
import secrets
import zlib

PORT = 7000
MEMORY = [random.Random(i).randbytes(1 << 16) for i in range(512)]  # 32 MiB


def crc() -> int:
    value = 0
    for block in MEMORY:
        value = zlib.crc32(block, value)
    return value


async def tick(writer):
    number = 0
    while True:
        await asyncio.sleep(0.02)
        number += 1
        writer.write(b"tick %d\n" % number)


async def serve(reader, writer):
    token, total = secrets.token_hex(8), 0
    writer.write(f"{token}\n".encode())
    ticking = asyncio.create_task(tick(writer))
    try:
        while line := await reader.readline():
            word, _, value = line.decode().strip().partition(" ")
            if word == "add":
                total += int(value)
                writer.write(f"sum {total} {token}\n".encode())
            else:
                writer.write(f"memory {crc():08x}\n".encode())
            await writer.drain()
    finally:
        ticking.cancel()
        writer.close()


async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", PORT) as server:
        await server.serve_forever()


asyncio.run(main())
