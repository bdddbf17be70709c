"""The commands of lab.py. `exec` is kept off argparse and the bigger modules: tests call it all the time."""

import sys

from . import config, state
from .errors import LabError

EXEC_HELP = "usage: lab.py [--name LAB] exec [-d] HOST COMMAND [ARGUMENT...]"


def main(argv: list[str]) -> int:
    try:
        lab, rest = split_name(argv)
        if rest[:1] == ["exec"]:
            return do_exec(lab, rest[1:])
        from .commands import dispatch
        return dispatch(lab, rest)
    except LabError as e:
        print(f"lab: {e}", file=sys.stderr)
        return e.code
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


def split_name(argv: list[str]) -> tuple[str, list[str]]:
    """Takes --name LAB out, wherever it stands before the command of an exec."""
    lab, rest = config.DEFAULT_LAB, []
    words = iter(argv)
    for word in words:
        if word == "--name":
            lab = next(words, "")
        elif word.startswith("--name="):
            lab = word.removeprefix("--name=")
        else:
            rest.append(word)
            if rest[0] == "exec" and len([w for w in rest if not w.startswith("-")]) == 2:
                rest += words  # the rest belongs to the command
    return config.check_lab_name(lab), rest


def load_lab(lab: str) -> dict:
    lab_state = state.load(lab)
    if lab_state is None:
        raise LabError(f"no lab is called {lab!r}", hint="start one with `up`; `status` lists those there are")
    return lab_state


def do_exec(lab: str, words: list[str]) -> int:
    from . import namespace
    background = words[:1] == ["-d"]
    if background:
        words = words[1:]
    if len(words) < 2 or words[0].startswith("-"):
        print(EXEC_HELP, file=sys.stderr)
        return 2
    host = namespace.host_of(load_lab(lab), words[0])
    if not background:
        namespace.execute(host, words[1:])
    log = f"/var/log/lab-exec/{words[1].rpartition('/')[2]}.log"
    answer = namespace.ask_init(host, {"op": "spawn", "argv": words[1:], "log": log})
    print(f"pid {answer['pid']} inside {words[0]}, output in {log} there")
    return 0
