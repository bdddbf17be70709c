"""tools/check_layers.py finds what it is for, and finds nothing in this tree."""

import subprocess
import sys

import pytest
from conftest import SOURCE

CHECK = SOURCE / "tools/check_layers.py"


def check(root):
    return subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True, timeout=60)


@pytest.fixture
def tree(tmp_path):
    """write(path, line…) in a made-up src/ whose one other file is right."""
    root = tmp_path / "src"

    def write(path, *lines):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(line + "\n" for line in lines))
        return root

    write("base/ok.h", "#include <vector>")
    return write


def test_this_tree_keeps_its_layers():
    result = check(SOURCE / "src")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "path, include",
    [
        ("base/a.h", '#include "migrate/phase.h"'),
        ("base/a.h", '#  include "sys/process.h"'),
        ("memory/a.cc", '#include "network/tunnel.h"'),
        ("plan/a.cc", '#include "sys/process.h"'),
        ("gate/a.cc", '#include "wire/frame.h"'),
        ("cli/a.cc", '#include "sys/process.h"'),
        ("engine/a.cc", '#include "proto/peer.pb.h"'),
        ("migrate/a.cc", '#include "proto/local.grpc.pb.h"'),
        ("wire/a.cc", "#include <grpcpp/grpcpp.h>"),
        ("base/deep/er/a.cc", '#include "node/config.h"'),
        ("base/a.cc", '#include "../node/config.h"'),
    ],
)
def test_a_forbidden_include_is_named(tree, path, include):
    result = check(tree(path, "// first line", include))
    assert result.returncode == 1
    complaint = result.stdout.splitlines()[0]
    assert f"/{path}:2: " in complaint
    assert include.split()[-1].strip('"<>') in complaint


@pytest.mark.parametrize(
    "path, include",
    [
        ("base/a.cc", "#include <sys/wait.h>"),
        ("node/a.cc", '#include "migrate/phase.h"'),
        ("node/a.cc", '#include "proto/local.grpc.pb.h"'),
        ("criu/a.cc", '#include "proto/criu_rpc.pb.h"'),
        ("gate/a.cc", '#include "criu/rpc.h"'),
        ("plan/a.cc", '#include "plan/facts.h"'),
        ("base/a.cc", '// #include "node/config.h"'),
    ],
)
def test_an_allowed_include_is_not(tree, path, include):
    result = check(tree(path, include))
    assert result.returncode == 0, result.stdout


def test_an_unknown_folder_must_be_given_a_layer(tree):
    result = check(tree("utils/a.h", ""))
    assert result.returncode == 1
    assert "utils is not a layer" in result.stdout


def test_long_files_are_named(tree):
    assert check(tree("base/long.cc", *["int x;"] * 600)).returncode == 0
    result = check(tree("base/long.cc", *["int x;"] * 601))
    assert result.returncode == 1
    assert "601 lines" in result.stdout


def test_an_empty_tree_is_not_a_success(tmp_path):
    assert check(tmp_path).returncode == 1
