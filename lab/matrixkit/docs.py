"""docs/applications.md: its table is written anew, what stands around it is the page's own."""

from pathlib import Path

from labkit import config
from labkit.errors import LabError

from . import table
from .verdict import FAIL, PASS, Row, judge

PAGE = config.SOURCE / "docs/applications.md"
BEGIN, END = "<!-- written by ./dev matrix --docs -->", "<!-- end of what ./dev matrix --docs writes -->"


def write(page: Path, rows: list[Row], moves: int) -> None:
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise LabError(f"{page} does not say where the table goes", hint=f"it needs the lines {BEGIN} and {END}")
    before, after = text[:text.index(BEGIN)], text[text.index(END):]
    page.write_text(f"{before}{BEGIN}\n{for_docs(rows, moves)}{after}", encoding="utf-8")


def for_docs(rows: list[Row], moves: int) -> str:
    lines = [f"`./dev matrix --moves {moves}`: {2 * moves} moves each, under load. Silence is the longest that any client of the",
             "application saw, frozen the time that it stood still, both as median / longest of its moves.", "",
             "| application | verdict | moves | silence, ms | frozen, ms | MiB sent, median | its clients check (and have found right) | packages |",
             "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        name, verdict, *rest = table.cells(row)
        checked = ", ".join(f"{times:,} {what}" for what, times in row.checked().items())
        checked = f"{row.checks} ({checked or 'nothing'})"
        lines.append("| " + " | ".join([f"`{name}`: {row.what}", verdict, *rest, checked, row.versions.replace("|", "/")]) + " |")
    lines += [""]
    for row in rows:
        verdict, why = judge(row)
        if row.needs and verdict == PASS:
            lines.append(f"- `{row.app}` is set for it: {one_line(row.needs, quotes=True)}")
        if verdict == FAIL:
            lines.append(f"- `{row.app}` fails: {one_line(why)}")
        elif why:
            lines.append(f"- `{row.app}` cannot move: {one_line(why)}. What the user reads: `{one_line(row.refusal)}`")
    return "\n".join([*lines, ""])


def one_line(text: str, quotes=False) -> str:
    return " ".join((text if quotes else text.replace("`", "'")).split())[:600]
