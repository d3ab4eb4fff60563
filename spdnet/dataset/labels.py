"""What the classes of a data set are, and how per-class masks and label maps turn into each other.

A class is a label or, in nnU-Net's region mode, a union of labels. spdnet segments every foreground class
as a binary problem of its own and merges the results here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from spdnet.errors import DatasetError, shown

MAX_LABEL = 65535  # segmentations are stored in 8 or 16 bits, as nnU-Net does


@dataclass(frozen=True)
class Labels:
    """The foreground classes of a data set, as nnU-Net's LabelManager has them.

    Labels come in ascending order, regions in the order of dataset.json.

    Attributes:
        names: name of each class.
        values: label values that make up each class; one value each unless `is_regions`.
        is_regions: whether classes are regions, which may overlap.
        regions_class_order: in region mode, the label value each class writes, later ones over earlier ones.
        ignore_value: label value without ground truth, or None.
        single_value_lists: names of the classes whose one value dataset.json writes as a list.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    is_regions: bool = False
    regions_class_order: tuple[int, ...] = ()
    ignore_value: int | None = None
    single_value_lists: tuple[str, ...] = ()

    @classmethod
    def from_dataset_json(cls, dataset_json: dict[str, Any], source: str = "dataset.json") -> Labels:
        """Read `labels` and `regions_class_order` of a dataset.json by nnU-Net's rules.

        Regions are on if any value is a list longer than one. A further name of the value 0 is background too.

        Raises:
            DatasetError: background is missing or not 0, a value is not an integer, no foreground class is
                declared, two labels have one value, the ignore label is not the integer after the highest label, or
                `regions_class_order` is missing, of the wrong length or not of integers.
        """
        declared = dataset_json.get("labels")
        if not isinstance(declared, dict) or not _is_label_value(declared.get("background")) or declared["background"]:
            raise DatasetError(
                f'{source}: "labels" must be a dictionary that holds "background": 0; it is {shown(declared)}'
            )
        classes = {name: _value_tuple(v, name, source) for name, v in declared.items() if name != "ignore"}
        foreground = {name: values for name, values in classes.items() if set(values) != {0}}
        if not foreground:
            raise DatasetError(f'{source}: "labels" declares no foreground class')
        ignore = _ignore_value(declared.get("ignore"), max(v for values in foreground.values() for v in values), source)
        is_regions = any(len(values) > 1 for values in foreground.values())
        order: tuple[int, ...] = ()
        if is_regions:
            order = _regions_class_order(dataset_json, list(foreground), ignore, source)
        else:
            foreground = dict(sorted(foreground.items(), key=lambda item: item[1]))
            _check_distinct(foreground, source)
        lists = tuple(n for n, values in foreground.items() if isinstance(declared[n], list) and len(values) == 1)
        return cls(tuple(foreground), tuple(foreground.values()), is_regions, order, ignore, lists)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def declared_values(self) -> set[int]:
        """All values that a label file may hold."""
        declared = {0} | {v for values in self.values for v in values}
        return declared | ({self.ignore_value} if self.ignore_value is not None else set())

    @property
    def all_values(self) -> tuple[int, ...]:
        """Background and every value of a class, ascending, without the ignore label; nnU-Net's `all_labels`."""
        return tuple(sorted(self.declared_values - {self.ignore_value}))

    @property
    def n_heads(self) -> int:
        """Channels of nnU-Net's probabilities: background and labels, or regions alone."""
        return len(self) if self.is_regions else 1 + len(self)

    @property
    def labels_or_regions(self) -> tuple[int | tuple[int, ...], ...]:
        """Each class as nnU-Net has it: the label value, or for a region given as a list a tuple of values."""
        keep_lists = self.single_value_lists if self.is_regions else ()
        return tuple(
            v if len(v) > 1 or name in keep_lists else v[0] for name, v in zip(self.names, self.values, strict=True)
        )

    @property
    def summary_keys(self) -> tuple[str, ...]:
        """Name of each class in nnU-Net's summary.json: "1"; regions "(1, 2)", and "(3,)" if given as [3]."""
        return tuple(str(label) for label in self.labels_or_regions)

    def check_consecutive(self, source: str = "dataset.json") -> None:
        """Check that the declared values, the ignore label included, are 0, 1, 2, ... as nnU-Net demands.

        Raises:
            DatasetError: a value is left out.
        """
        declared = sorted(self.declared_values)
        gaps = sorted(set(range(declared[-1])) - set(declared))
        if gaps:
            raise DatasetError(
                f"{source}: label values must be consecutive, 0, 1, 2, ...; declared are {declared}, without "
                f"{gaps[:5]}. Renumber them in dataset.json and in the label files"
            )

    def masks(self, label_map: np.ndarray) -> np.ndarray:
        """Label map of integers, any shape, to one binary mask per class: bool (k, *shape)."""
        return np.stack([np.isin(label_map, values) for values in self.values])

    def merge(self, probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
        """Foreground probabilities (k, *shape) in [0, 1] to a label map uint8 or uint16 (*shape).

        Labels: the most probable class, where it exceeds the threshold. Regions: in `regions_class_order`,
        each region writes its value where it exceeds the threshold.
        """
        highest = max(self.declared_values | set(self.regions_class_order))
        label_map = np.zeros(probabilities.shape[1:], dtype=np.uint8 if highest < 255 else np.uint16)
        if self.is_regions:
            for region, value in zip(probabilities, self.regions_class_order, strict=True):
                label_map[region > threshold] = value
            return label_map
        best = probabilities.argmax(axis=0)
        written = np.array([v[0] for v in self.values], dtype=label_map.dtype)[best]
        foreground = np.take_along_axis(probabilities, best[None], axis=0)[0] > threshold
        label_map[foreground] = written[foreground]
        return label_map


def _is_label_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _value_tuple(value: Any, name: str, source: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(_is_label_value(v) for v in values):
        raise DatasetError(
            f'{source}: label "{name}" has value {shown(value)}; it must be an integer or a list of integers'
        )
    if max(values) > MAX_LABEL:
        raise DatasetError(
            f'{source}: label "{name}" has value {shown(max(values))}; segmentations hold values up to {MAX_LABEL}'
        )
    return tuple(values)


def _ignore_value(value: Any, highest: int, source: str) -> int | None:
    if value is None:
        return None
    if not _is_label_value(value) or value != highest + 1:
        raise DatasetError(
            f'{source}: label "ignore" has value {shown(value)}; it must be {highest + 1}, one more than the highest '
            "label"
        )
    return int(value)


def _regions_class_order(
    dataset_json: dict[str, Any], regions: list[str], ignore: int | None, source: str
) -> tuple[int, ...]:
    order = dataset_json.get("regions_class_order")
    if (
        not isinstance(order, list)
        or len(order) != len(regions)
        or not all(_is_label_value(v) and v <= MAX_LABEL for v in order)
    ):
        raise DatasetError(
            f'{source}: with regions, "regions_class_order" must list one label value, an integer, for each of the '
            f"{len(regions)} regions {regions}; it is {shown(order)}"
        )
    if ignore in order:
        raise DatasetError(f'{source}: "regions_class_order" {order} holds the ignore label; it is never predicted')
    return tuple(order)


def _check_distinct(foreground: dict[str, tuple[int, ...]], source: str) -> None:
    """Neighbours of labels in ascending order have different values."""
    names = list(foreground)
    for name, following in itertools.pairwise(names):
        if foreground[name] == foreground[following]:
            raise DatasetError(f'{source}: labels "{name}" and "{following}" both have the value {foreground[name][0]}')
