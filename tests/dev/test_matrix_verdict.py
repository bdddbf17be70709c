"""What a row of ./dev matrix is worth: nothing passes that no client has checked. And the page that the table goes into."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit.errors import LabError  # noqa: E402
from matrixkit import docs, table  # noqa: E402
from matrixkit.verdict import CANNOT, FAIL, PASS, Move, Report, Row, judge  # noqa: E402


def row(**changes) -> Row:
    """One that passes, but for the changes."""
    there, back = (Move(a, b, 1000.0, 100.0, 1 << 20, s) for a, b, s in (("aws", "azure", 120.0), ("azure", "aws", 160.0)))
    whole = {"app": "x", "what": "an x", "promises": ("answers", "sums"), "wanted": 2, "checks": "sums and more", "moves": [there, back],
             "reports": [Report("one", {"answers": 10}), Report("two", {"answers": 5, "sums": 1})]}
    return Row(**{**whole, **changes})


def test_what_passes():
    assert judge(row()) == (PASS, "")


@pytest.mark.parametrize("changes, why", [
    ({"reports": []}, "no client has checked anything"),
    ({"promises": ()}, "no client has checked anything"),
    ({"reports": [Report("one", {})]}, "no client has checked: answers"),
    ({"reports": [Report("one", {"answers": 10, "sums": 0})]}, "no client has checked: sums"),
    ({"reports": [Report("one", {"answers": 10, "sums": 1}, ["answer 3: 5 instead of 4"])]}, "one: answer 3: 5 instead of 4"),
    ({"moves": []}, "0 of 2 moves"),
    ({"moves": row().moves[:1], "refusal": "no space there"}, "move 2 of 2: no space there"),
    ({"trouble": ["left behind: a mount"]}, "left behind: a mount"),
])
def test_what_fails(changes, why):
    verdict, text = judge(row(**changes))
    assert verdict == FAIL and why in text


class TestOneThatCannotMove:
    limit = {"limit": "volumes stay", "moves": []}

    def test_is_right_when_it_is_refused_and_its_clients_notice_nothing(self):
        assert judge(row(**self.limit, refusal="it has a volume", rolled_back=True)) == (CANNOT, "volumes stay")

    @pytest.mark.parametrize("changes", [
        {},                                                        # it has moved
        {"refusal": "it is gone", "rolled_back": False},
        {"refusal": "it has a volume", "rolled_back": True, "reports": []},
        {"refusal": "it has a volume", "rolled_back": True, "reports": [Report("one", {"answers": 1, "sums": 1}, ["reset"])]},
    ])
    def test_else_fails(self, changes):
        assert judge(row(**{**self.limit, **changes}))[0] == FAIL


def test_figures_are_of_the_moves_that_were_done():
    found = table.figures(row())
    assert (found["moves"], found["silence_ms_longest"], found["silence_ms_median"], found["frozen_ms_median"]) == (2, 160.0, 140.0, 100.0)
    assert table.figures(row(moves=[]))["silence_ms_longest"] is None


def test_the_table_goes_between_its_marks_and_again(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{docs.BEGIN}\nold\n{docs.END}\nafter\n")
    for _ in range(2):
        docs.write(page, [row(needs="`a = b`"), row(app="y", needs="`c`", trouble=["it is `gone`"])], 1)
        text = page.read_text()
        assert text.startswith(f"before\n{docs.BEGIN}\n") and text.endswith(f"{docs.END}\nafter\n") and "old" not in text
        assert text.count("`x`: an x | pass | 2 | 140 / 160 | 100 / 100 | 1.0 | sums and more (15 answers, 1 sums)") == 1
        assert "`y` fails: it is 'gone'" in text and "`x` is set for it: `a = b`" in text and "`c`" not in text
    page.write_text("no place for it\n")
    with pytest.raises(LabError):
        docs.write(page, [row()], 1)
