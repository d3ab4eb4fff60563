"""What the classes of a data set are, and how per-class masks and label maps turn into each other.

A class is a label or, in nnU-Net's region mode, a union of labels. spdnet segments every foreground class
as a binary problem of its own and merges the results here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spdnet.errors import DatasetError


@dataclass(frozen=True)
class Labels:
    """The foreground classes of a data set, in the order of dataset.json.

    Attributes:
        names: name of each class.
        values: label values that make up each class; one value each unless `is_regions`.
        is_regions: whether classes are regions, which may overlap.
        regions_class_order: in region mode, the label value each class writes, later ones over earlier ones.
        ignore_value: label value without ground truth, or None.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    is_regions: bool = False
    regions_class_order: tuple[int, ...] = ()
    ignore_value: int | None = None

    @classmethod
    def from_dataset_json(cls, dataset_json: dict[str, Any], source: str = "dataset.json") -> Labels:
        """Read `labels` and `regions_class_order` of a dataset.json by nnU-Net's rules.

        Raises:
            DatasetError: background is missing or not 0, a value is not an integer, no foreground class is
                declared, or `regions_class_order` is missing or of the wrong length.
        """
        declared = dataset_json.get("labels")
        if not isinstance(declared, dict) or declared.get("background") != 0:
            raise DatasetError(f'{source}: "labels" must be a dictionary that holds "background": 0')
        foreground = {
            name: _value_tuple(value, name, source) for name, value in declared.items() if name != "background"
        }
        ignore = foreground.pop("ignore", None)
        if not foreground:
            raise DatasetError(f'{source}: "labels" declares no foreground class')
        is_regions = any(len(values) > 1 for values in foreground.values())
        order: tuple[int, ...] = ()
        if is_regions:
            order = tuple(dataset_json.get("regions_class_order", ()))
            if len(order) != len(foreground):
                raise DatasetError(
                    f'{source}: with regions, "regions_class_order" must list one label value for each of the '
                    f"{len(foreground)} regions {list(foreground)}; it is {list(order)}"
                )
        else:
            foreground = dict(sorted(foreground.items(), key=lambda item: item[1]))
        return cls(tuple(foreground), tuple(foreground.values()), is_regions, order, ignore[0] if ignore else None)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def declared_values(self) -> set[int]:
        """All values that a label file may hold."""
        declared = {0} | {v for values in self.values for v in values}
        return declared | ({self.ignore_value} if self.ignore_value is not None else set())

    @property
    def summary_keys(self) -> tuple[str, ...]:
        """Name of each class in nnU-Net's summary.json: "1", or "(1, 2)" for a region."""
        return tuple(str(v) if len(v) > 1 else str(v[0]) for v in self.values)

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


def _value_tuple(value: Any, name: str, source: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise DatasetError(f'{source}: label "{name}" has value {value!r}; it must be an integer or a list of integers')
    return tuple(values)
