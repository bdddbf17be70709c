"""Every test that these pages name is there, and every line of their tables of tests names one."""

import re

import pytest
from conftest import SOURCE

PAGES = [SOURCE / "docs" / name for name in ("promises.md", "threat-model.md")]
HERE = "tests/integration/test_hostile_peer.py"  # where names without a file are
TEST = re.compile(r"`((?:(?:src|tests)/[\w/]+\.(?:cc|py)::)?(?:test_\w+|\w+\.\w+))`")


def lines():
    """(page, line number, its last cell) of the tables whose last column names tests."""
    for page in PAGES:
        inside = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if not line.startswith("|"):
                inside = False
            elif line.rstrip().endswith("| test |"):
                inside = True
            elif inside and not line.startswith("| ---"):
                yield page.name, number, line.rstrip(" |").rsplit("|", 1)[-1]


def exists(name: str) -> bool:
    file, _, test = name.rpartition("::")
    path = SOURCE / (file or HERE)
    if not path.is_file():
        return False
    if path.suffix == ".py":
        return re.search(rf"^def {test}\(", path.read_text(), re.M) is not None
    suite, _, case = test.partition(".")
    return re.search(rf"^TEST(?:_F|_P)?\({suite}, {case}\)", path.read_text(), re.M) is not None


def test_there_are_lines():
    assert len(list(lines())) > 30


@pytest.mark.parametrize("page, number, cell", [pytest.param(*line, id=f"{line[0]}, line {line[1]}") for line in lines()])
def test_every_line_names_tests_that_exist(page, number, cell):
    names = TEST.findall(cell)
    assert names, f"{page}:{number} names no test: {cell}"
    assert [name for name in names if not exists(name)] == []


@pytest.mark.parametrize("name", ["test_no_such", "tests/integration/test_peers.py::test_no_such", "src/none_test.cc::A.B"])
def test_a_name_of_nothing_is_found_out(name):
    assert not exists(name)
