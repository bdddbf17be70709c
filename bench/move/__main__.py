"""Called as `python3 bench/move ARGS`."""

import json
import signal
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[0:1] = [str(CHECKOUT / "bench"), str(CHECKOUT / "lab")]

from labkit.errors import LabError  # noqa: E402

from move import options, report  # noqa: E402
from move.runner import Bench  # noqa: E402


def main() -> int:
    """0: every row has at least one good run and every byte was right."""
    bench = Bench(options.parse(sys.argv[1:]))
    # As an exception, so that a bench that is told to end cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = False
    try:
        bench.run()
    except LabError as e:
        print(f"bench: {e}", file=sys.stderr)
        failed = True
    finally:
        show(bench)
    return int(failed or any(not row["runs"] or row["wrong_bytes"] for row in bench.rows()))


def show(bench: Bench) -> None:
    """Also what there is when somebody ends it before its time."""
    result = bench.result()
    if result["rows"]:
        print(report.table(result["rows"]), flush=True)
    if bench.options.json:
        bench.options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
