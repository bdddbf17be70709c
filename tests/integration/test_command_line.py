"""What scripts are promised by `transship`: what is null, what is an error, which exit code."""

import json

from moving import FAILED, REFUSED
from test_move_fails import restart_daemon


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_answer_that_cannot_be_written_is_a_failure(moving_lab):
    aws = moving_lab.host("aws")
    for command in ("node info --json", "version", "peer ls", "--help"):
        done = aws.run(f"transship {command} >/dev/full", check=False)
        assert done.returncode == FAILED and "No space left" in done.stderr, command
    assert aws.run("transship node info --json | true", check=False).stderr == ""


def test_what_was_not_measured_is_null(scene):
    s = scene(mib=1, clients=0)
    azure = s.lab.host("azure")
    azure.stop_service("transshipd")
    try:
        done = s.home.run(["transship", "plan", "redis", "--to", "azure", "--json"], check=False, timeout=60)
    finally:
        restart_daemon(azure)
    plan = lines(done)[-1]
    assert done.returncode == REFUSED and plan["blocked"]
    assert (plan["rtt_ms"], plan["bits_per_second"]) == (None, None)
    blocking = [row for row in lines(done)[:-1] if row["verdict"] == "blocks"]
    assert [row["check"] for row in blocking] == ["connectivity"]
    # Once: "connect to 10.20.1.2:7440: Connection refused".
    assert blocking[0]["found"].count(azure.address) == 1


def test_usage_errors_come_before_any_answer(moving_lab):
    aws = moving_lab.host("aws")
    for command in ("frob", "peer frob", "plan redis", "move redis --to azure --bwlimit 1kbit --json",
                    "peer add x 10.99.1.2 --fingerprint zzz --json", "moves -n 0", "show ''"):
        done = aws.run(f"transship {command}", check=False)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert done.stderr.endswith("Run with --help for more information.\n"), done.stderr
