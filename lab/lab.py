#!/usr/bin/python3 -IS
"""The lab's command: see docs/lab.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from labkit.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
