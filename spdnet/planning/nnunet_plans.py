"""What nnU-Net's own tools want to find in a plans file, in their terms.

spdnet reads none of it. With these keys nnU-Net's PlansManager loads the file, its evaluation, ensembling and
postprocessing know labels and images, and `nnUNetv2_predict` can run the saliency map of stage 1, which needs no
prompts: nnU-Net crops, normalises and resamples each case, and hands whole slices to
`spdnet.inference.nnunet_network.SaliencyNetwork`, which undoes the differences to spdnet's own preprocessing as far as
a network can that sees one slice.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from spdnet.geometry.image_geometry import axis_from_name
from spdnet.paths import CONFIGURATION
from spdnet.planning.fingerprint import CaseFingerprint, Fingerprint
from spdnet.planning.plans import SPDSettings

NETWORK_CLASS = "spdnet.inference.nnunet_network.SaliencyNetwork"
_SCHEMES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
_DEFAULT_SCHEME = "ZScoreNormalization"
_RESAMPLING = {"data": 3, "seg": 1, "probabilities": 1}  # order of the splines


def nnunet_fingerprint(fingerprint: Fingerprint) -> dict[str, Any]:
    """The content of nnU-Net's dataset_fingerprint.json, for the model folder.

    The intensities are of fewer sampled voxels than nnU-Net's, so the file is no replacement for nnU-Net's own in
    nnUNet_preprocessed.
    """
    cases = fingerprint.cases
    shares = [np.prod(c.reader_shape_after_crop) / np.prod(c.shape) for c in cases]
    return {
        "foreground_intensity_properties_per_channel": foreground_intensities(fingerprint),
        "median_relative_size_after_cropping": float(np.median(shares)),
        "shapes_after_crop": [list(c.reader_shape_after_crop) for c in cases],
        "spacings": [list(c.reader_spacing_mm) for c in cases],
    }


def foreground_intensities(fingerprint: Fingerprint) -> dict[str, dict[str, float]]:
    """nnU-Net's `foreground_intensity_properties_per_channel`."""
    return {str(i): dict(properties) for i, properties in enumerate(fingerprint.foreground_intensities)}


def nnunet_keys(fingerprint: Fingerprint, settings: SPDSettings, planner_name: str) -> dict[str, Any]:
    """What nnU-Net finds in the plans beside the names and spdnet's settings, in the layout of the file.

    What follows from the settings alone (batch, patch, spacing, the network's layers) is added by `SPDPlans.to_dict`,
    so that it stays true when a trainer changes a setting.
    """
    permutation, flips = _typical_axes(fingerprint)
    spacings = np.array([c.reader_spacing_mm for c in fingerprint.cases])[:, permutation]
    shapes = np.array([c.reader_shape_after_crop for c in fingerprint.cases])[:, permutation]
    median_spacing, median_shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    in_plane = median_shape[1:] * median_spacing[1:] / settings.pixel_spacing_mm
    backward = [permutation.index(axis) for axis in range(3)]
    schemes = [_SCHEMES.get(str(name).lower(), _DEFAULT_SCHEME) for name in fingerprint.channel_names]
    configuration: dict[str, Any] = {
        "architecture": {
            "network_class_name": NETWORK_CLASS,
            "arch_kwargs": {
                "has_background_channel": not fingerprint.has_regions,
                "input_windows": [_window(fingerprint, i, scheme) for i, scheme in enumerate(schemes)],
                "flips": flips,
            },
            "_kw_requires_import": [],
        },
        "preprocessor_name": "DefaultPreprocessor",
        "median_image_size_in_voxels": [round(float(v)) for v in in_plane],
        "normalization_schemes": schemes,
        "use_mask_for_norm": [False] * len(schemes),
        "batch_dice": True,
    }
    for kind, order in _RESAMPLING.items():
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = {
            "is_seg": kind == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    return {
        "original_median_spacing_after_transp": median_spacing.tolist(),
        "original_median_shape_after_transp": [round(float(v)) for v in median_shape],
        "transpose_forward": permutation,
        "transpose_backward": backward,
        "experiment_planner_used": planner_name,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": foreground_intensities(fingerprint),
        "configurations": {CONFIGURATION: configuration},
    }


def _typical_axes(fingerprint: Fingerprint) -> tuple[list[int], list[bool]]:
    """How nnU-Net's arrays become slices in the most frequent orientation of the training cases.

    Returns:
        For slices, rows and columns, the axis of nnU-Net's array; and whether rows and columns run the other way.
    """
    axis = axis_from_name(fingerprint.slicing_axis)
    order = [axis] + [a for a in range(3) if a != axis]
    (permutation, flips), _ = Counter((c.reader_axes, c.reader_flips) for c in fingerprint.cases).most_common(1)[0]
    return [permutation[a] for a in order], [flips[a] for a in order[1:]]


def _window(fingerprint: Fingerprint, channel: int, scheme: str) -> list[float]:
    """The intensities, after nnU-Net's normalisation, that spdnet's normalisation maps to 0 and 1.

    Exact where both work with fixed numbers; where spdnet takes percentiles of each image, their mean over all cases.
    """
    if scheme == "RGBTo01Normalization":
        return [0.0, 1.0]
    pooled = fingerprint.foreground_intensities[channel]
    if scheme == "CTNormalization":
        low, high = pooled["percentile_00_5"], pooled["percentile_99_5"]
        return [(v - pooled["mean"]) / max(pooled["std"], 1e-8) for v in (low, high)]
    windows = [_normalised_percentiles(case, channel, scheme) for case in fingerprint.cases]
    return np.mean(windows, axis=0).tolist()


def _normalised_percentiles(case: CaseFingerprint, channel: int, scheme: str) -> list[float]:
    minimum, maximum, low, _, high = case.intensity[channel]
    offset, scale = 0.0, 1.0
    if scheme == "ZScoreNormalization":
        offset, scale = case.cropped_mean_std[channel]
    elif scheme == "RescaleTo01Normalization":
        offset, scale = minimum, maximum - minimum
    return [(v - offset) / max(scale, 1e-8) for v in (low, high)]
