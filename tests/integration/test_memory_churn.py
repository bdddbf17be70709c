"""A program that checks all of its memory is moved again and again, in every way memory can travel.

TRANSSHIP_SOAK=100 in the environment: that many moves, the modes in turn.
"""

import itertools
import os

import pytest

from demokit import leftovers
from demokit.churn import Churn
from labkit import config
from moving import DONE, move

MODES = ["pre-copy", "post-copy", "stop-copy", "auto"]
# How long a gap is says nothing of programs with sanitizers in them; whether memory is right does.
PATIENCE = ("--max-gap", "5000") if config.SANITIZED else ()
SOAK = int(os.environ.get("TRANSSHIP_SOAK", "0"))


@pytest.fixture
def churn(moving_lab):
    before = {h.name: leftovers.collect(h) for h in moving_lab.clouds()}
    subject = Churn(moving_lab)
    subject.create(moving_lab.host("aws"))
    yield subject
    for host in moving_lab.clouds():
        subject.remove(host)
    moving_lab.unroute(subject.address)
    allowed = ("firewall: ",)  # of the container that was there until now
    left = [line for h in moving_lab.clouds() for line in leftovers.left_behind(h, before[h.name], allowed, patience=10)]
    assert left == []


def move_about(churn, modes):
    hosts = itertools.cycle([churn.lab.host("aws"), churn.lab.host("azure")])
    source = next(hosts)
    seen = churn.wait_progress(source)
    gaps = {}
    for n, mode in enumerate(modes, 1):
        destination = next(hosts)
        outcome = move(source, churn.reference, destination.name, "--mode", mode, *PATIENCE)
        assert outcome.code == DONE, f"move {n}, {mode}: {outcome.lines[-1]} {churn.end(source)}"
        now = churn.wait_progress(destination, since=seen)
        assert not churn.running(source)
        seen, source = now, destination
        gaps.setdefault(f"{mode} as {outcome.summary['mode']}", []).append(outcome.summary["gap_ms"])
    for mode, list_of in gaps.items():
        print(f"{mode}: {len(list_of)} moves, gap {sorted(list_of)[len(list_of) // 2]} ms, longest {max(list_of)} ms")
    print(f"checked: {seen}")


@pytest.mark.parametrize("mode", MODES)
def test_there_and_back_three_times(churn, mode):
    move_about(churn, [mode] * 6)


@pytest.mark.skipif(SOAK == 0, reason="only with TRANSSHIP_SOAK=N")
def test_soak(churn):
    move_about(churn, itertools.islice(itertools.cycle(MODES), SOAK))


def test_a_wrong_word_is_found(churn):
    """What all of this rests on: the program sees a single changed byte in memory that it wrote long ago."""
    aws = churn.lab.host("aws")
    pid = aws.run(["podman", "inspect", "--format", "{{.State.Pid}}", churn.name]).stdout.strip()
    change = ("import sys\n"
              "pid,area=sys.argv[1],''\n"
              "areas=[]\n"
              "for l in open(f'/proc/{pid}/smaps'):\n"
              "    w=l.split()\n"
              "    if '-' in w[0]: area=w[0]\n"
              "    if w[0]=='VmFlags:' and 'nh' in w: areas.append([int(x,16) for x in area.split('-')])\n"
              "with open(f'/proc/{pid}/mem','r+b',0) as m:\n"
              "    for begin,end in areas:\n"
              "        for at in range(begin+2049, end, 65536):\n"
              "            m.seek(at); old=m.read(1)\n"
              "            if not old: break\n"
              "            m.seek(at); m.write(bytes([old[0]^1]))\n"
              "print(len(areas))\n")
    assert int(aws.run(["python3", "-c", change, pid]).stdout) > 0
    end = aws.run(["podman", "wait", churn.name], timeout=30).stdout.strip()
    assert end == "3" and "BAD" in churn.log(aws), f"{end} {churn.log(aws)}"
