"""From a recipe (lab/images/NAME.toml) to a tree of files: packages of the Debian root, and the libraries they need.

A recipe may hold: base (a recipe whose layers go below), install (packages that the root lacks: see workshop.py), packages,
paths (single files of the root), users, groups, links, directories (path = mode), files (path = text), sources (path =
file of the checkout), run (shell commands, $TREE is the layer's tree, $ROOT the root), config (OCI).
"""

import glob
import os
import re
import shutil
import tomllib
from pathlib import Path

from . import config
from .errors import LabError
from .run import run

KEYS = {"base", "install", "packages", "paths", "users", "groups", "links", "directories", "files", "sources", "run", "config"}
LEFT_OUT = re.compile(r"/usr/share/(doc|man|info|locale|lintian|bug|bash-completion)(/|$)|/(usr/)?lib/systemd/|/etc/init\.d/")


def recipe_file(name: str) -> Path:
    return config.SOURCE / "lab/images" / f"{name}.toml"


def load(name: str) -> dict:
    path = recipe_file(name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
        raise LabError(f"there is no recipe for an image called {name!r}", hint=f"recipes are {known}")
    recipe = tomllib.loads(path.read_text())
    if unknown := set(recipe) - KEYS:
        raise LabError(f"{path} has unknown keys: {', '.join(sorted(unknown))}", hint="known ones are " + ", ".join(sorted(KEYS)))
    return recipe


def chain(name: str) -> list[tuple[str, dict]]:
    """The recipe and those below it, bottom first."""
    found: list[tuple[str, dict]] = []
    while name:
        if name in (n for n, _ in found):
            raise LabError(f"the image recipe {name!r} is its own base")
        found.insert(0, (name, load(name)))
        name = found[0][1].get("base", "")
    return found


class Tree:
    """One layer being put together of files of `root`; `below` are the paths that lower layers have."""

    def __init__(self, directory: Path, below: set[str], root: Path = config.ROOT):
        self.directory = directory
        self.root = root
        self.below = below
        self.paths: set[str] = set()

    def build(self, recipe: dict) -> None:
        for link, target in recipe.get("links", {}).items():
            self.make_parent(link)
            os.symlink(target, self.inside(link))
            self.paths.add(link)
        for package in recipe.get("packages", []):
            for path in package_files(self.root, package):
                self.copy(path)
        for path in recipe.get("paths", []):
            self.copy(path)
        for path in self.needed_libraries():
            self.copy(path)
        for path, mode in recipe.get("directories", {}).items():
            self.inside(path).mkdir(parents=True, exist_ok=True)
            self.inside(path).chmod(int(mode, 8))
        for path, text in recipe.get("files", {}).items():
            self.make_parent(path)
            self.inside(path).write_text(text)
        for path, source in recipe.get("sources", {}).items():
            self.make_parent(path)
            shutil.copyfile(config.SOURCE / source, self.inside(path))
        for kind in ("passwd", "group"):
            self.add_accounts(kind, recipe.get("users" if kind == "passwd" else "groups", []))
        for command in recipe.get("run", []):
            run(["/bin/sh", "-ec", command], timeout=900, env={**os.environ, "TREE": str(self.directory), "ROOT": str(self.root)})

    def inside(self, path: str) -> Path:
        return self.directory / path.lstrip("/")

    def make_parent(self, path: str) -> None:
        self.inside(path).parent.mkdir(parents=True, exist_ok=True)

    def copy(self, path: str) -> None:
        """Copies one file of the root, and, when it is a link, what it leads to. Directories only with their mode."""
        path = canonical(self.root, path)
        if path in self.paths or path in self.below:
            return
        source = self.root / path.lstrip("/")
        if source.is_symlink():
            self.copy_link(path, source)
        elif source.is_dir():
            self.inside(path).mkdir(parents=True, exist_ok=True)
            shutil.copystat(source, self.inside(path))
            give(self.inside(path), source)
        elif source.is_file():
            self.make_parent(path)
            shutil.copy2(source, self.inside(path))
            give(self.inside(path), source)
        else:
            return  # in the package's list, but removed from this root
        self.paths.add(path)

    def copy_link(self, path: str, source: Path) -> None:
        target = os.readlink(source)
        self.make_parent(path)
        os.symlink(target, self.inside(path))
        self.paths.add(path)
        self.copy(os.path.normpath(os.path.join(os.path.dirname(path), target)))

    def needed_libraries(self) -> set[str]:
        libraries: set[str] = set()
        for path in sorted(self.paths):
            if is_elf(self.inside(path)):
                libraries |= libraries_of(self.root, path)
        return libraries

    def add_accounts(self, kind: str, names: list[str]) -> None:
        """Adds lines of the root's passwd or group; a layer's file holds those of the layers below as well."""
        if not names:
            return
        lines = {line.split(":")[0]: line for line in (self.root / "etc" / kind).read_text().splitlines()}
        if missing := [n for n in names if n not in lines]:
            raise LabError(f"{self.root}/etc/{kind} has no {', '.join(missing)}", hint="install the package that adds it")
        self.make_parent(f"/etc/{kind}")
        self.inside(f"/etc/{kind}").write_text("".join(lines[n] + "\n" for n in names))


def give(target: Path, source: Path) -> None:
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)  # chown drops set-user-id bits


def canonical(root: Path, path: str) -> str:
    """The path with links in its directories resolved, as seen inside the root."""
    parts, done = [p for p in path.split("/") if p], ""
    hops = 0
    while len(parts) > 1:
        part = parts.pop(0)
        link = root / (done + "/" + part).lstrip("/")
        if link.is_symlink() and hops < 40:
            hops += 1
            target = os.path.normpath(os.path.join(done or "/", os.readlink(link)))
            parts, done = [p for p in target.split("/") if p] + parts, ""
        else:
            done += "/" + part
    return done + "/" + parts[0] if parts else "/"


def package_files(root: Path, package: str) -> list[str]:
    found = [p for n in (package, f"{package}:*") for p in glob.glob(f"{root}/var/lib/dpkg/info/{n}.list")]
    if not found:
        raise LabError(f"the package {package} is not installed in {root}", hint="add it to the packages of ./dev setup, or to what the recipe installs")
    paths = Path(found[0]).read_text().splitlines()
    return [p for p in paths if p != "/." and not LEFT_OUT.search(p)]


def is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as f:
        return f.read(4) == b"\x7fELF"


def libraries_of(root: Path, path: str) -> set[str]:
    """What the dynamic loader would load for a program, and the loader itself."""
    loaders = sorted(p for n in ("lib64", "lib") for p in glob.glob(f"{root}/usr/{n}/ld-linux-*.so.*"))
    if not loaders:
        raise LabError(f"{root} has no dynamic loader in /usr/lib64 or /usr/lib")
    loader = "/" + os.path.relpath(loaders[0], root)
    done = run(["chroot", root, loader, "--list", path], check=False)
    if done.returncode != 0:
        return set()  # static
    if "not found" in done.stdout:
        raise LabError(f"{path} needs a library that {root} does not have: {done.stdout.strip()}")
    return {loader, *re.findall(r"(/\S+) \(0x", done.stdout)}
