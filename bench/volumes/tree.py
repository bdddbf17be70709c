"""A tree to copy, the change of a part of it, and a digest of all that it is. Run on the hosts, as a program of its own."""

MAKE = r"""
import os, random, sys
top, mib, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
# Half in files of 64 MiB, half in files of 16 KiB: what databases and mail stores look like.
os.makedirs(top, exist_ok=True)
for i in range(max(1, mib // 128)):
    with open(f"{top}/large-{i}", "wb") as f:
        for _ in range(64):
            f.write(rng.randbytes(1 << 20))
for i in range(mib * 32):
    directory = f"{top}/small/{i % 64}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{i}", "wb") as f:
        f.write(rng.randbytes(16 << 10))
"""

# A hundredth of the bytes: blocks of 64 KiB anywhere in the large files, and small files written anew.
CHANGE = r"""
import os, random, sys
top, mib, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
large = max(1, mib // 128)
for _ in range(max(1, large * 64 * 16 // 100)):
    with open(f"{top}/large-{rng.randrange(large)}", "r+b") as f:
        f.seek(rng.randrange(64 * 16) << 16)
        f.write(rng.randbytes(64 << 10))
for i in rng.sample(range(mib * 32), max(1, mib * 32 // 100)):
    with open(f"{top}/small/{i % 64}/{i}", "wb") as f:
        f.write(rng.randbytes(16 << 10))
"""

DIGEST = r"""
import hashlib, os, sys
top = sys.argv[1]
digest = hashlib.sha256()
for directory, names, files in os.walk(top):
    names.sort()
    for name in sorted(names + files):
        path = os.path.join(directory, name)
        s = os.lstat(path)
        digest.update(repr((os.path.relpath(path, top), s.st_mode, s.st_uid, s.st_gid, s.st_size if name in files else 0, s.st_mtime_ns)).encode())
        if name in files:
            with open(path, "rb") as f:
                digest.update(f.read())
print(digest.hexdigest())
"""


def make(host, top: str, mib: int, seed: int) -> None:
    host.run(["python3", "-c", MAKE, top, mib, seed], timeout=600)


def change(host, top: str, mib: int, seed: int) -> None:
    host.run(["python3", "-c", CHANGE, top, mib, seed], timeout=600)


def digest(host, top: str) -> str:
    return host.run(["python3", "-c", DIGEST, top], timeout=600).stdout.strip()
