"""Writing an image as an OCI layout: layers, configuration, manifest, index. The same input gives the same bytes."""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OCI = "application/vnd.oci.image."
CREATED = "2025-01-01T00:00:00Z"


class Layout:
    def __init__(self, directory: Path, newest: float):
        """`newest`: files changed after this time were made by the build and get the time 0."""
        self.directory = directory
        self.newest = newest
        self.blobs = directory / "blobs/sha256"
        self.blobs.mkdir(parents=True)
        self.layers: list[tuple[dict, str, str]] = []  # descriptor, digest of the tar, comment

    def add_layer(self, tree: Path, comment: str) -> None:
        tar = pack(tree, self.newest)
        data = gzip.compress(tar, compresslevel=5, mtime=0)
        self.layers.append((self.add_blob(data, "layer.v1.tar+gzip"), digest(tar), comment))

    def add_blob(self, data: bytes, kind: str) -> dict:
        name = digest(data)
        (self.blobs / name.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": OCI + kind, "digest": name, "size": len(data)}

    def finish(self, config: dict, tag: str) -> None:
        environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        image = {
            "created": CREATED, "os": "linux", "architecture": ARCHITECTURES[platform.machine()],
            "config": {**config, "Env": environment + config.get("Env", [])},
            "rootfs": {"type": "layers", "diff_ids": [tar for _, tar, _ in self.layers]},
            "history": [{"created": CREATED, "created_by": comment} for _, _, comment in self.layers],
        }
        manifest = {
            "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
            "config": self.add_blob(encode(image), "config.v1+json"),
            "layers": [descriptor for descriptor, _, _ in self.layers],
        }
        entry = self.add_blob(encode(manifest), "manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        (self.directory / "index.json").write_bytes(encode({"schemaVersion": 2, "manifests": [entry]}))
        (self.directory / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))


def encode(value: dict) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pack(tree: Path, newest: float) -> bytes:
    """The tree as a tar, in sorted order, without names of users, times in whole seconds."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree.rglob("*")):
            info = tar.gettarinfo(path, arcname=str(path.relative_to(tree)))
            info.uname = info.gname = ""
            info.mtime = int(info.mtime) if info.isreg() and info.mtime < newest else 0
            if info.isreg():
                with open(path, "rb") as f:
                    tar.addfile(info, f)
            else:
                tar.addfile(info)
    return out.getvalue()
