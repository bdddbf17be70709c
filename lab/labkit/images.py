"""Images for the lab's registry: built once from a recipe, kept as OCI layouts, pushed when a lab comes up."""

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from . import config, namespace, recipe, workshop
from .errors import LabError
from .oci import Layout
from .run import run

AT_UP = ("redis",)
TAG = "lab"
BUILDERS = ("recipe.py", "oci.py", "workshop.py")  # a change in these makes new images
KEEP_DAYS = 7
VERSIONS = "transship.lab.packages"  # a label: NAME VERSION, … of what the topmost recipe takes and installs


def reference(name: str) -> str:
    return f"{config.REGISTRY}/{name}:{TAG}"


def key(name: str) -> str:
    """Names everything the image depends on: its recipes, our code, the packages of the root. (Of what a recipe installs
    beyond these it is the version that was there when the image was built.)"""
    state = hashlib.sha256()
    for below, content in recipe.chain(name):
        state.update(recipe.recipe_file(below).read_bytes())
        for source in content.get("sources", {}).values():
            state.update((config.SOURCE / source).read_bytes())
    for builder in BUILDERS:
        state.update(Path(__file__).with_name(builder).read_bytes())
    state.update((config.ROOT / "var/lib/dpkg/status").read_bytes())
    return state.hexdigest()[:16]


def ensure(name: str, say=lambda text: None) -> Path:
    """The image's layout, built if it is not there yet."""
    target = config.IMAGES / f"{name}-{key(name)}"
    if not target.is_dir():
        begin = time.monotonic()
        build(name, target)
        say(f"image {name} built in {time.monotonic() - begin:.1f} s")
    os.utime(target)
    return target


def build(name: str, target: Path) -> None:
    config.IMAGES.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=config.IMAGES))
    try:
        layout = Layout(work / "layout", newest=(config.ROOT / "var/lib/dpkg/status").stat().st_mtime)
        below: set[str] = set()
        accounts: dict[str, list[str]] = {"users": [], "groups": []}
        for layer, content in recipe.chain(name):
            for kind, names in accounts.items():
                names += content.get(kind, [])
            with workshop.root_with(content.get("install", []), work) as root:
                tree = recipe.Tree(work / layer, below, root)
                tree.directory.mkdir()
                tree.build({**content, **accounts})
                versions = workshop.versions(root, [*content.get("packages", []), *content.get("install", [])])
            layout.add_layer(tree.directory, f"lab image recipe {layer}")
            below |= tree.paths
        layout.finish({**content.get("config", {}), "Labels": {VERSIONS: versions}}, TAG)
        rename(layout.directory, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    forget_old(name, target)


def rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as e:
        if not target.is_dir():  # else: another lab has built the same in the meantime
            raise LabError(f"cannot put the image at {target}: {e.strerror}") from e


def forget_old(name: str, current: Path) -> None:
    for path in config.IMAGES.glob(f"{name}-" + "[0-9a-f]" * 16):
        if path != current and time.time() - path.stat().st_mtime > KEEP_DAYS * 86400:
            shutil.rmtree(path, ignore_errors=True)


def push(lab_state: dict, name: str, layout: Path) -> str:
    """Copies the image into the lab's registry and returns its reference there."""
    registry = namespace.host_of(lab_state, "registry")
    source = f"oci:/var/lib/transship-images/{layout.name}:{TAG}"
    command = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", source, f"docker://{reference(name)}"]
    run(namespace.enter(registry, command), timeout=60)
    return reference(name)
