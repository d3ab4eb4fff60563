"""The manifest of a packed model: what it is, what it needs of SAM, and the checksums of its files.

It is the file `spd_model.json` of the model folder in the zip; nnU-Net unpacks it and ignores it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spdnet.errors import ConfigurationError, ModelError
from spdnet.files import parse_json
from spdnet.network.backbones import BaseWeights, get_backbone

MANIFEST_FILE = "spd_model.json"
SAM_FOLDER = "sam_weights"
FORMAT_VERSION = 1
_BLOCK = 1 << 22
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SamWeights:
    """SAM's weights that a model is built on, by reference.

    Attributes:
        file_name, sha256, source: as in `BaseWeights`.
        included: the file itself is in the zip, in the folder `sam_weights` of the model.
    """

    file_name: str
    sha256: str
    source: str
    included: bool


@dataclass(frozen=True)
class Manifest:
    """Content of `spd_model.json`.

    Attributes:
        spdnet_version: of the program that packed the model.
        backbone: name of the SAM backbone.
        sam_weights: its published weights, or None if it has none.
        files: SHA-256 of every other file of the model, by its path within the model folder.
    """

    spdnet_version: str
    backbone: str
    sam_weights: SamWeights | None
    files: dict[str, str]

    def to_json(self) -> str:
        """The file's content."""
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=4)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Read a manifest; `source` is named in errors.

        Raises:
            ModelError: it is not JSON, of another format version, or a key is missing or of the wrong type.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ModelError(f"{source} is not valid JSON: {error}") from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{source} has format version {version!r}; this spdnet reads {FORMAT_VERSION}. Install the spdnet that "
                f"packed it: {content.get('spdnet_version', 'unknown') if isinstance(content, dict) else 'unknown'}"
            )
        try:
            return cls(
                _text(content["spdnet_version"]),
                _text(content["backbone"]),
                _sam_weights(content["sam_weights"]),
                {_text(name): _checksum(value) for name, value in content["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{source} is damaged: {type(error).__name__} {error}; ask for the zip again") from error


def base_weights(backbone: str) -> BaseWeights | None:
    """The published weights of a backbone, or None if it has none.

    Raises:
        ModelError: this spdnet does not know the backbone.
    """
    try:
        return get_backbone(backbone).weights
    except ConfigurationError as error:
        raise ModelError(f"the model is built on a backbone that this spdnet does not have. {error}") from error


def sha256_of_stream(stream: IO[bytes], copy_to: IO[bytes] | None = None) -> str:
    """SHA-256 of what is left of a stream, block by block, copying it on the way if asked to."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
        if copy_to is not None:
            copy_to.write(block)
    return digest.hexdigest()


def sha256_of_file(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return sha256_of_stream(stream)


def _sam_weights(content: Any) -> SamWeights | None:
    if content is None:
        return None
    if not isinstance(content["included"], bool):
        raise ValueError('"included" must be true or false')
    return SamWeights(
        _text(content["file_name"]), _checksum(content["sha256"]), _text(content["source"]), content["included"]
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} must be a string")
    return value


def _checksum(value: Any) -> str:
    if not _SHA256.fullmatch(_text(value)):
        raise ValueError(f"{value!r} is no SHA-256")
    return str(value)
