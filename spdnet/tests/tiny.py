"""A tiny backbone and a small raw data set, for tests that need a whole network or a whole pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from spdnet.inference.class_rules import MeasuredShares
from spdnet.network.backbones import Backbone, SamParts, adapt_sam, register_backbone
from spdnet.network.spd_network import EMBEDDING_CHANNELS
from spdnet.planning.plans import (
    AugmentationSettings,
    ConsistencySettings,
    DistillationSettings,
    LoraSettings,
    LossSettings,
    NormalizationSettings,
    PromptSettings,
    SPDSettings,
    StageSettings,
)

DATASET = "Dataset507_Blobs"
SPACING_ZYX_MM = (4.0, 1.2, 1.0)
IMAGE_SIZE = 56


def build_tiny_sam() -> Sam:
    """A `Sam` of segment-anything for 56 px, drawn from a seed of its own: always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        encoder = ImageEncoderViT(
            img_size=IMAGE_SIZE,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            mlp_ratio=2,
            out_chans=EMBEDDING_CHANNELS,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=7,
            global_attn_indexes=(1,),
        )
        for parameter in (encoder.pos_embed, *(b.attn.rel_pos_h for b in encoder.blocks)):
            torch.nn.init.normal_(parameter, std=0.2)  # zero in segment-anything, which would hide mistakes
        grid = IMAGE_SIZE // 8
        prompt_encoder = PromptEncoder(EMBEDDING_CHANNELS, (grid, grid), (IMAGE_SIZE, IMAGE_SIZE), mask_in_chans=16)
        transformer = TwoWayTransformer(depth=2, embedding_dim=EMBEDDING_CHANNELS, num_heads=8, mlp_dim=64)
        decoder = MaskDecoder(transformer_dim=EMBEDDING_CHANNELS, transformer=transformer, iou_head_hidden_dim=16)
        return Sam(encoder, prompt_encoder, decoder).eval()


def measured_shares(n_classes: int = 1, **shares: Sequence[float]) -> MeasuredShares:
    """What stage 2 might have measured; what is not told is as in a network that was not trained."""
    values = {field.name: np.zeros(n_classes, dtype=np.float32) for field in fields(MeasuredShares)}
    return MeasuredShares(**values | {field: np.array(given, dtype=np.float32) for field, given in shares.items()})


def _build_tiny(image_size: int, load_weights: bool) -> SamParts:
    return adapt_sam(build_tiny_sam(), image_size)


TINY = Backbone("tiny", token_stride=8, size_multiple=56, gflop_per_megapixel=1.0, build=_build_tiny)


def register_tiny() -> None:
    """Make the backbone known under its name."""
    register_backbone(TINY)


def tiny_settings(**changes: object) -> SPDSettings:
    """Settings of a short training on the tiny backbone, with anything changed."""
    settings = SPDSettings(
        slicing_axis="S",
        image_size=IMAGE_SIZE,
        pixel_spacing_mm=0.6,
        crop_to_nonzero=False,
        backbone="tiny",
        normalization=(NormalizationSettings("percentile", 0.5, 99.5),),
        lora=LoraSettings(rank=4, alpha=4),
        loss=LossSettings(),
        distillation=DistillationSettings(),
        consistency=ConsistencySettings(),
        stage1=StageSettings(2, 2, 4, 1e-3),
        stage2=StageSettings(2, 2, 4, 1e-3),
        augmentation=AugmentationSettings(),
        prompts=PromptSettings("simulated"),
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def blob_case(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 and label uint8 (z, y, x) of a case: a bright blob (1) and a half-bright one (2) that move."""
    rng = np.random.default_rng([99, index])
    shape = (6 + index % 3, 24, 28)
    z, y, x = np.indices(shape)
    label = np.zeros(shape, dtype=np.uint8)
    bright, half = rng.uniform([7, 7], [10, 10]), rng.uniform([14, 17], [16, 20])
    for value, (cy, cx), first in ((1, bright, 1), (2, half, 2)):
        disc = (y - cy - 0.3 * z) ** 2 + (x - cx) ** 2 < 16
        label[disc & (z >= first) & (z < shape[0] - 1)] = value
    image = np.array([20.0, 100.0, 60.0])[label] + rng.normal(0, 3, shape)
    return image.astype(np.float32), label


def write_volume(file: Path, array: np.ndarray, direction: np.ndarray, spacing_zyx_mm: tuple[float, ...]) -> None:
    """Write an array (z, y, x) as NIfTI."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_zyx_mm[::-1])
    image.SetOrigin((-20.0, 31.0, 77.0))
    image.SetDirection(direction.ravel().tolist())
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def oblique_direction() -> np.ndarray:
    """Direction cosines of volumes stored flipped (x and z) and turned by some degrees."""
    a, b = np.deg2rad(9.0), np.deg2rad(5.0)
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return turn_z @ turn_x @ np.diag([-1.0, 1.0, -1.0])


def write_blob_dataset(raw_root: Path, n_train: int = 5, n_test: int = 2) -> Path:
    """Write `Dataset507_Blobs`, every second case stored flipped and oblique; returns its folder."""
    folder = raw_root / DATASET
    for index in range(n_train + n_test):
        subset = "Tr" if index < n_train else "Ts"
        image, label = blob_case(index)
        direction = oblique_direction() if index % 2 else np.eye(3)
        case = f"blob_{index:03d}"
        write_volume(folder / f"images{subset}" / f"{case}_0000.nii.gz", image, direction, SPACING_ZYX_MM)
        write_volume(folder / f"labels{subset}" / f"{case}.nii.gz", label, direction, SPACING_ZYX_MM)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "bright": 1, "half": 2},
        "numTraining": n_train,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
