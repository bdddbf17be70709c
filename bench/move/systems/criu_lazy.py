"""CRIU's post-copy: a checkpoint without memory, and a daemon on the destination that fetches pages from the source."""

import select
import subprocess
import time
from pathlib import Path

from labkit.errors import LabError

from ..measure import PROGRAM, Stopwatch, resident
from .base import error_lines
from .runc_rsync import IMAGES, LOGS, Bundle

PORT = 27000
# CRIU keeps the pages in pipes, and its page server fails with smaller ones. One value for the whole machine.
PIPE_LIMIT = Path("/proc/sys/fs/pipe-max-size")
PIPE_BYTES = 4 << 20
FIRST_WORD = 120.0   # s until the checkpoint is written
ALL_PAGES = 300.0    # s until the last page is there; with writers and a delay it can take for ever


class CriuLazy(Bundle):
    name = "criu-lazy"

    def __init__(self, lab):
        super().__init__(lab)
        self.started: list[subprocess.Popen] = []
        self.pipe_limit = ""

    def prepare(self) -> None:
        super().prepare()
        found = PIPE_LIMIT.read_text(encoding="ascii").strip()
        if int(found) < PIPE_BYTES:
            PIPE_LIMIT.write_text(str(PIPE_BYTES), encoding="ascii")
            self.pipe_limit = found

    def move(self) -> dict[str, float]:
        watch = Stopwatch()
        self.rsync(self.redis.bundle)
        watch.lap("bundle")
        checkpoint = self.start(self.source, [
            "runc", "checkpoint", "--lazy-pages", "--page-server", f"0.0.0.0:{PORT}", "--status-fd", "1", "--tcp-established",
            "--image-path", IMAGES, "--work-path", LOGS, self.redis.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.wait_written(checkpoint)
        watch.lap("checkpoint")
        self.rsync(self.redis.bundle, IMAGES)
        watch.lap("copy")
        pages = self.start(self.destination, f"cd {LOGS} && exec criu lazy-pages --page-server --address {self.source.address}"
                           f" --port {PORT} -D {IMAGES} -W {LOGS} -o lazy-pages.log", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_listens(pages)
        self.restore("--lazy-pages")
        watch.lap("restore")
        self.route_to_destination()
        watch.lap("route")
        self.wait_end(pages, "criu lazy-pages on the destination", self.destination, "lazy-pages.log")
        self.wait_end(checkpoint, "runc checkpoint --lazy-pages on the source", self.source, "dump.log")
        watch.lap("pages")
        return watch.parts

    def start(self, host, argv, **streams) -> subprocess.Popen:
        self.started.append(host.popen(argv, stdin=subprocess.DEVNULL, **streams))
        return self.started[-1]

    def wait_written(self, checkpoint) -> None:
        """runc writes a zero byte when the images are complete and the pages can be asked for."""
        ready = select.select([checkpoint.stdout], [], [], FIRST_WORD)[0]
        if not ready or checkpoint.stdout.read(1) != b"\0":
            checkpoint.kill()
            said = checkpoint.communicate(timeout=10)[1].decode(errors="replace").strip()[-300:]
            raise LabError(f"runc checkpoint --lazy-pages: {said} {error_lines(self.source, f'{LOGS}/dump.log')}")

    def wait_listens(self, pages) -> None:
        end = time.monotonic() + 10
        while not self.destination.path(f"{LOGS}/lazy-pages.socket").exists():
            if pages.poll() is not None or time.monotonic() > end:
                raise LabError(f"criu lazy-pages did not start: {error_lines(self.destination, f'{LOGS}/lazy-pages.log')}")
            time.sleep(0.005)

    def wait_end(self, process, what, host, log) -> None:
        try:
            code = process.wait(ALL_PAGES)
        except subprocess.TimeoutExpired:
            there = resident(self.destination, PROGRAM) >> 20
            raise LabError(f"{what} had not ended after {ALL_PAGES:g} s, {there} MiB of the container were there."
                           f" {error_lines(host, f'{LOGS}/{log}')}".strip()) from None
        if code:
            raise LabError(f"{what} ended with {code}: {error_lines(host, f'{LOGS}/{log}')}")

    def clean_up(self) -> None:
        for process in self.started:
            process.kill()
            process.wait(10)
            for stream in filter(None, (process.stdout, process.stderr)):
                stream.close()
        self.started.clear()
        try:
            super().clean_up()
        finally:
            if self.pipe_limit:
                PIPE_LIMIT.write_text(self.pipe_limit, encoding="ascii")
                self.pipe_limit = ""
