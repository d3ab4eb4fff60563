"""SPD beside nnU-Net: which models are compared, what is refused, and the instructions that come out.

nnU-Net's own function is replaced here; spdnet/tests/nnunet runs the real one.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spdnet.cli import find_best as command
from spdnet.comparison import choose_models, find_best, search
from spdnet.comparison.instructions import PROMPTS_NOTE, LineRewriter, spd_instructions, spd_line
from spdnet.comparison.models import check_comparable
from spdnet.errors import ConfigurationError
from spdnet.tests.conftest import VARIABLES

DATASET = "Dataset507_Blobs"
SPD, NNUNET = "SPDTrainer__SPDPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"
FOLDS = [0, 1]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three folders with one model of each program, two folds of two cases each."""
    for variable in VARIABLES:
        (tmp_path / variable / DATASET).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    references = tmp_path / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    references.mkdir()
    for case in "abcd":
        (references / f"{case}.nii.gz").touch()
    write_model(tmp_path, SPD, {"spd": {}})
    write_model(tmp_path, NNUNET, {})
    return tmp_path


def write_model(root: Path, name: str, plans: dict[str, Any], cases: tuple[str, ...] = ("ab", "cd")) -> Path:
    """A model folder and its plans; every character is a case."""
    folder = root / "nnUNet_results" / DATASET / name
    for fold, members in enumerate(cases):
        validation = folder / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        for file in ("summary.json", *(f"{c}{e}" for c in members for e in (".nii.gz", ".npz", ".pkl"))):
            (validation / file).write_text("{}", encoding="utf-8")
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}), encoding="utf-8"
    )
    _, plans_name, configuration = name.split("__")
    planned = root / "nnUNet_preprocessed" / DATASET / f"{plans_name}.json"
    known = json.loads(planned.read_text(encoding="utf-8"))["configurations"] if planned.exists() else {}
    planned.write_text(json.dumps({"configurations": {**known, configuration: {}}}), encoding="utf-8")
    return folder


def model(root: Path, name: str) -> Path:
    return root / "nnUNet_results" / DATASET / name


def checked(names: list[str] | None = None, for_ensembling: bool = True) -> None:
    """Choose models and check them."""
    check_comparable(choose_models(DATASET, names, FOLDS)[0], FOLDS, for_ensembling)


# ---- which models -----------------------------------------------------------------------------------------


def test_all_complete_models_of_both_programs_are_compared(root: Path) -> None:
    models, left_out = choose_models(DATASET, None, FOLDS)
    assert [m.name for m in models] == [SPD, NNUNET]
    assert [m.is_spd for m in models] == [True, False]
    assert models[1].parts == ("nnUNetTrainer", "nnUNetPlans", "3d_fullres")
    assert left_out == {}
    checked()


def test_incomplete_models_are_left_out_with_the_reason(root: Path) -> None:
    write_model(root, "SPDTrainerX__SPDPlans__2d", {"spd": {}}, ("ab",))
    write_model(root, "SPDTrainer__Unplanned__2d", {"spd": {}})
    (root / "nnUNet_preprocessed" / DATASET / "Unplanned.json").unlink()
    (root / "nnUNet_results" / DATASET / "ensembles").mkdir()
    (root / "nnUNet_results" / DATASET / ".spd_install_x__y__2d").mkdir()
    models, left_out = choose_models(DATASET, None, FOLDS)
    assert [m.name for m in models] == [SPD, NNUNET]
    assert left_out["SPDTrainerX__SPDPlans__2d"] == "no validation/summary.json in fold 1"
    assert "Unplanned.json is missing" in left_out["SPDTrainer__Unplanned__2d"]
    assert len(left_out) == 2


def test_configuration_must_be_in_the_plans(root: Path) -> None:
    (root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").write_text(
        '{"configurations": {"2d": {}}}', encoding="utf-8"
    )
    assert "no configuration 3d_fullres" in choose_models(DATASET, None, FOLDS)[1][NNUNET]


def test_named_models_must_exist_and_be_complete(root: Path) -> None:
    assert [m.name for m in choose_models(DATASET, [NNUNET, SPD], FOLDS)[0]] == [NNUNET, SPD]
    with pytest.raises(ConfigurationError, match=f"no model Gone__P__2d .* models there: {SPD}, {NNUNET}"):
        choose_models(DATASET, ["Gone__P__2d", SPD], FOLDS)
    with pytest.raises(ConfigurationError, match=f"{SPD}: no validation/summary.json in fold 2"):
        choose_models(DATASET, [SPD], [0, 2])


def test_no_model_left_is_an_error_with_the_reasons(root: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no model with folds 0 7.*fold 7.*Train them"):
        choose_models(DATASET, None, [0, 7])
    with pytest.raises(ConfigurationError, match="There is none at all"):
        choose_models("Dataset999_Gone", None, FOLDS)


# ---- what cannot be compared ------------------------------------------------------------------------------


def test_missing_probabilities_name_model_and_command(root: Path) -> None:
    (model(root, NNUNET) / "fold_1" / "validation" / "c.npz").unlink()
    (model(root, SPD) / "fold_0" / "validation" / "a.pkl").unlink()
    with pytest.raises(ConfigurationError) as caught:
        checked()
    message = str(caught.value)
    assert (
        f"{NNUNET} (c): nnUNetv2_train {DATASET} 3d_fullres FOLD -tr nnUNetTrainer -p nnUNetPlans --val --npz"
        in message
    )
    assert f"{SPD} (a): spd_train {DATASET} 2d FOLD -tr SPDTrainer -p SPDPlans --val --npz" in message
    assert "--disable_ensembling" in message
    checked(for_ensembling=False)
    checked([SPD])


def test_different_cases_cannot_be_compared(root: Path) -> None:
    (model(root, SPD) / "fold_1" / "validation" / "d.nii.gz").unlink()
    with pytest.raises(ConfigurationError, match=r"different cases on folds 0 1: d in one of them only"):
        checked(for_ensembling=False)


@pytest.mark.parametrize("names", [[SPD], None])
def test_a_model_without_validated_cases_cannot_be_compared(root: Path, names: list[str] | None) -> None:
    for file in model(root, SPD).glob("fold_*/validation/*.nii.gz"):
        file.unlink()
    with pytest.raises(ConfigurationError, match=f"{SPD} has no validated case on folds 0 1"):
        checked(names, for_ensembling=False)


def test_case_in_two_folds_is_refused(root: Path) -> None:
    (model(root, SPD) / "fold_1" / "validation" / "a.nii.gz").touch()
    with pytest.raises(ConfigurationError, match=f"{SPD}: a is in the validation of more than one fold"):
        checked([SPD])


def test_different_labels_cannot_be_compared(root: Path) -> None:
    content = {"labels": {"background": 0, "b": 1}, "file_ending": ".nii.gz"}
    (model(root, SPD) / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="different labels"):
        checked()


def test_missing_ground_truth_is_named(root: Path) -> None:
    (root / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / "b.nii.gz").unlink()
    with pytest.raises(ConfigurationError, match="lacks the ground truth of b"):
        checked()


# ---- instructions -----------------------------------------------------------------------------------------

SPD_COMMAND = f"nnUNetv2_predict -d {DATASET} -i INPUT_FOLDER -o OUT_1 -f  0 1 -tr SPDTrainer -c 2d -p SPDPlans"
NNUNET_COMMAND = (
    f"nnUNetv2_predict -d {DATASET} -i INPUT_FOLDER -o OUT_2 -f  0 1 -tr nnUNetTrainer -c 3d_fullres -p nnUNetPlans"
)
RIGHT_COMMAND = (
    f"spd_predict -d {DATASET} -i INPUT_FOLDER -o OUT_1 -f 0 1 -tr SPDTrainer -c 2d -p SPDPlans -prompts PROMPTS_FOLDER"
)


def test_only_commands_of_spd_models_are_replaced() -> None:
    assert spd_line(SPD_COMMAND, {SPD}) == RIGHT_COMMAND
    assert spd_line(SPD_COMMAND + " --save_probabilities", {SPD}) == RIGHT_COMMAND + " --save_probabilities"
    for line in (NNUNET_COMMAND, "***Run inference like this:***", "", "nnUNetv2_ensemble -i A B -o C -np 8"):
        assert spd_line(line, {SPD}) == line
    assert spd_line(SPD_COMMAND, {NNUNET}) == SPD_COMMAND


def test_instructions_say_once_what_the_prompts_folder_is() -> None:
    text = f"***Run***\n\n{SPD_COMMAND}\n{NNUNET_COMMAND}\n\nthen\n"
    assert spd_instructions(text, {SPD}) == f"***Run***\n\n{RIGHT_COMMAND}\n{PROMPTS_NOTE}\n{NNUNET_COMMAND}\n\nthen\n"
    assert spd_instructions(text, set()) == text


def test_replaced_command_is_one_that_spd_predict_takes() -> None:
    from spdnet.cli.predict import _parser

    args = _parser().parse_args((RIGHT_COMMAND + " --save_probabilities").split()[1:])
    assert (args.d, args.tr, args.c, args.p, args.f) == (DATASET, "SPDTrainer", "2d", "SPDPlans", ["0", "1"])
    assert str(args.prompts) == "PROMPTS_FOLDER"
    assert args.save_probabilities


def test_line_rewriter_changes_whole_lines_however_they_arrive() -> None:
    target = io.StringIO()
    rewriter = LineRewriter(target, str.upper)
    for piece in ("a", "b\nc", "", "\n\nd"):
        rewriter.write(piece)
    assert target.getvalue() == "AB\nC\n\n"
    rewriter.finish()
    assert target.getvalue() == "AB\nC\n\nD"


# ---- the command ------------------------------------------------------------------------------------------


class FakeFunction:
    """Stands for nnU-Net's: prints and writes instructions, returns scores, remembers how it was called."""

    def __init__(self, instructions: Path) -> None:
        self.instructions = instructions
        self.models: list[dict[str, str]] = []
        self.options: dict[str, Any] = {}

    def __call__(self, dataset: str, models: list[dict[str, str]], **options: Any) -> dict[str, Any]:
        self.models, self.options = models, options
        print(SPD_COMMAND)
        self.instructions.write_text(f"{SPD_COMMAND}\n{NNUNET_COMMAND}\n", encoding="utf-8")
        return {
            "all_results": {NNUNET: 0.5, SPD: 0.25, "ensemble___both": 0.75},
            "best_model_or_ensemble": {"result_on_crossval_pre_pp": 0.75, "result_on_crossval_post_pp": 0.8},
        }


@pytest.fixture
def fake(root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFunction:
    fake = FakeFunction(root / "nnUNet_results" / DATASET / "inference_instructions.txt")
    monkeypatch.setattr(search, "_nnunet_function", lambda: fake)
    return fake


def test_command_compares_and_corrects_what_is_printed_and_written(
    fake: FakeFunction, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(fake.instructions.parents[2], "SPDTrainerX__SPDPlans__2d", {"spd": {}}, ("ab",))
    command.main(["507", "-f", "0", "1", "-np", "1", "--no_overwrite"])
    assert fake.models == [
        {"trainer": "SPDTrainer", "plans": "SPDPlans", "configuration": "2d"},
        {"trainer": "nnUNetTrainer", "plans": "nnUNetPlans", "configuration": "3d_fullres"},
    ]
    assert fake.options == {"allow_ensembling": True, "num_processes": 1, "overwrite": False, "folds": [0, 1]}
    assert fake.instructions.read_text(encoding="utf-8") == f"{RIGHT_COMMAND}\n{PROMPTS_NOTE}\n{NNUNET_COMMAND}\n"
    lines = capsys.readouterr().out.splitlines()
    assert RIGHT_COMMAND in lines and SPD_COMMAND not in lines
    assert "left out: SPDTrainerX__SPDPlans__2d: no validation/summary.json in fold 1" in lines
    table = [line.split() for line in lines[lines.index(next(x for x in lines if x.startswith("model"))) + 1 :]]
    assert table[:3] == [["ensemble___both", "0.7500"], [NNUNET, "0.5000"], [SPD, "0.2500"]]
    assert "best: ensemble___both, 0.8000 with postprocessing" in lines


def test_disabled_ensembling_needs_no_probabilities(root: Path, fake: FakeFunction) -> None:
    (model(root, SPD) / "fold_0" / "validation" / "a.npz").unlink()
    command.main(["507", "-f", "0", "1", "--disable_ensembling", "-m", SPD])
    assert fake.options["allow_ensembling"] is False
    assert len(fake.models) == 1


@pytest.mark.parametrize("folds", [["0", "0"], ["-1"]])
def test_folds_must_be_different_numbers(
    fake: FakeFunction, folds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["507", "-f", *folds])
    assert fake.models == []


def test_nnunet_that_is_not_installed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    for name in [name for name in sys.modules if name.startswith("nnunetv2.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigurationError, match=r"pip install nnunetv2, or .*spdnet\[nnunet\]"):
        find_best(DATASET, choose_models(DATASET, None, FOLDS)[0], FOLDS)


def test_nnunet_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, spdnet.cli.find_best; assert not [m for m in sys.modules if m.startswith('nnunetv2')]"
    subprocess.run([sys.executable, "-c", code], check=True)
