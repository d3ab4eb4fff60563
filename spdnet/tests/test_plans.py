"""Plans as data: nnU-Net's layout, exact round trips, and errors that name the key."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from spdnet.errors import PlansError
from spdnet.planning import SPDPlans, SPDSettings
from spdnet.planning.plans import (
    DensePromptSettings,
    DistillationSettings,
    NormalizationSettings,
    input_difference,
    settings_from_dict,
)
from spdnet.tests.tiny import tiny_settings


def some_plans() -> SPDPlans:
    normalization = (NormalizationSettings("window", -100.0, 250.5), NormalizationSettings("percentile", 0.5, 99.5))
    settings = tiny_settings(normalization=normalization, pixel_spacing_mm=0.1 + 0.2, slicing_axis="P")
    return SPDPlans("Dataset501_TI", "Fine", "SimpleITKIO", settings, {"image_size": "because"})


def test_plans_survive_their_file_exactly(tmp_path: Path) -> None:
    plans = some_plans()
    plans.save(tmp_path / "Fine.json")
    assert SPDPlans.load(tmp_path / "Fine.json") == plans
    assert SPDPlans.from_dict(plans.to_dict()) == plans
    assert [f.name for f in tmp_path.iterdir()] == ["Fine.json"]


def test_the_layout_is_nnunet_s() -> None:
    content = json.loads(json.dumps(some_plans().to_dict()))
    assert content["dataset_name"] == "Dataset501_TI"
    assert content["plans_name"] == "Fine"
    configuration = content["configurations"]["2d"]
    assert some_plans().data_identifier == "Fine_2d"
    assert configuration["data_identifier"] == "Fine_2d_nnUNet", "nnU-Net's preprocessing wipes it: never spdnet's own"
    assert configuration["patch_size"] == [56, 56]
    assert configuration["spacing"] == [0.1 + 0.2] * 2
    assert configuration["batch_size"] == 4
    assert content["image_reader_writer"] == "SimpleITKIO"
    assert content["spd"]["reasons"] == {"image_size": "because"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The plans' settings as plain data with one value changed; `...` removes it."""
    content = json.loads(json.dumps(dataclasses.asdict(some_plans().settings)))
    place = content
    *parents, name = path.split(".")
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    if value is ...:
        del place[name]
    else:
        place[int(name) if name.isdigit() else name] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tua", 0.5, "plans: unknown key tua; known are slicing_axis"),
        ("distillation.tua", 0.5, r"plans\.distillation: unknown key tua; known are mode, tau"),
        ("stage1.lr", 0.5, r"plans\.stage1: unknown key lr"),
        ("normalization.0.mean", 0.5, r"plans\.normalization\[0\]: unknown key mean"),
        ("backbone", ..., "plans: key backbone is missing"),
        ("stage2.epochs", ..., r"plans\.stage2: key epochs is missing"),
        ("normalization.1.low", ..., r"plans\.normalization\[1\]: key low is missing"),
        ("image_size", "56", r"plans\.image_size must be of type int, not '56'"),
        ("image_size", 56.5, r"plans\.image_size must be of type int, not 56\.5"),
        ("image_size", True, r"plans\.image_size must be of type int, not True"),
        ("crop_to_nonzero", 1, r"plans\.crop_to_nonzero must be of type bool, not 1"),
        ("distillation.tau", "high", r"plans\.distillation\.tau must be of type float, not 'high'"),
        ("distillation.tau", True, r"plans\.distillation\.tau must be of type float, not True"),
        ("distillation.tau", None, r"plans\.distillation\.tau must be of type float, not None"),
        ("distillation", 3, r"plans\.distillation must be an object with keys, not 3"),
        ("normalization", {"a": 1}, r"plans\.normalization must be a list"),
        ("augmentation.scale_range", [1.0], r"plans\.augmentation\.scale_range must have 2 values, not \[1\.0\]"),
        ("augmentation.scale_range", [1.0, "x"], r"plans\.augmentation\.scale_range\[1\] must be of type float"),
        ("distillation.mode", "raws", r"plans\.distillation\.mode must be one of consensus, raw, weighed, not 'raws'"),
        ("distillation.empty_consensus", "none", r"must be one of decode, empty, not 'none'"),
        ("stage1.scheduler", "cosine", r"plans\.stage1\.scheduler must be one of poly, plateau"),
        ("normalization.0.scheme", "zscore", r"plans\.normalization\[0\]\.scheme must be one of percentile, window"),
        ("prompts.source", "web", r"plans\.prompts\.source must be one of files, simulated, none"),
        ("prompts.recipe.mode", "x", r"spd\.prompts\.recipe: prompts cannot be simulated in mode 'x'; the modes are"),
        (
            "prompts.recipe.parameters",
            {"outer": 1},
            r"recipe: mode recipe has no parameter 'outer'; it has inside_points",
        ),
        (
            "prompts.recipe.parameters",
            [1],
            r"plans\.prompts\.recipe\.parameters must be an object with keys, not \[1\]",
        ),
        ("prompts.imitated_share", 1.5, r"prompts\.imitated_share is 1\.5; it must be from 0 to 1"),
        ("prompts.absent_share", -0.1, r"prompts\.absent_share is -0\.1; it must be from 0 to 1"),
        ("prompts.recipe.dropped_share", 2, r"recipe: share of dropped slices is 2; it must be a share from 0 to 1"),
        ("slicing_axis", "Z", r"plans\.slicing_axis must be one of S, P, L, not 'Z'"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(PlansError, match=message):
        settings_from_dict(SPDSettings, changed(path, value), "plans")


def test_whole_numbers_are_floats_where_floats_belong_and_defaults_fill_in() -> None:
    settings = settings_from_dict(SPDSettings, changed("distillation.tau", 1), "plans")
    assert settings.distillation.tau == 1.0
    assert isinstance(settings.distillation.tau, float)
    assert settings_from_dict(SPDSettings, changed("distillation.n_context", ...), "plans").distillation.n_context == 2


def test_files_that_are_no_plans_are_named(tmp_path: Path) -> None:
    file = tmp_path / "SPDPlans.json"
    with pytest.raises(PlansError, match=r"SPDPlans\.json is missing. Run spd_plan_and_preprocess first"):
        SPDPlans.load(file)
    file.write_text("{'a'", encoding="utf-8")
    with pytest.raises(PlansError, match=r"SPDPlans\.json is not valid JSON"):
        SPDPlans.load(file)
    for content in ([], 5, {"dataset_name": "x", "plans_name": "nnUNetPlans"}):
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(PlansError, match=r"SPDPlans\.json: key .* is missing; is this a plans file of spdnet"):
            SPDPlans.load(file)


def test_settings_of_a_checkpoint_must_agree_on_what_the_network_sees() -> None:
    settings = some_plans().settings
    stored = dataclasses.asdict(settings)
    assert input_difference(stored, settings) is None
    assert input_difference(None, settings) is None
    free, fixed = copy.deepcopy(stored), copy.deepcopy(stored)
    free["distillation"]["tau"] = 0.4
    free["stage1"]["epochs"] = 99
    assert input_difference(free, settings) is None
    for name, value in (("image_size", 112), ("backbone", "lite"), ("slicing_axis", "S"), ("crop_to_nonzero", True)):
        difference = input_difference({**fixed, name: value}, settings)
        assert difference is not None
        assert difference.startswith(f"{name} was {value!r}, the plans say")


def test_points_are_weighed_by_maps() -> None:
    weighed = DistillationSettings(mode="weighed")
    with pytest.raises(PlansError, match=r'spd.distillation.mode is "weighed", but spd.dense_prompt.mode "none"'):
        tiny_settings(distillation=weighed)
    assert tiny_settings(distillation=weighed, dense_prompt=DensePromptSettings("maps")).distillation.mode == "weighed"


def test_a_decoder_needs_maps_to_do_without_prompts() -> None:
    alone = DistillationSettings(without_prompts="decode")
    with pytest.raises(PlansError, match=r'spd.distillation.without_prompts is "decode", but spd.dense_prompt.mode'):
        tiny_settings(distillation=alone)
    maps = DensePromptSettings("maps")
    assert tiny_settings(distillation=alone, dense_prompt=maps).distillation.without_prompts == "decode"


def test_stage_1_may_be_taken_from_a_network_with_another_dense_prompt() -> None:
    settings = tiny_settings(dense_prompt=DensePromptSettings("maps"))
    stored = dataclasses.asdict(tiny_settings())
    assert "dense_prompt was" in (input_difference(stored, settings) or "")
    assert input_difference(stored, settings, of_stage1=True) is None


def test_what_settings_themselves_refuse_is_told_with_the_file(tmp_path: Path) -> None:
    for part, value in (("mode", "weighed"), ("boxes", {"margin": -1.0})):
        some_plans().save(tmp_path / "Fine.json")
        content = json.loads((tmp_path / "Fine.json").read_text())
        content["spd"]["distillation"][part] = value
        (tmp_path / "Fine.json").write_text(json.dumps(content))
        with pytest.raises(PlansError, match=r"Fine\.json: spd\.distillation\."):
            SPDPlans.load(tmp_path / "Fine.json")
