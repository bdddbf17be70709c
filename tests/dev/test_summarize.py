"""tools/dev/summarize.py: nothing that went wrong may look like success."""

import subprocess
import sys

import pytest
from conftest import SOURCE

CTEST = """<testsuite>
  <testcase name="base.Fd.Moves" classname="base.Fd.Moves" status="run"/>
  <testcase name="sys.Probe.Wp" classname="sys.Probe.Wp" status="notrun"><skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
    <system-out>[ RUN      ] Probe.Wp
/src/src/sys/sys_test.cc:12: Skipped
no userfaultfd here
</system-out></testcase>
</testsuite>"""
PYTEST = """<testsuites><testsuite>
  <testcase classname="tests.move" name="test_a"/>
  <testcase classname="tests.move" name="test_b"><failure message="assert 1 == 2">long text</failure></testcase>
  <testcase classname="tests.move" name="test_c"><skipped message="no soft-dirty on this kernel"/></testcase>
  <testcase classname="tests.move" name="test_d"><error message="failed on setup">long text</error></testcase>
</testsuite></testsuites>"""
ALL_GOOD = '<testsuite><testcase classname="a" name="b"/></testsuite>'


@pytest.fixture
def summarize(tmp_path):
    def run(**stages):
        """NAME=(exit code, text of its JUnit file or None)"""
        paths = []
        for name, (status, text) in stages.items():
            paths.append(tmp_path / f"{name}.xml")
            (tmp_path / f"{name}.status").write_text(f"{status}\n")
            if text is not None:
                paths[-1].write_text(text)
        command = [sys.executable, SOURCE / "tools/dev/summarize.py", *paths]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return result.returncode, result.stdout.splitlines()

    return run


def test_adds_up_both_kinds_and_gives_reasons(summarize):
    status, lines = summarize(unit=(0, CTEST), integration=(1, PYTEST))
    assert status == 1
    assert lines == [
        "SKIPPED sys.Probe.Wp: no userfaultfd here",
        "SKIPPED tests.move.test_c: no soft-dirty on this kernel",
        "FAILED tests.move.test_b: assert 1 == 2",
        "FAILED tests.move.test_d: failed on setup",
        "2 passed, 2 failed, 2 skipped",
    ]


def test_skips_alone_are_not_a_failure(summarize):
    assert summarize(unit=(0, CTEST)) == (0, ["SKIPPED sys.Probe.Wp: no userfaultfd here", "1 passed, 0 failed, 1 skipped"])


@pytest.mark.parametrize("status, text", [(139, None), (1, ALL_GOOD), (0, None), (2, "<testsuite><testcase")])
def test_a_stage_that_broke_counts_as_a_failure(summarize, status, text):
    code, lines = summarize(unit=(0, ALL_GOOD), integration=(status, text))
    assert code == 1
    assert lines[-1].split(", ")[1] == "1 failed"
    assert any("stage integration" in line for line in lines)


def test_no_tests_at_all_is_a_failure(summarize):
    code, lines = summarize(unit=(0, "<testsuite/>"), tools=(5, "<testsuites/>"))
    assert code == 1
    assert lines[-1] == "0 passed, 0 failed, 0 skipped"
