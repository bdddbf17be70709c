#!/usr/bin/env python3
"""Adds up the JUnit files of ctest and pytest that one `./dev test` left, beside each a .status with the exit code.

Prints every failed and every skipped test with its reason; the last line is `N passed, N failed, N skipped`. Exits with
1 when a test failed, when a stage ended badly without a failed test to show for it, or when nothing ran at all.
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

PYTEST_NO_TESTS_MATCHED = 5


def first_line(text):
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "")


def skip_reason(case, skipped):
    """ctest only knows that a pattern matched; GoogleTest's own reason follows the line `file:line: Skipped`."""
    output = case.findtext("system-out") or ""
    found = re.search(r"^.*: Skipped\n(?P<reason>.+)$", output, re.MULTILINE)
    if found:
        return found["reason"].strip()
    return first_line(skipped.get("message")) or first_line(skipped.text) or "no reason given"


def read_cases(path):
    """(outcome, name, reason) of each test in one JUnit file."""
    for case in ElementTree.parse(path).iter("testcase"):
        name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
        if case.get("classname") == case.get("name"):  # ctest writes the same twice
            name = case.get("name")
        bad = [e for e in case if e.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if bad:
            yield "failed", name, first_line(bad[0].get("message")) or first_line(bad[0].text)
        elif skipped is not None:
            yield "skipped", name, skip_reason(case, skipped)
        else:
            yield "passed", name, ""


def stage_results(path):
    """The cases of one stage, and one failure more when it ended badly without saying so in its file."""
    status = int(path.with_suffix(".status").read_text())
    if not path.exists():
        return [("failed", f"stage {path.stem}", f"exited with {status} and left no results")]
    try:
        cases = list(read_cases(path))
    except ElementTree.ParseError as error:
        return [("failed", f"stage {path.stem}", f"left results that cannot be read: {error}")]
    if status not in (0, PYTEST_NO_TESTS_MATCHED) and not any(outcome == "failed" for outcome, _, _ in cases):
        cases.append(("failed", f"stage {path.stem}", f"exited with {status} though no test failed"))
    return cases


def main(paths):
    results = [result for path in paths for result in stage_results(pathlib.Path(path))]
    for wanted in ("skipped", "failed"):
        for outcome, name, reason in results:
            if outcome == wanted:
                print(f"{outcome.upper()} {name}: {reason}")
    totals = {o: sum(outcome == o for outcome, _, _ in results) for o in ("passed", "failed", "skipped")}
    if not results:
        print("no test ran: see the names that -k or FILE select")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**totals))
    return 1 if totals["failed"] or not results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
