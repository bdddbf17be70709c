"""Memory that is the machine's own while something is measured.

In a virtual machine with free page reporting, free memory goes back to the hypervisor in large blocks, and the first touch
of such a page costs microseconds: 2 ms per MiB were seen, 0.4 ms otherwise. A restore that happens to get such pages is then
measured at twice its time. Hosts that carry load have few such pages. So memory is touched once, and all of it given free
again but one page in each MiB: the blocks in between are too small to be handed back, and the kernel takes them first.
"""

import mmap
import time
from pathlib import Path

BLOCK = 1 << 20
PAGE = 4096
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE


class OwnMemory:
    """Keeps one page per MiB until the program ends."""

    def __init__(self, mib: int):
        mib = min(mib, available_mib() // 2)
        begin = time.monotonic()
        self.map = mmap.mmap(-1, mib * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map.madvise(mmap.MADV_NOHUGEPAGE)
        self.map.madvise(POPULATE_WRITE)
        ms = (time.monotonic() - begin) * 1000 / mib
        for block in range(mib):
            self.map.madvise(mmap.MADV_DONTNEED, block * BLOCK + PAGE, BLOCK - PAGE)
        self.what = f"{mib} MiB touched once beforehand ({ms:.1f} ms per MiB), so that the hypervisor's part is not measured"


def available_mib() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 1024
