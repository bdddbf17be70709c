"""The policy file of a destination: what it says to the plan and to a move, read again, and wrong."""

import json

import pytest

from labkit import deploy, services
from moving import DONE, REFUSED, ROLLED_BACK, Scene, move

FILE = "/etc/transship/policy.toml"
LOG = "/var/log/transship/transshipd.log"


@pytest.fixture
def azure(moving_lab):
    azure = moving_lab.host("azure")
    before = azure.get(FILE)
    yield azure
    azure.put(FILE, before)
    read_again(azure)


def read_again(host, words="was read again"):
    mark = int(host.run(["stat", "-c", "%s", LOG]).stdout)
    host.run("kill -HUP $(pidof transshipd)")
    services.wait_until(f"the policy of {host.name}", lambda: words in host.run(f"tail -c +{mark + 1} {LOG}").stdout)


@pytest.fixture
def scene(moving_lab):
    made = []

    def make(*options):
        made.append(Scene(moving_lab, mib=1, options=options, clients=1))
        return made[-1]

    yield make
    for s in made:
        s.close()


def policy_row(host):
    done = host.run(["transship", "plan", "redis", "--to", "azure", "--json"], check=False, timeout=60)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return next(row for row in rows if row.get("check") == "policy")


def test_what_it_refuses_is_a_row_and_what_it_allows_moves(scene, azure):
    s = scene("--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE")
    row = policy_row(s.home)
    assert row["found"] == "azure refuses: capability NET_ADMIN; capability SYS_PTRACE"
    for words in ('"NET_ADMIN" in allow.capabilities', FILE, "azure"):
        assert words in row["remedy"], row
    refused = move(s.home, "redis", "azure")
    assert refused.code == REFUSED and "policy: azure refuses: capability NET_ADMIN" in refused.error["message"], refused.lines[-1]
    azure.put(FILE, '[peer.openstack.allow]\ncapabilities = ["ALL"]\n')
    read_again(azure)
    assert move(s.home, "redis", "azure").code == REFUSED  # another one's
    azure.put(FILE, '[peer.aws.allow]\ncapabilities = ["NET_ADMIN", "SYS_PTRACE"]\n')
    read_again(azure)
    outcome = move(s.home, "redis", "azure")
    assert outcome.code == DONE, outcome.lines[-1]
    s.check_runs_on("azure")


def test_a_wrong_one_changes_nothing_and_starts_nothing(scene, azure):
    s = scene("--cap-add", "NET_ADMIN")
    azure.put(FILE, '[allow]\ncapabilities = ["NET_ADMIN"]\n')
    read_again(azure)
    azure.put(FILE, '[allow]\n\ncapabilitys = ["ALL"]\n')
    read_again(azure, f'the one in force stays: {FILE}:3: no such value "capabilitys"')
    assert policy_row(s.home)["found"] == "azure allows all that it needs"
    done = azure.run(["transshipd", "--check-config"], check=False)
    assert done.returncode == 2 and f"{FILE}:3" in done.stderr and done.stdout == ""
    deploy.stop_daemon(azure.record)
    try:
        started = azure.run(["transshipd"], check=False, timeout=20)
        assert started.returncode == 2 and f"{FILE}:3" in started.stderr
    finally:
        azure.put(FILE, "")
        deploy.start_daemon(azure.record)
        services.wait_until("transshipd on azure", lambda: deploy.daemon_answers(azure.record))
    done = azure.run(["transshipd", "--check-config"])
    assert "allow.privileged = false" in done.stdout and "limits.memory_mib = 0" in done.stdout
    s.check_runs_on("aws")


def test_limits(scene, azure):
    azure.put(FILE, "[limits]\nmemory_mib = 512\nreserved_mib = 1\n")
    read_again(azure)
    s = scene()
    assert "no limit of its memory" in policy_row(s.home)["found"]
    azure.put(FILE, "[limits]\nreserved_mib = 1\n")
    read_again(azure)
    outcome = move(s.home, "redis", "azure")
    assert outcome.code in (REFUSED, ROLLED_BACK) and "limits.reserved_mib" in outcome.error["remedy"], outcome.lines[-1]
    s.check_runs_on("aws")


def test_what_the_engine_here_does_not_give_is_not_taken_from_images(scene, azure):
    """The tasks come with the capabilities that the source's engine gives; the kernel's word decides, before any of them runs."""
    conf = "/etc/containers/containers.conf.d/99-few.conf"
    s = scene()
    azure.put(conf, '[containers]\ndefault_capabilities = ["SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE"]\n')
    restart(azure)
    try:
        outcome = move(s.home, "redis", "azure")
        assert outcome.code == ROLLED_BACK and "capabilities that it may not have" in outcome.error["message"], outcome.lines[-1]
    finally:
        azure.run(["rm", "-f", conf])
        restart(azure)
    s.check_runs_on("aws")


def restart(host):
    deploy.stop_daemon(host.record)
    deploy.start_daemon(host.record)
    services.wait_until(f"transshipd on {host.name}", lambda: deploy.daemon_answers(host.record))
