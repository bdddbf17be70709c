"""./dev matrix in small: the kit moves an application and sees its clients' checks, also when something is wrong with it.

    client: programs of lab/matrixkit/clients ── container on aws or azure
"""

from pathlib import Path

from matrixkit import run
from matrixkit.apps import APPS
from matrixkit.apps.sessions import Asyncio
from matrixkit.verdict import CANNOT, FAIL, PASS, judge

SERVERS = Path(run.__file__).resolve().parent / "servers"


def test_nginx_and_its_downloads(moving_lab):
    row = run.run(moving_lab, APPS["nginx"], 1, print)
    assert judge(row) == (PASS, "")
    assert [m.destination for m in row.moves] == ["azure", "aws"]
    assert all(m.silence_ms > 0 and m.frozen_ms > 0 and m.bytes_sent > 0 for m in row.moves)
    assert row.checked()["downloads"] >= 1 and row.versions.startswith("nginx ")


class LosesOneTick(Asyncio):
    """A server as it would be after something was lost."""

    def before_start(self, host):
        text = (SERVERS / "session.py").read_text()
        broken = text.replace("number += 1\n", "number += 2 if number == 50 else 1\n")
        assert broken != text
        host.put("/tmp/session.py", broken)
        host.run(["podman", "cp", "/tmp/session.py", f"{self.name}:/usr/lib/session.py"])


def test_a_client_that_misses_something_fails_its_row(moving_lab):
    verdict, why = judge(run.run(moving_lab, LosesOneTick, 1, print))
    assert verdict == FAIL and "ticks: 52 instead of 51" in why


def test_what_cannot_move_goes_on(moving_lab):
    row = run.run(moving_lab, APPS["shared-volume"], 1, print)
    assert judge(row)[0] == CANNOT and "is used by podman:neighbour as well" in row.refusal
    assert row.checked()["answers"] > 0
