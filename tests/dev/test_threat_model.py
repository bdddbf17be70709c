"""Every test that docs/threat-model.md names is there, and every line of its tables names one."""

import re

import pytest
from conftest import SOURCE

PAGE = SOURCE / "docs/threat-model.md"
HERE = "tests/integration/test_hostile_peer.py"  # where names without a file are
TEST = re.compile(r"`((?:(?:src|tests)/[\w/]+\.(?:cc|py)::)?(?:test_\w+|\w+\.\w+))`")


def lines():
    """(line number, its last cell) of the tables about what somebody may try."""
    inside = False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if not line.startswith("|"):
            inside = False
        elif line.rstrip().endswith("| test |"):
            inside = True
        elif inside and not line.startswith("| ---"):
            yield number, line.rstrip(" |").rsplit("|", 1)[-1]


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


@pytest.mark.parametrize("number, cell", [pytest.param(n, c, id=f"line {n}") for n, c in lines()])
def test_every_line_names_tests_that_exist(number, cell):
    names = TEST.findall(cell)
    assert names, f"{PAGE}:{number} names no test: {cell}"
    assert [name for name in names if not exists(name)] == []


@pytest.mark.parametrize("name", ["test_no_such", "tests/integration/test_peers.py::test_no_such", "src/none_test.cc::A.B"])
def test_a_name_of_nothing_is_found_out(name):
    assert not exists(name)
