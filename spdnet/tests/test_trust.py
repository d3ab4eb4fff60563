"""What the training cases decide about distillation: agreement and peaks, measured by stage 2, kept in the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spdnet.geometry import CaseMapping, ImageGeometry, SliceTransform
from spdnet.inference.class_rules import (
    BUFFERS,
    MIN_POINT_PRECISION,
    MIN_PRECISION,
    MeasuredShares,
    Rules,
)
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import decoder_rows, distill_volume
from spdnet.inference.volume import predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import AgreementSettings, DistillationSettings
from spdnet.planning.storage import CaseWriter
from spdnet.prompts import ALL_CLASSES, SlicePrompts
from spdnet.prompts.fates import Fate
from spdnet.tests.tiny import measured_shares, tiny_settings
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.scores import pixel_counts
from spdnet.training.stopping import StopRequest, TrainingStoppedError
from spdnet.training.trust import count_seen, measure_trust
from spdnet.training.trust_learning import learn_trust

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


def measure_precision(variants: list[StoredVariant], settings: SPDSettings, seed: int) -> MeasuredShares:
    return measure_trust(variants, settings, seed, StopRequest()).shares()


def peaks_of(variants: list[StoredVariant], settings: SPDSettings, seed: int) -> np.ndarray:
    return measure_precision(variants, settings, seed).peaks


def test_the_share_is_that_of_peaks_in_slices_without_a_trusted_point(tmp_path: Path) -> None:
    trusted = [0, *ELSEWHERE]  # salient, so the peak of this slice does not count
    first = a_variant(tmp_path, "a", [ELSEWHERE, ON_TARGET, ON_TARGET, ELSEWHERE, None, ON_TARGET], [trusted])
    assert peaks_of([first], from_files(), 0).tolist() == [0.5], "2 hits, one miss, one without target"
    second = a_variant(tmp_path, "b", [ON_TARGET] * 4 + [None, None], [])
    assert peaks_of([first, second], from_files(), 0).tolist() == [0.75]
    everywhere = [[s, *ON_TARGET] for s in range(N_SLICES)]
    prompted = a_variant(tmp_path, "c", [ON_TARGET] * N_SLICES, everywhere)
    assert peaks_of([prompted], from_files(), 0).tolist() == [1.0], "no slice needs a peak"


def test_the_target_is_confirmed_where_a_piece_holds_a_point(tmp_path: Path) -> None:
    one = a_variant(tmp_path, "a", [None] * N_SLICES, [[1, *ON_TARGET], [4, *ELSEWHERE]])
    none = a_variant(tmp_path, "b", [None] * N_SLICES, [[1, *ELSEWHERE], [5, *ON_TARGET]])
    two = a_variant(tmp_path, "c", [None] * N_SLICES, [[0, *ON_TARGET]])
    masks = np.array(two.masks)
    masks[1] = 0  # slices 0, and 2 to 4, are pieces
    two.__dict__["masks"] = masks  # a cached property
    for variant, share in ((one, 1.0), (none, 0.0), (two, 0.25)):
        assert measure_precision([variant], from_files(), 0).confirmed.tolist() == [share]
    assert measure_precision([one, none], from_files(), 0).confirmed.tolist() == [0.5]


def test_prompts_are_drawn_as_for_training(tmp_path: Path) -> None:
    variant = a_variant(tmp_path, "a", [ON_TARGET] * (N_SLICES - 1) + [ELSEWHERE], [])
    settings = from_files()
    assert peaks_of([variant], settings, 0).tolist() == pytest.approx([5 / 6])
    simulated = replace(settings, prompts=replace(settings.prompts, source="simulated"))
    drawn = {peaks_of([variant], simulated, seed).item() for seed in range(5)}
    assert all(share < 5 / 6 for share in drawn), "true points take most slices of the target"
    again = peaks_of([variant], simulated, 3)
    assert again.tolist() == peaks_of([variant], simulated, 3).tolist()


def test_pixels_to_ignore_do_not_count(tmp_path: Path) -> None:
    variant = a_variant(tmp_path, "a", [ON_TARGET, ELSEWHERE, ELSEWHERE, None, None, None], [])
    valid = np.ones((N_SLICES, SIZE, SIZE), dtype=np.uint8)
    valid[1, ELSEWHERE[0], ELSEWHERE[1]] = 0
    variant.__dict__["valid"] = valid  # a cached property
    assert peaks_of([variant], from_files(), 0).tolist() == [0.5]


@pytest.mark.parametrize(("precision", "has_peak"), [(MIN_PRECISION, True), (0.49, False), (None, True)])
def test_auto_uses_peaks_by_what_was_measured(precision: float | None, has_peak: bool) -> None:
    saliency = np.zeros((3, 2, 14, 14), dtype=np.float32)
    saliency[1, :, 3:6, 3:6] = 0.8
    nothing, settings = SlicePrompts.empty(), DistillationSettings(empty_consensus="auto")
    measured = None if precision is None else measured_shares(2, peaks=(1.0, precision))
    consensus = distill_volume(nothing, saliency, Rules(settings, SIZE))
    rows = decoder_rows(consensus, saliency, Rules(settings, SIZE, measured))
    assert rows.slice_index.tolist() == [1, 1]
    assert rows.point_is_real.any(axis=1).tolist() == [True, has_peak]
    always = replace(settings, empty_consensus="peak")
    assert decoder_rows(
        consensus, saliency, Rules(always, SIZE, measured_shares(2, points=(0, 0), peaks=(0, 0)))
    ).point_is_real.all()
    raw = replace(settings, mode="raw")
    assert not decoder_rows(
        distill_volume(nothing, saliency, Rules(raw, SIZE)), saliency, Rules(raw, SIZE)
    ).point_is_real.any()


def test_prediction_asks_as_the_network_has_measured() -> None:
    network = tiny_network(n_classes=1).eval()
    slices = np.random.default_rng(0).random((4, 1, SIZE, SIZE), dtype=np.float32)
    found = {}
    for precision in (1.0, 0.0):
        network.peak_precision.fill_(precision)
        found[precision] = predict_volume(
            network, slices, SlicePrompts.empty(), DistillationSettings(tau=0.0), 4, CPU
        ).probabilities
    network.peak_precision.fill_(0.0)
    for rule, precision in (("peak", 1.0), ("decode", 0.0)):
        settings = DistillationSettings(tau=0.0, empty_consensus=rule)
        expected = predict_volume(network, slices, SlicePrompts.empty(), settings, 4, CPU).probabilities
        assert np.array_equal(found[precision], expected)
    assert not np.array_equal(found[0.0], found[1.0])


def test_what_was_measured_is_part_of_the_model() -> None:
    values = np.random.default_rng(0).random((len(BUFFERS), 2)).astype(np.float32)
    measured = MeasuredShares(*values, trust=(None, None))
    nothing = dict.fromkeys(BUFFERS, 0.0) | {"points": 1.0, "peaks": 1.0}

    def kept_in(network: SPDNetwork) -> dict[str, list[float]]:
        return {name: getattr(MeasuredShares.of(network), name).tolist() for name in nothing}

    network = tiny_network()
    measured.keep_in(network)
    state = network.own_state()
    fresh = tiny_network()
    assert kept_in(fresh) == {name: [value] * 2 for name, value in nothing.items()}
    fresh.load_own_state(state)
    assert kept_in(fresh) == dict(zip(nothing, values.tolist(), strict=True))
    older = {name: value for name, value in state.items() if not name.endswith(("_precision", "_share", "_per_peak"))}
    fresh.load_own_state(older)
    assert kept_in(fresh) == {name: [value] * 2 for name, value in nothing.items()}


def test_points_count_in_every_slice_that_they_prompt(tmp_path: Path) -> None:
    given = [[0, *ON_TARGET], [1, *ON_TARGET], [2, *ELSEWHERE], [3, 5, 5]]  # the last is not salient
    variant = a_variant(tmp_path, "a", [ON_TARGET, ON_TARGET, ELSEWHERE, ON_TARGET, None, None], given)
    assert measure_precision([variant], from_files(), 0).points.tolist() == pytest.approx([2 / 3])
    lent = from_files()
    lent = replace(lent, distillation=replace(lent.distillation, n_context=1))
    assert measure_precision([variant], lent, 0).points.tolist() == pytest.approx([4 / 5]), "slices 0 and 1 lend"
    asked = replace(lent, distillation=replace(lent.distillation, agreement=AgreementSettings("auto")))
    assert measure_precision([variant], asked, 0).points.tolist() == pytest.approx([4 / 5]), "by saliency alone"


def test_right_points_of_another_class_are_not_counted_as_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [[0, *ON_TARGET], [1, *ON_TARGET], [2, *ELSEWHERE], [3, 5, 5]]
    variant = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, given)
    other = a_variant(tmp_path, "b", [ELSEWHERE] * N_SLICES, [])
    for name in ("saliency", "masks"):
        variant.__dict__[name] = np.concatenate([getattr(v, name) for v in (variant, other)], axis=1)
    found = measure_trust([variant], from_files(), 0, StopRequest()).salient
    assert found.n.tolist() == [12, 0], "of the first class, in each of three draws"
    for_all = SlicePrompts(np.array(given, dtype=np.float64), np.full(4, ALL_CLASSES))
    monkeypatch.setattr("spdnet.training.trust.draw_prompts", lambda *_: for_all)
    found = measure_trust([variant], from_files(), 0, StopRequest()).salient
    assert (found.n_inside.tolist(), found.n.tolist()) == ([6, 3], [9, 6])


def test_peaks_are_those_that_the_rule_for_points_leaves(tmp_path: Path) -> None:
    """Agreement rejects the lone point, and then its slice needs a peak."""
    peaks = [ON_TARGET, ON_TARGET, ON_TARGET, ON_TARGET, ON_TARGET, ELSEWHERE]
    noise = [[s, y, x] for s in range(N_SLICES) for y in (4, 50) for x in range(2, 56, 10)]
    given = [*([s, *ON_TARGET] for s in range(4)), [5, *ELSEWHERE], *noise]
    variant = a_variant(tmp_path, "a", peaks, given)
    shares = {}
    for mode in ("off", "auto", "neighbours"):
        settings = from_files(agreement=AgreementSettings(mode, min_probability=0.85))
        shares[mode] = measure_precision([variant], settings, 0)
        assert shares[mode].points.tolist() == pytest.approx([4 / 5])
    assert shares["off"].peaks.tolist() == [1.0], "slice 4"
    assert shares["neighbours"].peaks.tolist() == [0.5], "slices 4 and 5"
    assert shares["auto"].peaks.tolist() == [0.5], "4 of 5 is too few"
    variant.__dict__["content_share"] = 0.05  # a cached property
    settings = from_files(agreement=AgreementSettings("neighbours", min_probability=0.85))
    found = measure_precision([variant], settings, 0)
    assert found.peaks.tolist() == pytest.approx([5 / 6]), "so dense is chance that no point is trusted"


@pytest.mark.parametrize(
    ("peaks", "continued", "per_peak", "chosen"),
    [
        (0.9, 1.0, 0.5, "peak"),  # fewer are wrong, but many more right ones are missed
        (0.58, 0.95, 1.0, "continued"),  # half of the peaks are right, and half wrong
        (0.58, 0.95, 0.1, "peak"),
        (0.49, 0.95, 0.1, "continued"),
        (0.49, 0.49, 1.0, "decode"),
        (0.49, 0.95, 0.0, "continued"),  # a model from before this was counted
        (0.5, 1.0, 0.0, "peak"),
    ],
)
def test_what_stands_in_has_most_right_pixels_less_wrong_ones(
    peaks: float, continued: float, per_peak: float, chosen: str
) -> None:
    measured = measured_shares(2, peaks=(0, peaks), continued=(1, continued), continued_per_peak=(1, per_peak))
    plans = DistillationSettings(empty_consensus="auto")
    assert Rules(plans, 56, measured).of_class(1) == replace(plans, empty_consensus=chosen)
    assert Rules(plans, 56, measured).of_class(0).empty_consensus == "continued"
    assert Rules(plans, 56).of_class(1).empty_consensus == "peak"


def test_what_continues_is_counted_from_trusted_points(tmp_path: Path) -> None:
    peaks = [ON_TARGET, ON_TARGET, ON_TARGET, ELSEWHERE, ELSEWHERE, ON_TARGET]
    variant = a_variant(tmp_path, "a", peaks, [[0, *ON_TARGET]])
    found = measure_precision([variant], from_files(), 0)
    assert found.continued.tolist() == [1.0] and found.peaks.tolist() == pytest.approx([2 / 5])
    assert found.continued_per_peak.tolist() == pytest.approx([2 / 5])
    variant = a_variant(tmp_path, "b", peaks, [[0, *ON_TARGET], [3, *ELSEWHERE]])
    assert measure_precision([variant], from_files(), 0).continued.tolist() == pytest.approx([2 / 3])


@pytest.mark.parametrize(
    ("share", "mode"), [(0.84, "neighbours"), (MIN_POINT_PRECISION, "off"), (0.9, "off"), (None, "off")]
)
def test_auto_asks_neighbours_where_saliency_does_not_suffice(share: float | None, mode: str) -> None:
    plans = DistillationSettings(agreement=AgreementSettings("auto"), empty_consensus="decode")
    measured = None if share is None else measured_shares(2, points=(0, share))
    rule = Rules(plans, 56, measured).of_class(1)
    assert rule == replace(plans, agreement=AgreementSettings(mode))
    fixed = DistillationSettings(agreement=AgreementSettings("neighbours"), empty_consensus="empty")
    assert Rules(fixed, 56, measured_shares(2)).of_class(1) == fixed


def test_distillation_and_its_report_ask_as_was_measured() -> None:
    rng = np.random.default_rng(4)
    saliency = np.zeros((20, 2, 56, 56), dtype=np.float32)
    saliency[:, :, 10:26, 10:26] = 0.9
    target = np.column_stack([np.arange(20.0), np.full((20, 2), 18.0)])
    noise = np.column_stack([np.repeat(np.arange(20.0), 12), rng.uniform(0, 55, (240, 2))])
    points = np.concatenate([target, noise])
    prompts = SlicePrompts(points, np.full(len(points), -1, dtype=np.int64))
    plans = DistillationSettings(agreement=AgreementSettings("auto"))
    asked = measured_shares(2, points=(1, 0.5))
    first, second = distill_volume(prompts, saliency, Rules(plans, SIZE, asked))
    on = replace(plans, agreement=AgreementSettings("neighbours"))
    off = replace(plans, agreement=AgreementSettings())
    assert np.array_equal(first.points_yx, distill_volume(prompts, saliency, Rules(off, SIZE))[0].points_yx)
    assert np.array_equal(second.points_yx, distill_volume(prompts, saliency, Rules(on, SIZE))[1].points_yx)
    assert len(first.points_yx) > len(second.points_yx) > 20
    judged = judge_prompts(prompts, saliency, Rules(plans, SIZE, asked))
    assert [len(f.rows(Fate.REJECTED_ALONE)) > 0 for f in judged.fates] == [False, True]


def test_salient_points_are_counted_in_their_own_slice(tmp_path: Path) -> None:
    given = [[0.0, *ON_TARGET], [0.0, *ELSEWHERE], [1.0, *ELSEWHERE], [9.0, *ON_TARGET]]
    variant = a_variant(tmp_path, "a", [ON_TARGET, ON_TARGET, None, None, None, None], given)
    settings = from_files()
    found = measure_trust([variant], settings, 0, StopRequest()).salient
    assert found.in_words(0) == "3 of 9", "three draws; one point of three that lie in the volume"
    none = a_variant(tmp_path, "b", [ON_TARGET] * N_SLICES, [])
    assert measure_precision([none], settings, 0).salient.tolist() == [0.0]


def test_of_the_points_on_the_target_it_is_counted_how_many_are_salient(tmp_path: Path) -> None:
    given = [[0.0, *ON_TARGET], [1.0, *ON_TARGET], [2.0, *ON_TARGET], [2.0, *ELSEWHERE], [9.0, *ON_TARGET]]
    variant = a_variant(tmp_path, "a", [ON_TARGET, ELSEWHERE, None, None, None, None], given)
    assert count_seen([variant], from_files(), 0, StopRequest()).in_words(0) == "3 of 9"
    valid = np.ones((N_SLICES, SIZE, SIZE), dtype=np.uint8)
    valid[1, ON_TARGET[0], ON_TARGET[1]] = 0
    variant.__dict__["valid"] = valid  # a cached property
    assert count_seen([variant], from_files(), 0, StopRequest()).in_words(0) == "3 of 6"


@pytest.mark.parametrize(("n_salient", "warns"), [(4, False), (3, True)])
def test_the_log_warns_where_the_saliency_misses_many_points(n_salient: int, warns: bool, tmp_path: Path) -> None:
    n_target = N_SLICES - 1
    peaks = [ON_TARGET] * n_salient + [None] * (N_SLICES - n_salient)
    variant = a_variant(tmp_path, "a", peaks, [[s, *ON_TARGET] for s in range(n_target)])
    stage = PromptStage(tiny_network(n_classes=1), from_files(), [variant.case], [], CPU, 0, tmp_path)
    stage._train = [[variant]]
    lines = stage.decide(["bowel"])
    assert f"bowel: of the points on it in the training cases, {3 * n_salient} of {3 * n_target} are salient" in lines
    assert any(line.startswith("warning: bowel: stage 1 misses many") for line in lines) == warns


@pytest.mark.parametrize(("n_salient", "learns"), [(4, False), (3, True)])
def test_trust_is_learned_where_the_saliency_misses_many_points(n_salient: int, learns: bool, tmp_path: Path) -> None:
    peaks = [ON_TARGET] * n_salient + [None] * (N_SLICES - n_salient)
    everywhere = [[s, *place] for s in range(N_SLICES - 1) for place in (ON_TARGET, ELSEWHERE)]
    variant, settings = a_variant(tmp_path, "a", peaks, everywhere), from_files(trust="auto")
    stage = PromptStage(tiny_network(n_classes=1), settings, [variant.case], [], CPU, 0, tmp_path)
    stage._train = [[variant]]
    before = Rules.of(settings.distillation, stage.network).of_class(0)
    lines = stage.decide(["bowel"])
    after = Rules.of(settings.distillation, stage.network).of_class(0)
    assert before.trust == "saliency" and after.trust == ("learned" if learns else "saliency")
    assert any("places that points of the training cases would prompt" in line for line in lines) == learns
    assert any("others than salient ones may be trusted" in line for line in lines) == learns
    kept = distill_volume(
        variant.case.prompts, np.asarray(variant.saliency, np.float32), Rules.of(settings.distillation, stage.network)
    )[0]
    expected = range(N_SLICES - 1 if learns else n_salient)
    assert sorted(kept.slice_index.tolist()) == list(expected), "of the five points on the target"


def test_only_the_classes_that_are_asked_learn(tmp_path: Path) -> None:
    everywhere = [[s, *place] for s in range(N_SLICES - 1) for place in (ON_TARGET, ELSEWHERE)]
    variant, settings = a_variant(tmp_path, "a", [None] * N_SLICES, everywhere), from_files()
    assert learn_trust([variant], settings, 0, StopRequest(), classes=[]) == {}
    assert list(learn_trust([variant], settings, 0, StopRequest(), classes=[0])) == [0]


@pytest.mark.parametrize("rule", ["auto", "peak"])
def test_stage_2_measures_and_says_so(rule: str, tmp_path: Path) -> None:
    mode = "auto" if rule == "auto" else "off"
    others = {"random_points": "refuse", "near_points": mode, "agreement": AgreementSettings(mode)}
    settings = from_files(empty_consensus=rule, tau=0.0, **others)  # everything is salient
    case = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, [[0, *ON_TARGET], [0, *ELSEWHERE]]).case
    network = tiny_network(n_classes=1)
    network.peak_precision.fill_(0.125)
    stage = PromptStage(network, settings, [case], [], CPU, 0, tmp_path)
    stage.prepare()
    assert network.peak_precision.item() == 0.125, "a resumed training keeps what it measured"
    lines = stage.decide(["bowel"])
    if rule == "peak":
        assert lines == [] and network.peak_precision.item() == 0.125 and network.point_precision.item() == 1
        return
    share = network.peak_precision.item()
    assert network.point_precision.item() == 0.5 and share != 0.125
    way = "from that pixel" if share >= 0.5 else "without a point"
    assert lines.pop(0) == "bowel: of the points on it in the training cases, 3 of 3 are salient"
    assert lines[0] == (
        "bowel: of the points that saliency trusts in the training cases, 3 of 6 are on it; the neighbouring slices "
        "are asked too"
    )
    assert network.salient_share.item() == 1
    refused = (
        "bowel: of all points of the training cases, 6 of 6 are salient; a volume whose points are so no more often "
        "than random ones is predicted from the saliency alone"
    )
    near = (
        "bowel: in training slices without a trusted point, 0 of 0 points near trusted ones of neighbouring slices are "
        "on it; place alone is no reason to trust one"
    )
    assert lines[2:] == [near] + ([] if share >= 0.5 else [refused]), "where peaks stand in, nothing is refused"
    assert lines[1].startswith("bowel: in training slices without a trusted prompt, ")
    assert lines[1].endswith(f" of those in what continues a trusted point's piece; such slices are decoded {way}")
    stage.stop.requested = True
    with pytest.raises(TrainingStoppedError):
        stage.decide(["bowel"])


def test_the_validation_during_training_is_of_what_is_predicted(tmp_path: Path) -> None:
    settings = from_files(empty_consensus="decode", tau=0.5, agreement=AgreementSettings())
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


def test_a_second_look_is_for_the_better_where_it_drops_wrong_points_and_bridges_gaps(tmp_path: Path) -> None:
    right = [[s, *ON_TARGET] for s in (0, 1, 3, 4)]
    at_home = [ON_TARGET, ON_TARGET, None, ON_TARGET, ON_TARGET, None]
    gap = a_variant(tmp_path, "a", at_home, right)
    assert measure_precision([gap], from_files(), 0).look.tolist() == [1.0], "slice 2 is bridged"
    wrong = a_variant(tmp_path, "b", [*at_home[:2], ELSEWHERE, *at_home[3:]], [*right, [2, *ELSEWHERE]])
    found = measure_trust([wrong], from_files(), 0, StopRequest()).look
    assert (found.n_inside.tolist(), found.n.tolist()) == ([3], [3]), "the point is dropped, in each of three draws"
    nothing = a_variant(tmp_path, "c", [ON_TARGET] * 5 + [None], [[s, *ON_TARGET] for s in range(5)])
    assert measure_precision([nothing], from_files(), 0).look.tolist() == [0.0]


def test_places_beside_last_masks_are_counted_apart(tmp_path: Path) -> None:
    peaks = [None, ON_TARGET, ON_TARGET, ON_TARGET, None, None]
    variant = a_variant(tmp_path, "a", peaks, [[s, *ON_TARGET] for s in (1, 2, 3)])
    found = measure_trust([variant], from_files(), 0, StopRequest())
    assert (found.prolong.n_inside.tolist(), found.prolong.n.tolist()) == ([6], [6]), "slices 0 and 4, three draws"
    assert found.look.n.tolist() == [0]
    ends = np.array(variant.masks)
    ends[4:] = 0
    np.save(tmp_path / "a_0_masks.npy", ends)
    variant = StoredVariant(variant.case, variant.transform, variant.folder, variant.name)
    assert measure_precision([variant], from_files(), 0).prolong.tolist() == [0.5], "slice 0 alone"
    unsalient = [[s, *ON_TARGET] for s in (0, 1, 2, 3, 5)] + [[4, *ELSEWHERE], [4, 30, 30]]
    variant = a_variant(tmp_path, "b", peaks, unsalient)
    found = measure_trust([variant], from_files(), 0, StopRequest())
    assert (found.readmit.n_inside.tolist(), found.readmit.n.tolist()) == ([3], [3]), "that of slice 0"


@pytest.mark.parametrize("place", [ON_TARGET, ELSEWHERE])
def test_points_that_further_looks_could_follow_are_counted(tmp_path: Path, place: tuple[float, float]) -> None:
    """Behind slice 3 the target may go on or not; two points of slice 4 lie where it was, and so do two of four."""
    peaks, (y, x) = [None, ON_TARGET, ON_TARGET, ON_TARGET, None, None], ON_TARGET
    pair = [[4, y, x], [4, y + 1, x]]
    variant = a_variant(tmp_path, "a", peaks, [*[[s, *ON_TARGET] for s in (1, 2, 3)], *pair, [0, *ON_TARGET]])
    if place == ELSEWHERE:
        ends = np.array(variant.masks)
        ends[4:] = 0
        np.save(tmp_path / "a_0_masks.npy", ends)
        variant = StoredVariant(variant.case, variant.transform, variant.folder, variant.name)
    found = measure_trust([variant], from_files(), 0, StopRequest()).follow
    assert (found.n_inside.tolist(), found.n.tolist()) == ([6 if place == ON_TARGET else 0], [6]), "not that of slice 0"


def test_where_there_was_none_to_follow_they_are_followed(tmp_path: Path) -> None:
    peaks = [None, ON_TARGET, ON_TARGET, ON_TARGET, None, None]
    variant = a_variant(tmp_path, "a", peaks, [[s, *ON_TARGET] for s in (1, 2, 3)])
    assert measure_precision([variant], from_files(), 0).follow.tolist() == [1.0]


def test_a_second_look_is_for_the_worse_where_targets_are_thin(tmp_path: Path) -> None:
    variant = a_variant(tmp_path, "a", [None, None, ON_TARGET, None, None, None], [[2, *ON_TARGET]])
    thin = np.array(variant.masks)
    thin[[0, 1, 3, 4]] = 0
    np.save(tmp_path / "a_0_masks.npy", thin)
    variant = StoredVariant(variant.case, variant.transform, variant.folder, variant.name)
    found = measure_trust([variant], from_files(), 0, StopRequest())
    assert (found.look.n_inside.tolist(), found.look.n.tolist()) == ([0], [3])
    plans = DistillationSettings(second_look="auto")
    assert Rules(plans, 56, found.shares()).of_class(0).second_look == "off"


@pytest.mark.parametrize(("share", "rule"), [(MIN_PRECISION, "on"), (0.49, "off"), (None, "off")])
def test_auto_looks_again_where_that_is_for_the_better(share: float | None, rule: str) -> None:
    measured = None if share is None else measured_shares(2, look=(0, share))
    plans = DistillationSettings(second_look="auto", empty_consensus="decode")
    assert Rules(plans, 56, measured).of_class(1).second_look == rule
    assert Rules(plans, 56, measured).of_class(0).second_look == "off"
