"""What stage 2 counts in the training cases, and what is decided by it; kept in the model."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spdnet.geometry import CaseMapping, ImageGeometry, SliceTransform
from spdnet.inference.class_rules import MIN_CONFIRMED, MeasuredShares, Rules
from spdnet.network import SPDNetwork, build_network
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import DensePromptSettings, DistillationSettings
from spdnet.planning.storage import CaseWriter
from spdnet.prompts import ALL_CLASSES, SlicePrompts
from spdnet.tests.tiny import measured_shares, tiny_settings
from spdnet.training.case_shares import CaseShares
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.prompt_source import draw_prompts, training_prompts, validation_prompts
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.scores import pixel_counts
from spdnet.training.stopping import StopRequest, TrainingStoppedError

SIZE, N_SLICES = 56, 6
CPU = torch.device("cpu")
ON_TARGET, ELSEWHERE = (20, 24), (44, 40)  # network pixels


def tiny_network(n_classes: int = 2) -> SPDNetwork:
    torch.manual_seed(3)
    return build_network("tiny", 1, n_classes, SIZE, 4, 4, 0.0)


def a_variant(folder: Path, name: str, peaks: list[tuple[int, int] | None], points: list[list[float]]) -> StoredVariant:
    """A case whose target is a square in all slices but the last, stored with saliency that peaks where it is told."""
    masks = np.zeros((N_SLICES, 1, SIZE, SIZE), dtype=np.uint8)
    masks[:-1, 0, 16:28, 20:30] = 1
    saliency = np.zeros((N_SLICES, 1, SIZE, SIZE), dtype=np.float16)
    for s, peak in enumerate(peaks):
        if peak is not None:
            y, x = peak
            saliency[s, 0, y - 3 : y + 4, x - 3 : x + 4] = 0.7
            saliency[s, 0, y, x] = 0.9
    given = SlicePrompts(np.array(points, dtype=np.float64).reshape(-1, 3), np.zeros(len(points), dtype=np.int64))
    shape = (N_SLICES, SIZE, SIZE)
    crop = tuple((0, n) for n in shape)
    mapping = CaseMapping(shape, (0, 1, 2), (False, False, False), crop, (SIZE, SIZE), (0, 0), SIZE)
    geometry = ImageGeometry(shape, (4.0, 1.0, 1.0))
    CaseWriter(folder, name).write(masks * 0.5, masks, None, mapping, geometry, given)
    np.save(folder / f"{name}_0_saliency.npy", saliency)
    np.save(folder / f"{name}_0_masks.npy", masks)
    return StoredVariant(StoredCase(folder, name), SliceTransform(), folder, f"{name}_0")


def from_files(**distillation: object) -> SPDSettings:
    settings = tiny_settings(distillation=DistillationSettings(n_context=0, **distillation))
    return replace(settings, prompts=replace(settings.prompts, source="files", imitated_share=0.0))


def shares_of(variants: list[StoredVariant], settings: SPDSettings, seed: int = 0) -> CaseShares:
    return CaseShares.of(variants, settings, seed, StopRequest())


def test_the_target_is_confirmed_where_a_piece_holds_a_point(tmp_path: Path) -> None:
    one = a_variant(tmp_path, "a", [None] * N_SLICES, [[1, *ON_TARGET], [4, *ELSEWHERE]])
    none = a_variant(tmp_path, "b", [None] * N_SLICES, [[1, *ELSEWHERE], [5, *ON_TARGET]])
    two = a_variant(tmp_path, "c", [None] * N_SLICES, [[0, *ON_TARGET]])
    masks = np.array(two.masks)
    masks[1] = 0  # slices 0, and 2 to 4, are pieces
    two.__dict__["masks"] = masks  # a cached property
    for variant, share in ((one, 1.0), (none, 0.0), (two, 0.25)):
        assert shares_of([variant], from_files()).measured().confirmed.tolist() == [share]
    assert shares_of([one, none], from_files()).measured().confirmed.tolist() == [0.5]


def test_prompts_are_drawn_as_for_training(tmp_path: Path) -> None:
    variant = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, [[0, *ON_TARGET]])
    settings = from_files()
    assert shares_of([variant], settings).salient.in_words(0) == "1 of 1"
    simulated = replace(settings, prompts=replace(settings.prompts, source="simulated"))
    drawn = {shares_of([variant], simulated, seed).salient.in_words(0) for seed in range(5)}
    assert len(drawn) > 1 and "1 of 1" not in drawn
    boxed, mixed = (replace(settings.prompts, **c) for c in ({"boxes": "simulated"}, {"imitated_share": 1e-9}))
    for prompts in (boxed, mixed):
        assert shares_of([variant], replace(settings, prompts=prompts)).salient.in_words(0) == "3 of 3", "three draws"
    again = [shares_of([variant], simulated, 3).salient.in_words(0) for _ in range(2)]
    assert again[0] == again[1]


def test_draws_without_prompts_are_for_training_alone(tmp_path: Path) -> None:
    case = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, [[0, *ON_TARGET]]).case
    rng, n_draws = np.random.default_rng(0), 400
    for share in (0.0, 0.25, 1.0):
        prompts = replace(from_files().prompts, absent_share=share)
        given = sum(len(training_prompts(case, prompts, rng)) > 0 for _ in range(n_draws))
        assert abs(given - (1 - share) * n_draws) <= 4 * np.sqrt(n_draws * share * (1 - share))
        assert len(draw_prompts(case, prompts, rng)) == len(validation_prompts(case, prompts)) == 1
    boxed = replace(from_files().prompts, boxes="simulated")
    assert len(training_prompts(case, boxed, rng).boxes)
    none = training_prompts(case, replace(boxed, absent_share=1.0), rng)
    assert not len(none) and not len(none.boxes)


def test_right_points_of_another_class_are_not_counted_as_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [[0, *ON_TARGET], [1, *ON_TARGET], [2, *ELSEWHERE], [3, 5, 5]]
    variant = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, given)
    other = a_variant(tmp_path, "b", [ELSEWHERE] * N_SLICES, [])
    for name in ("saliency", "masks"):
        variant.__dict__[name] = np.concatenate([getattr(v, name) for v in (variant, other)], axis=1)
    found = shares_of([variant], from_files()).salient
    assert found.n.tolist() == [4, 0], "of the first class"
    for_all = SlicePrompts(np.array(given, dtype=np.float64), np.full(4, ALL_CLASSES))
    monkeypatch.setattr("spdnet.training.case_shares.draw_prompts", lambda *_: for_all)
    found = shares_of([variant], from_files()).salient
    assert (found.n_inside.tolist(), found.n.tolist()) == ([2, 1], [3, 2])


def test_salient_points_are_counted_in_their_own_slice(tmp_path: Path) -> None:
    given = [[0.0, *ON_TARGET], [0.0, *ELSEWHERE], [1.0, *ELSEWHERE], [9.0, *ON_TARGET]]
    variant = a_variant(tmp_path, "a", [ON_TARGET, ON_TARGET, None, None, None, None], given)
    assert shares_of([variant], from_files()).salient.in_words(0) == "1 of 3", "three points in the volume"
    none = a_variant(tmp_path, "b", [ON_TARGET] * N_SLICES, [])
    assert shares_of([none], from_files()).measured().salient.tolist() == [0.0]


def test_of_the_points_on_the_target_it_is_counted_how_many_are_salient(tmp_path: Path) -> None:
    given = [[0.0, *ON_TARGET], [1.0, *ON_TARGET], [2.0, *ON_TARGET], [2.0, *ELSEWHERE], [9.0, *ON_TARGET]]
    variant = a_variant(tmp_path, "a", [ON_TARGET, ELSEWHERE, None, None, None, None], given)
    assert shares_of([variant], from_files()).seen.in_words(0) == "1 of 3"
    valid = np.ones((N_SLICES, SIZE, SIZE), dtype=np.uint8)
    valid[1, ON_TARGET[0], ON_TARGET[1]] = 0
    variant.__dict__["valid"] = valid  # a cached property
    assert shares_of([variant], from_files()).seen.in_words(0) == "1 of 2"


def test_what_was_measured_is_part_of_the_model() -> None:
    names = [field.name for field in fields(MeasuredShares)]
    values = np.random.default_rng(0).random((len(names), 2)).astype(np.float32)

    def kept_in(network: SPDNetwork) -> list[list[float]]:
        return [getattr(MeasuredShares.of(network), name).tolist() for name in names]

    network = tiny_network()
    MeasuredShares(*values).keep_in(network)
    fresh = tiny_network()
    assert kept_in(fresh) == [[0.0, 0.0]] * len(names)
    fresh.load_own_state(network.own_state())
    assert kept_in(fresh) == values.tolist()


@pytest.mark.parametrize(
    ("rule", "share", "drops"),
    [
        ("auto", MIN_CONFIRMED, True),
        ("auto", 0.94, False),
        ("auto", None, False),
        ("drop", None, True),
        ("keep", 1.0, False),
    ],
)
def test_pieces_are_dropped_as_the_plans_and_the_training_cases_say(
    rule: str, share: float | None, drops: bool
) -> None:
    measured = None if share is None else measured_shares(2, confirmed=(0, share))
    rules = Rules(DistillationSettings(lone_pieces=rule), SIZE, measured)  # type: ignore[arg-type]
    assert [rules.drops_pieces(k) for k in range(2)] == [rule == "drop", drops]


@pytest.mark.parametrize(("n_salient", "warns"), [(4, False), (3, True)])
def test_the_log_warns_where_the_saliency_misses_many_points(n_salient: int, warns: bool, tmp_path: Path) -> None:
    n_target = N_SLICES - 1
    peaks = [ON_TARGET] * n_salient + [None] * (N_SLICES - n_salient)
    variant = a_variant(tmp_path, "a", peaks, [[s, *ON_TARGET] for s in range(n_target)])
    stage = PromptStage(
        tiny_network(n_classes=1), from_files(random_points="refuse"), [variant.case], [], CPU, 0, tmp_path
    )
    stage._train = [[variant]]
    lines = stage.decide(["bowel"])
    assert f"bowel: of the points on it in the training cases, {n_salient} of {n_target} are salient" in lines
    assert any(line.startswith("warning: bowel: stage 1 misses many") for line in lines) == warns


@pytest.mark.parametrize("mode", ["weighed", "consensus", "raw"])
def test_stage_2_measures_and_says_so(mode: str, tmp_path: Path) -> None:
    rules = {"tau": 0.0, "random_points": "refuse", "lone_pieces": "auto"}  # everything is salient
    settings = replace(from_files(), dense_prompt=DensePromptSettings("maps"))
    settings = replace(settings, distillation=DistillationSettings(mode=mode, n_context=0, **rules))  # type: ignore[arg-type]
    case = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, [[0, *ON_TARGET], [0, *ELSEWHERE]]).case
    network = tiny_network(n_classes=1)
    network.salient_share.fill_(0.125)
    stage = PromptStage(network, settings, [case], [], CPU, 0, tmp_path)
    stage.prepare()
    assert network.salient_share.item() == 0.125, "a resumed training keeps what it measured"
    lines = stage.decide(["bowel"])
    if mode == "raw":
        assert lines == [] and network.salient_share.item() == 0.125 and network.confirmed_share.item() == 0
        return
    assert network.salient_share.item() == network.confirmed_share.item() == 1
    assert lines == [
        "bowel: of the points on it in the training cases, 1 of 1 are salient",
        "bowel: of the target in the training cases, 100% is in pieces with a point; pieces of masks without any are "
        "dropped",
        "bowel: of all points of the training cases, 2 of 2 are salient; a volume whose points are so no more often "
        "than random ones is predicted without them",
    ]
    stage.stop.requested = True
    with pytest.raises(TrainingStoppedError):
        stage.decide(["bowel"])


def test_the_validation_during_training_is_of_what_is_predicted(tmp_path: Path) -> None:
    settings = from_files()
    network, counts = tiny_network(n_classes=1), {}
    for name, point in (("off", ELSEWHERE), ("on", ON_TARGET)):
        folder = tmp_path / name
        folder.mkdir()
        case = a_variant(folder, name, [None] * N_SLICES, [[2.0, *point]]).case
        stage = PromptStage(network, settings, [], [case], CPU, 0, folder)
        stage.prepare()
        (variant,) = stage.validation_batches()
        assert isinstance(variant, StoredVariant)
        saliency = a_variant(folder, "given", [ON_TARGET] * N_SLICES, []).saliency
        variant.__dict__["saliency"] = saliency[..., ::2, ::2]  # a cached property; the maps have half the size
        with torch.no_grad():
            found = stage.validation_scores(variant)
        alone = torch.nn.functional.interpolate(
            torch.from_numpy(variant.saliency.astype(np.float32)), (SIZE, SIZE), mode="bilinear"
        )
        expected = pixel_counts((alone > 0.5).numpy(), np.array(variant.masks), None)
        counts[name] = all(np.array_equal(found[key], expected[key]) for key in expected)
    assert counts == {"off": True, "on": False}, "no trusted point: the saliency; one: what is decoded"
