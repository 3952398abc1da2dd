"""OCI documents of the content store: image layout, index and manifests with CNCF ModelPack media types.

An artifact (or a checkpoint) is one image manifest with one uncompressed layer per file, so that any OCI
registry and client can carry it. Sources: https://github.com/opencontainers/image-spec (v1.1:
`image-layout.md`, `image-index.md`, `manifest.md`) and https://github.com/modelpack/model-spec (`spec.md`,
`config.md`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from registry.artifact import MANIFEST_NAME, Manifest
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import short
from registry.recipe import parse_recipe

LAYOUT: Mapping[str, str] = {"imageLayoutVersion": "1.0.0"}
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
_WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
_CODE = "application/vnd.cncf.model.code.v1.raw"
_DOC = "application/vnd.cncf.model.doc.v1.raw"

FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"
ROOT = "org.rung.root"
"""Annotation: Rung's digest of the content (an artifact or a checkpoint)."""
KIND = "org.rung.kind"
"""Annotation: `artifact` or `checkpoint`."""

Kind = Literal["artifact", "checkpoint"]
Document = dict[str, Any]  # Any: JSON


def empty_index() -> Document:
    """An index without manifests."""
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}


def layer(file: FileEntry) -> Document:
    """The layer of one file."""
    return {
        "mediaType": _layer_type(file.path),
        "digest": file.digest,
        "size": file.size_bytes,
        "annotations": {FILEPATH: file.path, TITLE: file.path},
    }


def artifact_config(manifest: Manifest, *, layers: Iterable[Document]) -> Document:
    """The ModelPack configuration of an artifact."""
    recipe = parse_recipe(manifest.recipe)
    name, _, version = manifest.checkpoint.partition("/")
    technical = {
        "architecture": "transformer",
        "format": "onnx" if manifest.entry.endswith(".onnx") else manifest.format,
        "precision": recipe.weights,
    }
    if recipe.is_quantized:
        technical["quantization"] = recipe.name
    title = f"{manifest.checkpoint} as {manifest.recipe} for {manifest.target} by {manifest.toolchain}"
    return _config(
        _descriptor(
            family=manifest.family, name=name, version=version, title=title, licence=manifest.licence
        ),
        technical,
        layers,
    )


def checkpoint_config(checkpoint: Checkpoint, *, layers: Iterable[Document]) -> Document:
    """The ModelPack configuration of a checkpoint."""
    return _config(
        _descriptor(
            family=checkpoint.family,
            name=checkpoint.name,
            version=checkpoint.version,
            title=f"{checkpoint.ref} ({checkpoint.architecture})",
            licence=checkpoint.licence,
        ),
        {"architecture": "transformer", "format": "safetensors", "paramSize": _count(checkpoint.parameters)},
        layers,
    )


def image_manifest(*, config: Document, layers: list[Document], kind: Kind, root: str) -> Document:
    """The image manifest over a configuration's descriptor and layers."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": config,
        "layers": layers,
        "annotations": {KIND: kind, ROOT: root},
    }


def descriptor(*, media_type: str, digest: str, size_bytes: int) -> Document:
    """A content descriptor."""
    return {"mediaType": media_type, "digest": digest, "size": size_bytes}


def index_entry(*, digest: str, size_bytes: int, kind: Kind, root: str, name: str) -> Document:
    """The index's descriptor of an image manifest; `name` is what OCI clients call it."""
    return {
        **descriptor(media_type=MANIFEST_TYPE, digest=digest, size_bytes=size_bytes),
        "artifactType": ARTIFACT_TYPE,
        "annotations": {REF_NAME: name, KIND: kind, ROOT: root},
    }


def artifact_name(manifest: Manifest) -> str:
    """What OCI clients call an artifact: readable, and unique by its digest's first digits."""
    parts = (
        manifest.checkpoint,
        manifest.recipe,
        manifest.target,
        manifest.toolchain,
        short(manifest.digest),
    )
    return _ref("-".join(parts))


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """What OCI clients call a checkpoint."""
    return _ref(f"{checkpoint.name}-{checkpoint.version}-{short(checkpoint.digest)}")


def _ref(text: str) -> str:
    """`text` as a valid tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`."""
    tag = re.sub(r"[^a-zA-Z0-9._-]+", "-", text).lstrip(".-")
    return tag if len(tag) <= 128 else f"{tag[:115]}-{tag[-12:]}"


def _layer_type(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if name.endswith((".safetensors", ".onnx", ".gguf", ".onnx.data")):
        return _WEIGHT
    if name == MANIFEST_NAME or name.endswith((".json", ".jinja", ".model", ".txt")):
        return _WEIGHT_CONFIG
    if name.startswith(("readme", "license", "licence", "notice")) or name.endswith(".md"):
        return _DOC
    return _CODE if name.endswith((".so", ".py", ".o")) else _WEIGHT


def _descriptor(*, family: str, name: str, version: str, title: str, licence: str) -> Document:
    known = {"licenses": [licence]} if licence != "unknown" else {}
    return {"family": family, "name": name, "version": version, "title": title, **known}


def _config(about: Document, technical: Document, layers: Iterable[Document]) -> Document:
    return {
        "descriptor": about,
        "config": technical,
        "modelfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
    }


def _count(parameters: int) -> str:
    """ModelPack's `<count><scale-prefix>` with at most one decimal: `6.7B`."""
    for scale, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= scale:
            return f"{parameters / scale:.1f}".removesuffix(".0") + letter
    return f"{parameters / 1000:.1f}K"
