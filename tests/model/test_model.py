"""The model of a move's decision: each property holds in every run, and each deliberate mistake is found."""

import importlib.util
import pathlib
import sys

import pytest

CHECK = pathlib.Path(__file__).resolve().parents[2] / "model/check.py"


def load(path):
    spec = importlib.util.spec_from_file_location("model_check", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


model = load(CHECK)


@pytest.fixture(scope="module")
def workshop():
    with model.Workshop() as made:
        yield made


@pytest.mark.parametrize("check", model.checks(), ids=lambda check: check.name)
def test_model(workshop, check):
    outcome = workshop.check(check)
    print(model.line(check, outcome))
    assert outcome.found == model.expected(check), outcome.log


def test_every_mistake_in_the_model_has_a_check():
    assert set(model.mistakes_in_the_model()) == set(model.MISTAKES)


@pytest.mark.parametrize(
    "report, found",
    [
        ("Full statespace search for:\nState-vector 36 byte, depth reached 9, errors: 0\n", "holds"),
        ("Full statespace search for:\nState-vector 36 byte, depth reached 9, errors: 1\n", "violated"),
        (
            "error: max search depth too small\nFull statespace search for:\nState-vector 36 byte, errors: 0\n",
            "the search was not deep enough",
        ),
        (
            "pan: reached -DMEMLIM bound\nWarning: Search not completed\nFull statespace search for:\nerrors: 0\n",
            "the search ran out of memory",
        ),
        ("Bit statespace search for:\nState-vector 36 byte, errors: 0\n", "the program ended without a result"),
        ("", "the program ended without a result"),
    ],
)
def test_a_search_that_saw_less_than_everything_proves_nothing(report, found):
    assert model.read_report(report).found == found
