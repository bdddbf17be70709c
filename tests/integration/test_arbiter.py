"""Moves that etcd decides: what becomes of them when a host, a link or etcd itself is gone at the worst moment.

    aws ──────────── azure          the worst moment: azure is ready to run the container, aws stands still,
      └──── etcd ─────┘             and nobody has said yet who runs it
   (three nodes on registry)
"""

import json
import statistics
import time

import pytest

from arbiter_kit import (DYING, Watch, frozen, kill_daemon, kill_daemon_when_parked, kill_etcd, kill_tasks, register, start_daemon, start_etcd_again, wait_for,
                         wait_parked, words_lost)
from labkit import deploy, etcd
from moving import DONE, REFUSED, ROLLED_BACK, RunningMove, Scene, link_cut, move

LEASE = 5
# From the end of the lease on: the destination looks every second, then lets it run.
AND_A_BIT = 5


@pytest.fixture(scope="module")
def arbiter_lab(moving_lab):
    moving_lab.start_etcd()
    moving_lab.use_arbiter(lease_s=LEASE)
    yield moving_lab
    moving_lab.use_no_arbiter()
    moving_lab.stop_etcd()


@pytest.fixture
def scene(arbiter_lab):
    s = Scene(arbiter_lab)
    yield s
    arbiter_lab.host("azure").run("nft delete table inet words", check=False)
    for host in arbiter_lab.clouds():
        if deploy.daemon_pid(host.record) == 0:
            start_daemon(host)
    start_etcd_again(arbiter_lab)
    s.close()


@pytest.fixture
def far(arbiter_lab):
    """What is said takes its time: enough to do something before it is heard."""
    arbiter_lab.shape("azure", delay="100ms")
    yield
    arbiter_lab.clear_shape("azure")


class WorstMoment:
    """A move whose destination is parked, while its source cannot hear of it."""

    def __init__(self, s, *options):
        self.s, self.aws, self.azure = s, s.lab.host("aws"), s.lab.host("azure")
        self.watch = Watch(self.aws, self.azure)
        self.move = RunningMove(self.aws, "redis", "azure", options or ("--mode", "stop-copy"))
        assert self.move.wait_phase("restore"), self.move.lines[-3:]
        self.lost = words_lost(self.azure, to=self.aws)
        self.lost.__enter__()
        self.id = self.move.lines[0]["move_id"]
        wait_parked(self.azure, self.id)
        assert frozen(self.aws) and frozen(self.azure)

    def answers_arrive(self):
        self.lost.__exit__(None, None, None)


# ---- nothing happens

def test_a_move_that_etcd_decides(arbiter_lab, scene):
    aws = scene.home
    plan = aws.run(["transship", "plan", "redis", "--to", "azure", "--json"]).stdout
    assert '"arbiter"' in plan and "answers in" in plan, plan
    info = json.loads(aws.run(["transship", "node", "info", "--json"]).stdout)
    assert info["arbiter"].startswith("etcd ") and info["arbiter"].endswith(" /transship") and info["arbiter_error"] == ""
    outcome = move(aws, "redis", "azure")
    assert outcome.code == DONE, outcome.lines[-1]
    assert register(arbiter_lab, outcome.summary["move_id"]) == {"decision": "commit aws"}
    leases = etcd.etcdctl(arbiter_lab.state, "lease", "list").stdout
    assert "found 1 leases" in leases, leases  # the thirty days of that decision
    scene.check_runs_on("azure")


def test_gap_with_and_without_etcd(arbiter_lab):
    """Printed; and what etcd takes of the gap is bounded. The disk is that of the lab's files."""
    gaps, decide = {}, {}

    def measure(name, s, rounds=8):
        outcomes = []
        for n in range(rounds):
            names = ["aws", "azure"]
            outcomes.append(move(s.lab.host(names[n % 2]), "redis", names[(n + 1) % 2]))
            assert outcomes[-1].code == DONE, outcomes[-1].lines[-1]
        gaps[name] = statistics.median(o.summary["gap_ms"] for o in outcomes)
        decide[name] = statistics.median(o.summary["gap_parts_ms"]["decide"] for o in outcomes)

    arbiter_lab.use_no_arbiter()
    arbiter_lab.stop_etcd()
    s = Scene(arbiter_lab, clients=0)
    try:
        measure("without", s)
        for name, data in (("etcd in memory", etcd.ON_TMPFS), ("etcd on disk", etcd.ON_DISK)):
            arbiter_lab.start_etcd(data)
            arbiter_lab.use_arbiter(lease_s=LEASE)
            measure(name, s)
            arbiter_lab.stop_etcd()
        arbiter_lab.use_no_arbiter()
        measure("without, again", s)
        print("gap, ms: ", {k: round(v, 1) for k, v in gaps.items()}, " the decision of it: ", {k: round(v, 1) for k, v in decide.items()})
        assert decide["etcd in memory"] - min(decide["without"], decide["without, again"]) <= 15
    finally:
        arbiter_lab.stop_etcd()
        arbiter_lab.start_etcd()
        arbiter_lab.use_arbiter(lease_s=LEASE)
        s.close()


# ---- a host is gone for good

@pytest.mark.parametrize("what", ["host", "daemon"])
def test_the_source_dies(far, scene, what):
    """Of a host nothing is left; of a daemon the tasks, which the next one finds frozen, and kills."""
    at = WorstMoment(scene)
    begin = time.monotonic()
    kill_daemon(at.aws)
    if what == "host":
        kill_tasks(at.aws)
    at.answers_arrive()
    wait_for("the container runs on azure", lambda: not frozen(at.azure), LEASE + AND_A_BIT)
    print(f"it runs on azure {time.monotonic() - begin:.1f} s after the end of aws")
    assert register(scene.lab, at.id)["decision"] == "commit azure"
    scene.redis.wait_answer(at.azure)
    at.move.outcome()
    assert what == "host" or frozen(at.aws)
    start_daemon(at.aws)
    scene.check_runs_on("azure", seconds=30)
    at.watch.check_never_two()


def test_the_source_is_cut_off_and_comes_back(far, scene):
    """From etcd and from the destination. Its tasks stand still, and are killed when it hears what was decided."""
    at = WorstMoment(scene)
    with link_cut(at.aws):
        begin = time.monotonic()
        at.answers_arrive()
        wait_for("the container runs on azure", lambda: not frozen(at.azure), LEASE + AND_A_BIT)
        print(f"it runs on azure {time.monotonic() - begin:.1f} s after the link of aws was cut")
        scene.redis.wait_answer(at.azure)
        for _ in range(8):
            time.sleep(1)
            assert frozen(at.aws)
    outcome = at.move.outcome()
    assert outcome.code == DONE, outcome.lines[-1]
    scene.check_runs_on("azure", seconds=30)
    ran = at.watch.check_never_two()
    assert all(until - since < DYING for since, until in ran["aws"] if until > begin), ran


def test_an_operator_is_one_more_who_decides(far, scene):
    at = WorstMoment(scene)
    at.azure.run(["transship", "resolve", at.id, "--abort", "--yes"])
    assert register(scene.lab, at.id)["decision"] == "abort azure"
    at.answers_arrive()
    outcome = at.move.outcome()
    assert outcome.code == ROLLED_BACK and "abort" in outcome.error["message"], outcome.lines[-1]
    scene.check_runs_on("aws", seconds=30)
    at.watch.check_never_two()


def test_the_destination_dies(far, scene):
    at = WorstMoment(scene)
    kill_daemon(at.azure)
    kill_tasks(at.azure)
    # Not before that: azure's kernel would still say that it is ready.
    outcome = at.move.outcome()
    assert outcome.code == ROLLED_BACK, outcome.lines[-1]
    at.answers_arrive()
    assert register(scene.lab, at.id) == {"decision": "abort aws"}
    scene.redis.wait_answer(at.aws)
    start_daemon(at.azure)
    scene.check_runs_on("aws", seconds=30)
    at.watch.check_never_two()


# ---- the link between the two

def test_cut_off_from_each_other_before_the_commit(far, scene):
    at = WorstMoment(scene)
    with words_lost(at.aws, said_by=at.azure):
        outcome = at.move.outcome()
        assert outcome.code == ROLLED_BACK, outcome.lines[-1]
        wait_for("the end of the parked container", lambda: not frozen(at.azure), 10)
        scene.redis.wait_answer(at.aws)
    at.answers_arrive()
    scene.check_runs_on("aws", seconds=30)
    at.watch.check_never_two()


def test_cut_off_from_each_other_after_the_commit(far, scene):
    """azure reads it in etcd."""
    aws, azure = scene.home, scene.lab.host("azure")
    watch = Watch(aws, azure)
    running = RunningMove(aws, "redis", "azure", ("--mode", "stop-copy"))
    assert running.wait_phase("commit"), running.lines[-3:]
    with words_lost(aws, said_by=azure):
        wait_for("the container runs on azure", lambda: scene.redis.copies(azure) == 1 and not frozen(azure), 10)
        scene.redis.wait_answer(azure)
    outcome = running.outcome()
    assert outcome.code == DONE, outcome.lines[-1]
    scene.check_runs_on("azure", seconds=30)
    watch.check_never_two()


# ---- etcd

def test_one_node_of_etcd_dies(scene):
    running = RunningMove(scene.home, "redis", "azure")
    assert running.wait_phase("ready")
    kill_etcd(scene.lab, "etcd-1")
    outcome = running.outcome()
    assert outcome.code == DONE, outcome.lines[-1]
    scene.check_runs_on("azure")


def test_without_a_majority_nothing_begins(scene):
    kill_etcd(scene.lab, "etcd-1", "etcd-3")
    outcome = move(scene.home, "redis", "azure")
    assert outcome.code == REFUSED and "arbiter" in outcome.error["message"], outcome.lines[-1]
    assert "etcdctl" in outcome.error["remedy"]
    info = json.loads(scene.home.run(["transship", "node", "info", "--json"]).stdout)
    assert info["arbiter_error"]
    scene.check_runs_on("aws")


def test_without_a_majority_what_began_is_taken_back(far, scene):
    watch = Watch(scene.home, scene.lab.host("azure"))
    running = RunningMove(scene.home, "redis", "azure", ("--mode", "stop-copy"))
    assert running.wait_phase("restore")
    kill_etcd(scene.lab, "etcd-1", "etcd-2")
    outcome = running.outcome()
    assert outcome.code == ROLLED_BACK and "decision" in outcome.error["message"], outcome.lines[-1]
    scene.redis.wait_answer(scene.home)
    start_etcd_again(scene.lab)
    scene.check_runs_on("aws")
    watch.check_never_two()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_without_a_majority_and_without_the_destination_it_stands_still(far, scene, signal):
    """Also for the next daemon, however this one ended; until etcd is back."""
    at = WorstMoment(scene)
    kill_etcd(scene.lab, "etcd-2", "etcd-3")
    kill_daemon(at.aws, signal)
    at.move.outcome()
    start_daemon(at.aws)
    for _ in range(LEASE + AND_A_BIT):
        time.sleep(1)
        assert frozen(at.aws) and frozen(at.azure)
    start_etcd_again(scene.lab)
    wait_for("the container runs on one of them", lambda: not frozen(at.aws) or not frozen(at.azure), 20)
    at.answers_arrive()
    where = "aws" if register(scene.lab, at.id)["decision"].startswith("abort") else "azure"
    scene.check_runs_on(where, seconds=30)
    at.watch.check_never_two()


def test_etcd_is_gone_for_good(far, scene):
    """What began with it ends by the operator's word, said on both sides."""
    at = WorstMoment(scene)
    told = at.azure.run(["transship", "resolve", at.id, "--abort", "--without-arbiter", "--yes"], check=False)
    assert told.returncode == REFUSED and "answers" in told.stderr, told.stderr
    kill_etcd(scene.lab, "etcd-2", "etcd-3")
    kill_daemon(at.aws)
    at.move.outcome()
    start_daemon(at.aws)
    told = at.azure.run(["transship", "resolve", at.id, "--abort", "--yes"], check=False)
    assert told.returncode != DONE and "--without-arbiter" in told.stderr, told.stderr
    assert frozen(at.aws) and frozen(at.azure)
    risk = at.aws.run(["transship", "resolve", at.id, "--abort", "--without-arbiter"], check=False).stderr
    assert "TWO COPIES" in risk and "say the same on azure" in risk
    at.azure.run(["transship", "resolve", at.id, "--abort", "--without-arbiter", "--yes"])
    wait_for("the end of the parked container", lambda: not frozen(at.azure), 10)
    assert scene.redis.copies(at.azure) == 0
    at.aws.run(["transship", "resolve", at.id, "--abort", "--without-arbiter", "--yes"])
    wait_for("the container runs on aws", lambda: not frozen(at.aws), 10)
    scene.redis.wait_answer(at.aws)
    at.answers_arrive()
    start_etcd_again(scene.lab)
    scene.check_runs_on("aws", seconds=30)
    at.watch.check_never_two()


# ---- what cannot be taken over, and what does not fit

def test_in_post_copy_nothing_is_taken_over(far, scene):
    """The memory is gone with the source: what is parked is ended, and the source, should it come back, runs."""
    aws, azure = scene.home, scene.lab.host("azure")
    watch = Watch(aws, azure)
    running = RunningMove(aws, "redis", "azure", ("--mode", "post-copy"))
    assert running.wait_phase("restore"), running.lines[-1]
    kill_daemon_when_parked(aws, azure, running.lines[0]["move_id"])
    wait_for("the end of the parked container", lambda: not frozen(azure), LEASE + AND_A_BIT)
    assert scene.redis.copies(azure) == 0 and frozen(aws)
    assert register(scene.lab, running.lines[0]["move_id"]) == {"decision": "abort azure"}
    running.outcome()
    start_daemon(aws)
    scene.check_runs_on("aws", seconds=30)
    watch.check_never_two()


def test_both_must_have_the_same(arbiter_lab, scene):
    try:
        arbiter_lab.use_no_arbiter(hosts=["azure"])
        outcome = move(scene.home, "redis", "azure")
        assert outcome.code == REFUSED and "azure does not" in outcome.error["message"], outcome.lines[-1]
        arbiter_lab.use_arbiter(lease_s=LEASE, prefix="/other", hosts=["azure"])
        outcome = move(scene.home, "redis", "azure")
        assert outcome.code == REFUSED and "/other there" in outcome.error["message"], outcome.lines[-1]
    finally:
        arbiter_lab.use_arbiter(lease_s=LEASE)
    scene.check_runs_on("aws")
