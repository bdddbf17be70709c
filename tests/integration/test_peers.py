"""Trust between real daemons: pinning by fingerprint and over ssh, and what a stranger gets."""

import json

import pytest

from labkit import deploy


def info(host):
    return json.loads(host.run(["transship", "node", "info", "--json"]).stdout)


@pytest.fixture
def pair(moving_lab):
    """aws and azure without each other's keys; afterwards they have them again."""
    aws, azure = moving_lab.host("aws"), moving_lab.host("azure")
    aws.run(["transship", "peer", "rm", "azure"])
    azure.run(["transship", "peer", "rm", "aws"])
    yield aws, azure
    deploy.pin_all([h.record for h in moving_lab.clouds()])


def peers(host):
    return host.run(["transship", "peer", "ls"]).stdout


def test_ssh_exchanges_the_keys_both_ways(pair):
    aws, azure = pair
    aws.run(["transship", "peer", "add", "azure", "--ssh", "root@azure", "--own-address", aws.address], timeout=60)
    assert info(azure)["fingerprint"] in peers(aws)
    assert info(aws)["fingerprint"] in peers(azure)
    assert aws.run(["transship", "peer", "check", "azure"], timeout=60).returncode == 0
    assert azure.run(["transship", "peer", "check", "aws"], timeout=60).returncode == 0


def test_ssh_does_not_go_on_with_an_unknown_host_key(pair):
    aws, azure = pair
    aws.run("cp /root/.ssh/known_hosts /root/.ssh/kept && : > /root/.ssh/known_hosts")
    try:
        done = aws.run(["transship", "peer", "add", "azure", "--ssh", "root@azure"], check=False, timeout=60)
        assert done.returncode != 0
        assert "ssh" in done.stderr
        assert info(azure)["fingerprint"] not in peers(aws)
    finally:
        aws.run("mv /root/.ssh/kept /root/.ssh/known_hosts")


def test_a_fingerprint_that_is_not_the_peers_is_refused(pair):
    aws, azure = pair
    done = aws.run(["transship", "peer", "add", "azure", azure.address, "--fingerprint", info(aws)["fingerprint"]], check=False)
    assert done.returncode != 0
    assert "azure" not in peers(aws)


def test_a_known_peer_gets_another_address(pair):
    aws, azure = pair
    add = ["transship", "peer", "add", "azure"]
    key = ["--fingerprint", info(azure)["fingerprint"]]
    assert f"azure at {azure.address}:7440 is now trusted" in aws.run([*add, azure.address, *key]).stdout
    assert "azure at [fd00:20:1::2]:7440 is still trusted" in aws.run([*add, "fd00:20:1::2", *key]).stdout
    assert "[fd00:20:1::2]:7440" in peers(aws)


def test_a_host_without_an_address_is_not_blamed_on_its_daemon(pair):
    done = pair[0].run(["transship", "peer", "add", "x", "nowhere.invalid"], check=False, timeout=60)
    assert done.returncode == 1 and "no address is known" in done.stderr and "resolver" in done.stderr


def test_half_a_trust_is_no_trust(pair):
    aws, azure = pair
    aws.run(["transship", "peer", "add", "azure", azure.address, "--fingerprint", info(azure)["fingerprint"]])
    done = aws.run(["transship", "peer", "check", "azure"], check=False, timeout=60)
    assert done.returncode != 0
    assert "peer add" in done.stderr + done.stdout  # what to do on the other side


def test_a_stranger_gets_nothing(moving_lab):
    """No client certificate, and TLS 1.2: refused before a byte of the protocol."""
    aws = moving_lab.host("aws")
    code = (
        "import socket,ssl,sys\n"
        "for top in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n"
        "    c=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname=False; c.verify_mode=ssl.CERT_NONE; c.maximum_version=top\n"
        "    try:\n"
        "        s=c.wrap_socket(socket.create_connection((sys.argv[1],7440),5)); s.settimeout(5); s.sendall(b'x'*64); got=s.recv(1)\n"
        "        print('answered' if got else 'closed')\n"
        "    except (ssl.SSLError, ConnectionError) as e: print('refused')\n")
    answers = moving_lab.host("client").run(["python3", "-c", code, aws.address], timeout=30).stdout.split()
    assert len(answers) == 2 and set(answers) <= {"refused", "closed"}


def test_only_root_reaches_the_daemon(moving_lab):
    aws = moving_lab.host("aws")
    assert aws.run(["stat", "-c", "%a %U", "/run/transship/transshipd.sock"]).stdout.strip() == "600 root"
    done = aws.run(["setpriv", "--reuid", "65534", "--clear-groups", "transship", "ps"], check=False)
    assert done.returncode == 1 and "root" in done.stderr


def test_the_configuration_is_checked(moving_lab):
    aws = moving_lab.host("aws")
    done = aws.run(["transshipd", "--check-config"])
    assert 'node.name = "aws"' in done.stdout
    aws.put("/tmp/bad.toml", "[node]\nnmae = 1\n")
    done = aws.run(["transshipd", "--config", "/tmp/bad.toml", "--check-config"], check=False)
    assert done.returncode == 2 and "/tmp/bad.toml:2" in done.stderr
    aws.put("/tmp/bad.toml", '[cutover]\ndriver = "hook"\nhook = "/no/such/hook now"\n')
    done = aws.run(["transshipd", "--config", "/tmp/bad.toml", "--check-config"], check=False)
    assert done.returncode == 2 and "/no/such/hook" in done.stderr and done.stdout == ""
