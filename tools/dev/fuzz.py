#!/usr/bin/env python3
"""Runs the fuzz targets of a build, or makes the corpora of the checkout out of what they have found.

    fuzz.py BUILD_DIR CORPUS_DIR [--seconds N] [--jobs N] [--merge] [TARGET...]

What a target finds new is kept in BUILD_DIR/corpus/TARGET from run to run. An input that ends it, or takes too long, is
kept in BUILD_DIR/findings. One line for each target; exit code 1 when there was a finding, 2 for wrong usage. The seconds
are of the target's own CPU time: on a busy machine it is given as many inputs as on an idle one.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

# Of one input. The slowest real ones take some milliseconds; but it is time on the wall, and beside other work a target may
# get no processor for a minute (seen).
TIMEOUT_S = 600
RSS_MB = 2048
# It ends after this many times its seconds at the latest.
WALL_FACTOR = 30
# Inputs of the run, and those that the checkout keeps: each target's replay is to take a fraction of a second.
MAX_BYTES = 16384
KEPT_FILE_BYTES = 4096
KEPT_FILES = 100
KEPT_BYTES = 200 << 10
OPTIONS = "detect_stack_use_after_return=1:strict_string_checks=1:detect_leaks=1"


class Fuzzer:
    def __init__(self, build, corpus):
        self.programs = build / "bin"
        self.found, self.findings, self.logs = build / "corpus", build / "findings", build / "logs"
        self.seeds, self.corpus = build / "seeds", corpus
        for directory in (self.found, self.findings, self.logs):
            directory.mkdir(exist_ok=True)

    def targets(self):
        return sorted(path.name.removeprefix("fuzz_") for path in self.programs.glob("fuzz_*"))

    def write_seeds(self, target):
        shutil.rmtree(self.seeds / target, ignore_errors=True)
        environment = os.environ | {"TRANSSHIP_FUZZ_SEEDS": str(self.seeds)}
        subprocess.run([self.programs / f"fuzz_{target}"], env=environment, check=True)

    def call(self, target, *arguments, log, cpu_seconds=None):
        """Asked to end once it has had `cpu_seconds`."""
        program = self.programs / f"fuzz_{target}"
        environment = os.environ | {"ASAN_OPTIONS": OPTIONS, "UBSAN_OPTIONS": "print_stacktrace=1"}
        with open(self.logs / log, "w", encoding="utf-8", errors="replace") as output:
            with subprocess.Popen([program, *arguments], env=environment, stdout=output, stderr=output) as running:
                while running.poll() is None:
                    time.sleep(0.5)
                    if cpu_seconds is not None and cpu_time(running.pid) >= cpu_seconds:
                        running.send_signal(signal.SIGUSR1)
                        cpu_seconds = None
        return running.returncode, (self.logs / log).read_text(encoding="utf-8", errors="replace")

    def directories(self, target):
        """Where new inputs go, then the others; those that there are."""
        own = self.found / target
        own.mkdir(exist_ok=True)
        return [own, *(d for d in (self.seeds / target, self.corpus / target) if d.is_dir())]

    def run(self, target, seconds):
        before = set(self.findings.glob(f"{target}-*"))
        code, text = self.call(
            target,
            f"-max_total_time={WALL_FACTOR * seconds}",
            f"-timeout={TIMEOUT_S}",
            f"-rss_limit_mb={RSS_MB}",
            f"-max_len={MAX_BYTES}",
            f"-artifact_prefix={self.findings}/{target}-",
            "-print_final_stats=1",
            *self.directories(target),
            log=f"{target}.log",
            cpu_seconds=seconds,
        )
        kept = sorted(set(self.findings.glob(f"{target}-*")) - before)
        result = "ok" if code == 0 else f"FOUND: {kept[0] if kept else self.logs / (target + '.log')}"
        runs, rate, new = (
            last_number(rf"stat::{name}:\s+(\d+)", text)
            for name in ("number_of_executed_units", "average_exec_per_sec", "new_units_added")
        )
        edges = last_number(r"cov: (\d+)", text)
        line = f"{target:16} {runs:>10} runs {rate:>7}/s {edges:>6} edges {new:>5} new  {result}"
        return code, line

    def merge(self, target):
        """The seeds, and the smallest inputs that reach what they do not, within the limits."""
        merged = self.found.parent / "merged" / target
        shutil.rmtree(merged, ignore_errors=True)
        shutil.copytree(self.seeds / target, merged)
        seeds = set(merged.iterdir())
        code, _ = self.call(
            target,
            "-set_cover_merge=1",
            f"-max_len={KEPT_FILE_BYTES}",
            f"-timeout={TIMEOUT_S}",
            merged,
            *self.directories(target),
            log=f"{target}.merge.log",
        )
        if code != 0:
            return code, f"{target:16} FOUND something while merging: {self.logs / (target + '.merge.log')}"
        files, size = len(seeds), sum(path.stat().st_size for path in seeds)
        for path in sorted(set(merged.iterdir()) - seeds, key=lambda p: (p.stat().st_size, p.name)):
            files, size = files + 1, size + path.stat().st_size
            if files > KEPT_FILES or size > KEPT_BYTES:
                path.unlink()
        kept = self.corpus / target
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(merged, kept)
        inputs = list(kept.iterdir())
        return 0, f"{target:16} {len(inputs):>4} inputs {sum(p.stat().st_size for p in inputs):>7} bytes"


def cpu_time(pid):
    """Seconds, its threads included; 0 when it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def last_number(pattern, text):
    found = re.findall(pattern, text)
    return found[-1] if found else "-"


def main():
    parser = argparse.ArgumentParser(prog="./dev fuzz", usage="./dev fuzz [--seconds N] [--jobs N] [--merge] [TARGET...]")
    parser.add_argument("build", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("corpus", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=60, help="of CPU time, for each target (default 60)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    fuzzer = Fuzzer(options.build, options.corpus)
    known = fuzzer.targets()
    if unknown := sorted(set(options.targets) - set(known)):
        sys.exit(f"dev: there is no target {unknown[0]}; there are: {', '.join(known)}")
    for target in options.targets or known:
        fuzzer.write_seeds(target)
    work = fuzzer.merge if options.merge else lambda target: fuzzer.run(target, options.seconds)
    worst = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for code, line in pool.map(work, options.targets or known):
            print(line, flush=True)
            worst = max(worst, abs(code))
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
