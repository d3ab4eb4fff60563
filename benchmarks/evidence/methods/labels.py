"""The labels themselves, brought to the size of the networks' slices and back: no mask of that size scores higher.

That holds for all methods that see slices of the plans' size; nnU-Net has a resolution of its own.

    python -m evidence.methods.labels RAW -plans FILE -o FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence.case_prediction import predict_test_cases, prediction_parser
from evidence.methods.base import Method
from evidence.methods.spd import PLANS, plan
from evidence.workspace import Workspace
from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset
from spdnet.errors import DatasetError
from spdnet.planning import NetworkCase, SPDPlans
from spdnet.prompts import SlicePrompts


@dataclass(frozen=True)
class ResampledLabels(Method):
    """What resampling alone costs.

    Attributes:
        true_prompts: told where the target is.
    """

    true_prompts: bool = True

    def training_steps(self) -> list[str]:
        """Nothing."""
        return []

    def train(self, workspace: Workspace) -> None:
        """Plan, as that chooses the size."""
        plan(workspace, workspace.raw.name)

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Resample the labels of all test cases."""
        command: list[str | Path] = ["python", "-m", "evidence.methods.labels", workspace.raw]
        command += ["-plans", workspace.preprocessed() / f"{PLANS}.json", "-o", output]
        workspace.run(command, f"{self.name}_predict", f"{self.name}/predict")


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Resample the labels of all test cases."""
    args = prediction_parser(__doc__).parse_args(argv)
    dataset = RawDataset(args.raw)
    labels = {case.case: case.label for case in dataset.cases("Ts")}

    def segment(name: str, case: NetworkCase, points: SlicePrompts) -> np.ndarray:
        file = labels[name]
        if file is None:
            raise DatasetError(f"case {name}: {args.raw} has no label of it")
        label_map, _ = dataset.reader.read_label(file, name)
        return case.mapping.masks_to_network(dataset.labels.masks(label_map)).astype(np.float32)

    predict_test_cases(args.raw, None, args.o, SPDPlans.load(args.plans).settings, segment)


METHODS = {"labels": ResampledLabels("labels", "the labels at the networks' size", "ceiling", uses_prompts=False)}


if __name__ == "__main__":
    main()
