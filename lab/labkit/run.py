"""Running commands: always with a time limit, always with the error text kept."""

import shlex
import subprocess

from .errors import LabError


def run(argv, *, timeout=20.0, stdin=None, check=True, **kwargs) -> subprocess.CompletedProcess:
    """Runs argv and captures its output as text; raises LabError when it fails or takes too long."""
    argv = [str(a) for a in argv]
    try:
        done = subprocess.run(
            argv, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout, **kwargs,
        )
    except subprocess.TimeoutExpired as e:
        raise LabError(f"`{shlex.join(argv)}` did not finish in {timeout:g} s{_tail(e.stderr)}") from e
    except OSError as e:
        raise LabError(f"cannot start `{shlex.join(argv)}`: {e.strerror}") from e
    if check and done.returncode != 0:
        text = done.stderr.strip() or done.stdout.strip()
        detail = f"\n{stdin.rstrip()}\n--" if stdin and len(stdin) < 4000 else ""
        raise LabError(f"`{shlex.join(argv)}` failed with {done.returncode}: {text[-3000:]}{detail}")
    return done


def _tail(text) -> str:
    if not text:
        return ""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return ": " + text.strip()[-1000:]
