"""nnU-Net's search for the best model or pair of models, over several trainers and plans at once.

nnU-Net's own command takes every trainer with every plans; its Python function takes the models one by one, so that
SPDTrainer with SPDPlans and nnUNetTrainer with nnUNetPlans can be in one comparison.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdnet.comparison.instructions import LineRewriter, spd_instructions, spd_line
from spdnet.comparison.models import TrainedModel, check_comparable
from spdnet.errors import ConfigurationError
from spdnet.files import write_text
from spdnet.paths import preprocessed_root, raw_root, results_root

INSTRUCTIONS_FILE = "inference_instructions.txt"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        mean_dice: `foreground_mean` Dice over the cases of all folds, by name of the model or ensemble.
        best: name of the best; of equals the first, and single models come first.
        mean_dice_postprocessed: of the best after nnU-Net's postprocessing.
        instructions_file: how to predict with the best.
    """

    mean_dice: dict[str, float]
    best: str
    mean_dice_postprocessed: float
    instructions_file: Path


def find_best(
    dataset_name: str,
    models: Sequence[TrainedModel],
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    n_processes: int = 1,
    ensembling: bool = True,
    overwrite: bool = True,
) -> Comparison:
    """Compare models and their pairs by nnU-Net's function; it writes what it always writes into nnUNet_results.

    Args:
        dataset_name: `DatasetNNN_Name`.
        models: of either program, see `choose_models`.
        folds: that all of them have.
        n_processes: worker processes.
        ensembling: also try every pair, which needs the probabilities of the validation.
        overwrite: make ensembles anew that an earlier run made.

    Raises:
        ConfigurationError: nnunetv2 is not installed, a folder's variable is not set, or the models cannot be
            compared; nothing has been written then.
    """
    for root in (raw_root, preprocessed_root, results_root):
        root()
    function = _nnunet_function()
    check_comparable(models, folds, ensembling)
    spd_models = {m.name for m in models if m.is_spd}
    rewriter = LineRewriter(sys.stdout, lambda line: spd_line(line, spd_models))
    with contextlib.redirect_stdout(rewriter):  # type: ignore[type-var]
        found = function(
            dataset_name,
            [dict(zip(("trainer", "plans", "configuration"), m.parts, strict=True)) for m in models],
            allow_ensembling=ensembling,
            num_processes=n_processes,
            overwrite=overwrite,
            folds=list(folds),
        )
    rewriter.finish()
    file = results_root() / dataset_name / INSTRUCTIONS_FILE
    _rewrite(file, spd_models)
    return _comparison(found, file)


def _nnunet_function() -> Callable[..., dict[str, Any]]:
    try:
        from nnunetv2.evaluation.find_best_configuration import find_best_configuration
    except ImportError as error:
        raise ConfigurationError(
            f"comparing models needs nnU-Net's own package, which cannot be imported ({error}). Install it: "
            'pip install nnunetv2, or pip install "spdnet[nnunet]"; name your version of torch in the same command, '
            "or pip may replace it"
        ) from error
    function: Callable[..., dict[str, Any]] = find_best_configuration
    return function


def _rewrite(file: Path, spd_models: set[str]) -> None:
    """Correct the instructions file; it is replaced as a whole."""
    text = file.read_text(encoding="utf-8")
    corrected = spd_instructions(text, spd_models)
    if corrected != text:
        write_text(file, corrected)


def _comparison(found: dict[str, Any], file: Path) -> Comparison:
    scores = {name: float(score) for name, score in found["all_results"].items()}
    best = found["best_model_or_ensemble"]
    name = next(name for name, score in scores.items() if score == best["result_on_crossval_pre_pp"])
    return Comparison(scores, name, float(best["result_on_crossval_post_pp"]), file)
