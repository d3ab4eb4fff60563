"""nnU-Net v2's summary.json: voxel counts, Dice and IoU per case and class, as its own tools read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.dataset import Labels, ReaderWriter
from spdnet.evaluation.metrics import count_metrics
from spdnet.evaluation.pairs import LabelPair, class_mask, read_pair
from spdnet.files import write_json
from spdnet.parallel import map_cases

_METRICS = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")


def nnunet_summary(
    pairs: Sequence[tuple[Path, Path]], reader: ReaderWriter, labels: Labels, n_processes: int = 1
) -> dict[str, Any]:
    """The content of summary.json for (reference file, prediction file) pairs.

    As in nnU-Net: no background; Dice and IoU of a class absent in both are NaN and skipped in the class mean;
    a class that no case has makes `foreground_mean` NaN; voxels with the ignore label in the reference do not
    count.

    Returns:
        `foreground_mean`, `mean` (by class key) and `metric_per_case`, of plain Python values.

    Raises:
        ValueError: there are no pairs.
        DatasetError: a file cannot be read, the two are not on one grid, or a label value is undeclared.
    """
    if not pairs:
        raise ValueError("no pairs of reference and prediction to summarise")
    named = [LabelPair(reference.name, reference, prediction) for reference, prediction in pairs]
    per_case = map_cases(functools.partial(_case_entry, reader=reader, labels=labels), named, n_processes, "summary")
    mean = {
        key: {metric: _mean_ignoring_nan([case["metrics"][key][metric] for case in per_case]) for metric in _METRICS}
        for key in labels.summary_keys
    }
    foreground_mean = {metric: float(np.mean([m[metric] for m in mean.values()])) for metric in _METRICS}
    return {"foreground_mean": foreground_mean, "mean": mean, "metric_per_case": per_case}


def write_summary_json(path: Path, summary: dict[str, Any]) -> None:
    """Write summary.json as nnU-Net does, keys sorted and NaN bare; the file appears whole or not at all."""
    write_json(path, _sorted(summary))


def _case_entry(pair: LabelPair, reader: ReaderWriter, labels: Labels) -> dict[str, Any]:
    reference, prediction, _ = read_pair(pair, reader, labels)
    valid = None if labels.ignore_value is None else reference != labels.ignore_value
    metrics = {
        key: count_metrics(class_mask(reference, values), class_mask(prediction, values), valid)
        for key, values in zip(labels.summary_keys, labels.values, strict=True)
    }
    return {"metrics": metrics, "prediction_file": str(pair.prediction), "reference_file": str(pair.reference)}


def _mean_ignoring_nan(values: list[float]) -> float:
    finite = [v for v in values if not np.isnan(v)]
    return float(np.mean(finite)) if finite else float("nan")


def _sorted(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _sorted(content[key]) for key in sorted(content)}
    return [_sorted(value) for value in content] if isinstance(content, list) else content
