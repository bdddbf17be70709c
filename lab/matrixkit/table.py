"""The results for people: a table on the terminal, one for documents, and JSON."""

import json
from dataclasses import asdict
from statistics import median

from .verdict import FAIL, Row, judge


def figures(row: Row) -> dict:
    """Of its moves; None where there is nothing to say."""
    def of(values, digest):
        values = [v for v in values if v]
        return round(digest(values), 1) if values else None
    return {
        "moves": len(row.moves),
        "silence_ms_longest": of([m.silence_ms for m in row.moves], max),
        "silence_ms_median": of([m.silence_ms for m in row.moves], median),
        "frozen_ms_longest": of([m.frozen_ms for m in row.moves], max),
        "frozen_ms_median": of([m.frozen_ms for m in row.moves], median),
        "total_ms_median": of([m.total_ms for m in row.moves], median),
        "bytes_median": of([m.bytes_sent for m in row.moves], median),
    }


def as_json(rows: list[Row]) -> str:
    found = []
    for row in rows:
        verdict, why = judge(row)
        found.append({"app": row.app, "what": row.what, "verdict": verdict, "why": why,
                      "refusal": row.refusal, "again": row.again, "needs": row.needs,
                      "packages": row.versions, "checks": row.checks, **figures(row), "moves_wanted": row.wanted, "checked": row.checked(),
                      "each_move": [asdict(m) for m in row.moves]})
    return json.dumps({"rows": found}, indent=1) + "\n"


def ms(value) -> str:
    return "-" if value is None else f"{value:.0f}"


def mib(value) -> str:
    return "-" if value is None else f"{value / 2**20:.1f}"


def cells(row: Row) -> list[str]:
    f = figures(row)
    return [row.app, judge(row)[0], str(f["moves"]), f"{ms(f['silence_ms_median'])} / {ms(f['silence_ms_longest'])}",
            f"{ms(f['frozen_ms_median'])} / {ms(f['frozen_ms_longest'])}", mib(f["bytes_median"])]


HEAD = ["application", "verdict", "moves", "silence ms", "frozen ms", "MiB sent"]


def for_terminal(rows: list[Row]) -> str:
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)) + end_of(row)
            for line, row in zip(lines, [None, *rows])]
    return "\n".join(text)


def end_of(row: Row | None) -> str:
    """What has been checked, and under it why there is no pass."""
    if row is None:
        return "  checked by its clients"
    text = "  " + (", ".join(f"{times} {what}" for what, times in row.checked().items()) or "nothing")
    verdict, why = judge(row)
    if row.again:
        text += f"\n    {len(row.again)} moves were given up, and done with a longer --max-gap"
    if verdict == FAIL:
        text += f"\n    {why}"
    elif why:
        text += f"\n    {why}: {row.refusal}"
    elif row.needs:
        text += f"\n    set for it: {row.needs}"
    return text
