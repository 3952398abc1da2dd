"""The store's documents have the shape that the OCI image specification and ModelPack prescribe."""

from __future__ import annotations

import json
import re

from registry import oci
from registry.checkpoint import Checkpoint
from registry.store import Store

DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
REF_NAME = re.compile(r"[A-Za-z0-9]+([-._:@/+][A-Za-z0-9]+|--[A-Za-z0-9]+)*")


def check_descriptor(descriptor: dict, store: Store) -> None:
    """`content-descriptor.json` of the specification, and that the content is there with that size."""
    assert {"mediaType", "digest", "size"} <= descriptor.keys()
    assert MEDIA_TYPE.fullmatch(descriptor["mediaType"])
    assert DIGEST.fullmatch(descriptor["digest"])
    assert store.path(descriptor["digest"]).stat().st_size == descriptor["size"]
    assert all(isinstance(value, str) for value in descriptor.get("annotations", {}).values())


def read_image(store: Store, entry: dict) -> tuple[dict, dict]:
    image = json.loads(store.read_bytes(entry["digest"]))
    return image, json.loads(store.read_bytes(image["config"]["digest"]))


def check_image(store: Store, entry: dict) -> tuple[dict, dict]:
    check_descriptor(entry, store)
    assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert REF_NAME.fullmatch(entry["annotations"]["org.opencontainers.image.ref.name"])
    image, config = read_image(store, entry)
    assert image["schemaVersion"] == 2
    assert image["mediaType"] == entry["mediaType"]
    assert image["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert image["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    for descriptor in (image["config"], *image["layers"]):
        check_descriptor(descriptor, store)
    assert all(
        re.match(r"application/vnd\.cncf\.model\.[a-z.]+\.v1\.raw$", x["mediaType"]) for x in image["layers"]
    )
    assert config.keys() == {"descriptor", "config", "modelfs"}
    assert config["modelfs"] == {"type": "layers", "diff_ids": [layer["digest"] for layer in image["layers"]]}
    return image, config


def test_an_artifact_is_a_modelpack_image_with_one_layer_per_file(store, make_manifest):
    manifest = make_manifest(store)
    store.put_artifact(manifest)
    assert json.loads(store.layout.read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(store.index.path.read_bytes())
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    image, config = check_image(store, index["manifests"][0])
    paths = [layer["annotations"]["org.cncf.model.filepath"] for layer in image["layers"]]
    assert paths == ["manifest.json", "model.onnx", "weights.safetensors"]
    assert image["layers"][0]["digest"] == manifest.digest
    assert config["descriptor"]["licenses"] == ["Apache-2.0"]
    assert config["config"]["quantization"] == "w4g32-gptq"


def test_a_checkpoint_is_a_modelpack_image_too(store):
    blob = store.add_bytes(b"x")
    checkpoint = Checkpoint(
        name="demo", version="3", digest=blob.digest,
        files=(blob.at("model.safetensors"), blob.at("README.md")),
        family="demo", architecture="LlamaForCausalLM", parameters=590_000, licence="unknown", add_bos=True,
    )  # fmt: skip
    store.put_checkpoint(checkpoint)
    store.put_checkpoint(checkpoint)
    (entry,) = store.index.entries()
    image, config = check_image(store, entry)
    assert image["layers"][1]["mediaType"] == "application/vnd.cncf.model.doc.v1.raw"
    assert config["config"]["paramSize"] == "590K"
    assert "licenses" not in config["descriptor"]


def test_a_reference_name_stays_within_the_grammar_of_tags(store, make_manifest):
    long = {"checkpoint": "é" * 90 + "/1", "toolchain": "tvm" * 30}
    manifest = make_manifest(store).model_copy(update=long)
    assert re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", oci.artifact_name(manifest))
