"""Orders from the bench: one JSON object a line on standard input, one answer a line on standard output."""

import json
import sys


def serve(operations) -> None:
    """Calls operations[order["op"]](order) for each order until standard input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = operations[order["op"]](order) or {}
        except Exception as e:  # whatever it is, the bench is to see it and not to wait
            answer = {"error": f"{order['op']}: {type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)
