"""Volumes of which no prompt is trusted."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spdnet.inference import SPDPredictor, volume
from spdnet.inference.class_rules import Rules
from spdnet.inference.mirroring import mirror_maps, predict_mirrored
from spdnet.inference.prompting import DistilledVolume, distill_whole_volume
from spdnet.inference.volume import VolumePrediction, encode_volume, predict_encoded, predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SliceBoxes, SlicePrompts
from spdnet.tests.conftest import Workspace

SIZE, CPU = 56, torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> SPDNetwork:
    torch.manual_seed(3)
    return build_network("tiny", 1, 2, SIZE, 4, 4, 0.0).eval()


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    return np.random.default_rng(0).random((5, 1, SIZE, SIZE), dtype=np.float32)


def predict(
    network: SPDNetwork, slices: np.ndarray, prompts: SlicePrompts | None, **settings: object
) -> VolumePrediction:
    return predict_volume(network, slices, prompts, DistillationSettings(**settings), 2, CPU)  # type: ignore[arg-type]


def threshold_between(network: SPDNetwork, slices: np.ndarray) -> tuple[float, SlicePrompts, SlicePrompts]:
    """A threshold, a point for class 0 below it and one above it."""
    saliency = predict(network, slices, None).saliency
    low, high = (np.unravel_index(i, saliency[2, 0].shape) for i in (saliency[2, 0].argmin(), saliency[2, 0].argmax()))
    scale = SIZE / saliency.shape[-1]
    points = [SlicePrompts(np.array([[2, *((np.array(p) + 0.5) * scale - 0.5)]]), np.array([0])) for p in (low, high)]
    return float((saliency[2, 0].min() + saliency[2, 0].max()) / 2), points[0], points[1]


def test_a_class_without_any_trusted_prompt_is_predicted_as_without_prompts(
    network: SPDNetwork, slices: np.ndarray
) -> None:
    tau, rejected, trusted = threshold_between(network, slices)
    alone = predict(network, slices, None)
    none = predict(network, slices, rejected, tau=tau, n_context=0)
    assert none.untrusted is not None and none.untrusted.tolist() == [True, True]
    assert np.array_equal(none.probabilities, alone.probabilities)
    one = predict(network, slices, SlicePrompts.concatenate([rejected, trusted]), tau=tau)
    assert one.untrusted is not None and one.untrusted.tolist() == [False, True]
    assert not np.array_equal(one.probabilities[:, 0], alone.probabilities[:, 0])
    assert np.array_equal(one.probabilities[:, 1], alone.probabilities[:, 1])


def test_empty_slices_raw_points_and_boxes_are_decoded(network: SPDNetwork, slices: np.ndarray) -> None:
    tau, rejected, _ = threshold_between(network, slices)
    for settings in ({"empty_consensus": "empty"}, {"mode": "raw"}):
        found = predict(network, slices, rejected, tau=tau, **settings)
        assert found.untrusted is not None and not found.untrusted.any()
    boxes = SliceBoxes(np.array([2]), np.array([[-0.5, -0.5, 55.5, 55.5]]), np.array([0]))
    boxed = predict(network, slices, replace(rejected, boxes=boxes), tau=tau, empty_consensus="decode")
    assert boxed.untrusted is not None and boxed.untrusted.tolist() == [False, True]


def test_the_predictor_names_the_case_and_the_class(trained: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), 0)
    nothing = replace(predictor.plans.settings.distillation, mode="consensus", tau=1.0, empty_consensus="decode")
    predictor.plans = replace(predictor.plans, settings=replace(predictor.plans.settings, distillation=nothing))
    image = np.random.default_rng(0).random((1, 6, 24, 28)).astype(np.float32)
    properties, points = {"spacing": (3.0, 1.0, 1.0)}, np.array([[2.0, 10.0, 12.0]])
    with caplog.at_level(logging.WARNING):
        prompted = predictor.predict_single_npy_array(image, properties, points_zyx=points, class_index=np.array([1]))
    (record,) = [r for r in caplog.records if "none of the prompts" in r.message]
    assert "half" in record.message and "bright" not in record.message
    assert np.array_equal(prompted, predictor.predict_single_npy_array(image, properties))


def test_it_is_told_where_saliency_confirms_no_point_that_the_decoder_weighs(
    trained: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), 0)
    image = np.random.default_rng(0).random((1, 6, 24, 28)).astype(np.float32)
    properties, points = {"spacing": (3.0, 1.0, 1.0)}, np.array([[2.0, 10.0, 12.0]])
    for tau, n_told in ((1.0, 1), (0.0, 0)):
        caplog.clear()
        weighed = replace(predictor.plans.settings.distillation, mode="weighed", tau=tau)
        predictor.plans = replace(predictor.plans, settings=replace(predictor.plans.settings, distillation=weighed))
        with caplog.at_level(logging.WARNING):
            predictor.predict_single_npy_array(image, properties, points_zyx=points, class_index=np.array([1]))
        told = [r.message for r in caplog.records]
        assert len(told) == n_told and all("saliency confirms none of the points for half" in m for m in told)


def test_a_class_that_the_decoder_weighs_is_untrusted_only_without_points_or_with_random_ones() -> None:
    torch.manual_seed(0)
    network = build_network("tiny", 1, 2, SIZE, 0, 1, 0.0, dense_slices=1).eval()
    slices = np.random.default_rng(0).random((4, 1, SIZE, SIZE)).astype(np.float32)
    point = SlicePrompts(np.array([[1.0, 20.0, 30.0]]), np.array([0]))
    settings = DistillationSettings(mode="weighed", tau=1.0)  # nothing is salient
    found = predict_volume(network, slices, point, settings, 4, torch.device("cpu"))
    assert found.untrusted is not None and found.untrusted.tolist() == [False, True]
    assert found.consensus is not None and not len(found.consensus[0].slice_index)
    np.testing.assert_array_equal(found.probabilities[:, 1], found.saliency[:, 1])
    assert not np.array_equal(found.probabilities[:, 0], found.saliency[:, 0])
    random = np.array([True, False])
    refused = predict_volume(network, slices, point, settings, 4, torch.device("cpu"), random=random)
    np.testing.assert_array_equal(refused.probabilities, refused.saliency)


def test_the_decoder_does_without_prompts_where_the_plans_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a volume without any, for a class without any, and for one whose points are refused."""
    torch.manual_seed(0)
    network = build_network("tiny", 1, 2, SIZE, 0, 1, 0.0, dense_slices=1).eval()
    assert network.dense_prompt is not None
    for parameter in network.dense_prompt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    slices = np.random.default_rng(0).random((4, 1, SIZE, SIZE)).astype(np.float16)
    point = SlicePrompts(np.array([[1.0, 20.0, 30.0]]), np.array([0]))
    settings = DistillationSettings(mode="weighed", without_prompts="decode")

    passes: list[bool] = []
    encode = volume._encode
    monkeypatch.setattr(volume, "_encode", lambda *given: passes.append(True) or encode(*given))
    alone = predict_volume(network, slices, None, settings, 4, CPU)
    assert alone.consensus is None and np.ptp(alone.probabilities) > 0.1
    assert not np.allclose(alone.probabilities, alone.saliency, atol=0.1)
    one_pass = len(passes)

    of_one_class = predict_volume(network, slices, point, settings, 4, CPU)
    assert of_one_class.untrusted is not None and of_one_class.untrusted.tolist() == [False, True]
    assert len(passes) == 2 * one_pass, "the class without points needs no pass of its own"
    assert not np.allclose(of_one_class.probabilities[:, 0], alone.probabilities[:, 0], atol=1e-3)
    np.testing.assert_allclose(of_one_class.probabilities[:, 1], alone.probabilities[:, 1], atol=1e-5)

    both = SlicePrompts.concatenate([point, SlicePrompts(np.array([[2.0, 40.0, 10.0]]), np.array([1]))])
    trusted = predict_volume(network, slices, both, settings, 4, CPU)
    del passes[:]
    refused = predict_volume(network, slices, both, settings, 4, CPU, random=np.array([True, False]))
    assert len(passes) == 2 * one_pass
    expected = np.stack([alone.probabilities[:, 0], trusted.probabilities[:, 1]], axis=1)
    assert not np.allclose(expected[:, 1], alone.probabilities[:, 1], atol=1e-3)
    np.testing.assert_allclose(refused.probabilities, expected, atol=1e-5)

    encoded, rules = encode_volume(network, slices, 4, CPU), Rules.of(settings, network)
    given = distill_whole_volume(both, encoded.saliency, rules, random=np.array([True, False]))
    at_once = predict_encoded(network, encoded, given, both, rules, CPU)
    np.testing.assert_allclose(at_once, expected, atol=2e-2)  # other batches, bfloat16

    axes = (1,)
    turned = predict_mirrored(network, slices, None, settings, 4, CPU, axes)
    mirrored = predict_volume(network, mirror_maps(slices, axes), None, settings, 4, CPU)
    mean = (alone.probabilities + mirror_maps(mirrored.probabilities, axes)) / 2
    np.testing.assert_allclose(turned.probabilities, mean, atol=1e-5)


def test_folds_that_disagree_are_told(trained: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), (0, 0))
    consensus = replace(predictor.plans.settings.distillation, mode="consensus", tau=0.5, random_points="keep")
    predictor.plans = replace(predictor.plans, settings=replace(predictor.plans.settings, distillation=consensus))
    for network, bias in zip(predictor.networks, (20.0, -20.0), strict=True):  # to the first everything is salient
        last = [p for name, p in network.saliency_head.named_parameters() if name.endswith("bias")][-1]
        last.data.fill_(bias)
    image = np.random.default_rng(0).random((1, 6, 24, 28)).astype(np.float32)
    points = np.array([[2.0, 10.0, 12.0]])
    with caplog.at_level(logging.WARNING):
        predictor.predict_single_npy_array(
            image, {"spacing": (3.0, 1.0, 1.0)}, points_zyx=points, class_index=np.array([1])
        )
    (record,) = [r for r in caplog.records if "none of the prompts" in r.message]
    assert "can be trusted in 1 of 2 folds; predicted" in record.message


def test_it_is_known_how_much_of_the_slices_is_image(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def spy(*given: Any) -> DistilledVolume:
        told.append(given[3])
        return distill_whole_volume(*given)

    monkeypatch.setattr(volume, "distill_whole_volume", spy)
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), 0)
    image = np.random.default_rng(0).random((1, 6, 20, 40)).astype(np.float32)
    points = np.array([[2.0, 10.0, 12.0]])
    predictor.predict_single_npy_array(image, {"spacing": (3.0, 1.0, 1.0)}, points_zyx=points)
    assert told == [pytest.approx(0.5, abs=0.1)]
