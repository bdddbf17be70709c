"""Arguments that several of our programs have."""

import argparse
import os
from pathlib import Path


def result_file(text: str) -> Path:
    """Of results that come at the end, after an hour perhaps: told at once when they could not be written."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written (inside the root that ./dev made, paths begin at the checkout)")
    return path
