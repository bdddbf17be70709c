"""Runs become rows, rows a table."""

from dataclasses import dataclass, field
from statistics import median

from .scene import Cell, Run


@dataclass
class Row:
    system: str
    mode: str
    cell: Cell
    note: str = ""
    runs: list[Run] = field(default_factory=list)

    @property
    def good(self) -> list[Run]:
        return [run for run in self.runs if not run.error]

    @property
    def given_up(self) -> bool:
        """What has failed twice and never worked is not tried again: a failure can take minutes."""
        return len(self.runs) >= 2 and not self.good

    def median(self, name: str) -> float | None:
        """None when no run succeeded, or none has that figure."""
        found = [value for run in self.good if (value := getattr(run, name)) is not None]
        return median(found) if found else None


def as_json(row: Row, link: dict) -> dict:
    good = row.good
    gaps = [run.gap_ms for run in good]
    sent, own = row.median("sent_bytes"), row.median("container_bytes")
    return {
        "system": row.system, "mode": row.mode, "size_mib": row.cell.size_mib, "write_rate": row.cell.write_rate,
        "values": row.cell.values, **link, "runs": len(good), "gap_ms_median": rounded(row.median("gap_ms")),
        "gap_ms_min": rounded(min(gaps, default=None)), "gap_ms_max": rounded(max(gaps, default=None)),
        "max_gap_kept_ratio": rounded(share_kept(good), 3),
        "gap_reachable_ms_median": rounded(row.median("reachable_ms")),
        "connections_survived": all(run.lost_connections == 0 for run in good) if good else None,
        "running_ms_median": rounded(row.median("running_ms")),
        "total_ms_median": rounded(row.median("total_ms")), "bytes_median": whole(sent),
        "bytes_over_rss": rounded(sent / own, 3) if sent is not None and own else None,
        "link_share": rounded(row.median("link_share"), 3),
        "throughput_during_ratio": rounded(row.median("served_ratio"), 3),
        "wrong_bytes": sum(run.wrong_bytes for run in good), "lost_connections": sum(run.lost_connections for run in good),
        "container_bytes_median": whole(own), "destination_extra_bytes": whole(row.median("extra_bytes")),
        "source_daemon_rss_max": max((run.daemon_bytes for run in good), default=0) or None,
        "parts_ms_median": parts(good), "each_run": [each(run) for run in good], "did": sorted({run.did for run in good if run.did}),
        "errors": [run.error for run in row.runs if run.error], "note": row.note,
    }


def each(run: Run) -> dict:
    """What tells why one run's gap was longer than another's."""
    return {"gap_ms": rounded(run.gap_ms), "total_ms": rounded(run.total_ms), "parts_ms": run.parts_ms,
            "client_timeouts": run.repeated.timeouts, "client_repeated_segments": run.repeated.segments}


def share_kept(runs: list[Run]) -> float | None:
    kept = [run.max_gap_kept for run in runs if run.max_gap_kept is not None]
    return sum(kept) / len(kept) if kept else None


def parts(runs: list[Run]) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run.parts_ms)
    return {name: round(median([run.parts_ms[name] for run in runs if name in run.parts_ms]), 1) for name in names}


def rounded(value, digits=1):
    return None if value is None else round(value, digits)


def whole(value):
    return None if value is None else round(value)


HEADINGS = ("system", "gap ms", "min..max", "kept", "reachable", "x ours", "runs s", "total s", "x ours",
            "sent MiB", "of RSS", "of link", "thruput", "wrong", "lost", "extra MiB")


def table(rows: list[dict]) -> str:
    """One block for each cell; ratios to the first row of ours in it that has a figure."""
    cells: dict[tuple, list[dict]] = {}
    for row in rows:
        cells.setdefault((row["size_mib"], row["write_rate"], row["values"]), []).append(row)
    blocks = []
    for (size, rate, values), members in cells.items():
        ours = next((r for r in members if r["system"] == "transship" and r["runs"]), None)
        link = members[0]
        title = f"{size} MiB of {values} values, {rate} SET/s, link {link['link']}, delay {link['delay']}"
        if measured := link.get("link_bits_per_second"):
            title += f" ({measured / 1e6:.0f} Mbit/s by iperf3)"
        blocks.append(title + "\n" + aligned([HEADINGS, *(line(row, ours) for row in members)]) + remarks(members))
    return "\n\n".join(blocks)


def line(row: dict, ours: dict | None) -> tuple[str, ...]:
    name = f"{row['system']} {row['mode']}".strip()
    if not row["runs"]:
        return (name, "failed")
    extra, share = row["destination_extra_bytes"], row["throughput_during_ratio"]
    return (
        name, f"{row['gap_ms_median']:.0f}", f"{row['gap_ms_min']:.0f}..{row['gap_ms_max']:.0f}",
        "-" if row["max_gap_kept_ratio"] is None else f"{row['max_gap_kept_ratio']:.0%}",
        f"{row['gap_reachable_ms_median']:.0f}", ratio(row, ours, "gap_ms_median"),
        "-" if row["running_ms_median"] is None else f"{row['running_ms_median'] / 1000:.2f}", f"{row['total_ms_median'] / 1000:.2f}",
        ratio(row, ours, "total_ms_median"), f"{row['bytes_median'] / 2**20:.1f}", f"{row['bytes_over_rss'] or 0:.2f}",
        "-" if row["link_share"] is None else f"{row['link_share']:.2f}",
        "-" if share is None else f"{share:.2f}", str(row["wrong_bytes"]), str(row["lost_connections"]), f"{extra / 2**20:.0f}",
    )


def ratio(row: dict, ours: dict | None, name: str) -> str:
    return f"{row[name] / ours[name]:.2f}" if ours and ours[name] else "-"


def aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max((len(cells[n]) for cells in lines if n < len(cells) and len(cells) > 2), default=0) for n in range(len(lines[0]))]
    widths[0] = max(len(cells[0]) for cells in lines)
    return "\n".join(
        "  " + "  ".join(text.ljust(width) if n == 0 else text.rjust(width) for n, (text, width) in enumerate(zip(cells, widths)))
        for cells in lines)


def remarks(rows: list[dict]) -> str:
    """What a figure alone does not tell."""
    text = ""
    for row in rows:
        name = f"{row['system']} {row['mode']}".strip()
        said = [row["note"]] if row["note"] else []
        if row["did"] and row["did"] != [row["mode"]]:
            said.append(f"was done as {', '.join(row['did'])}")
        if row["connections_survived"] is False:
            said.append("connections did not survive; the gap ends when a new one is answered")
        said += [f"failed: {' '.join(error.split())[:400]}" for error in dict.fromkeys(row["errors"])]
        text += "".join(f"\n  {name}: {sentence}" for sentence in said)
    return text
