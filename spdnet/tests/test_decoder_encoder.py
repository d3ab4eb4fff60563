"""The decoder's own encoder: what it shares with the first, how it is trained, stored and run."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spdnet.errors import ModelError, PlansError
from spdnet.inference import SPDPredictor
from spdnet.inference.class_rules import Rules
from spdnet.inference.nnunet_network import SaliencyNetwork
from spdnet.inference.prompting import distill_whole_volume
from spdnet.inference.volume import encode_for_decoder, encode_volume, predict_encoded, predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.network.precision import place
from spdnet.network.prediction_form import optimize_for_prediction
from spdnet.planning import SPDSettings
from spdnet.planning.plans import DensePromptSettings, DistillationSettings, StageSettings
from spdnet.prompts import SlicePrompts
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_training import make_trainer, raw_true_settings, run, scores, stored_cases, train_epochs
from spdnet.tests.tiny import register_tiny, tiny_settings
from spdnet.training.pretrained import load_pretrained_weights
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.registry import TRAINERS

CPU = torch.device("cpu")
SIZE = 56
IMAGES = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _tiny() -> None:
    register_tiny()


def two_encoders(backbone: str = "tiny", trained: bool = True, own: bool = True, n_channels: int = 1) -> SPDNetwork:
    """With adapters that differ, as after both stages, unless it is not trained."""
    torch.manual_seed(0)
    network = build_network(backbone, n_channels, 2, SIZE, 4, 4, 0.1, load_weights=False, decoder_encoder=own)
    if trained:
        generator = torch.Generator().manual_seed(5)
        for parameter in (network.stage1_parameters() | network.stage2_parameters()).values():
            parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@torch.no_grad()
def embeddings(network: SPDNetwork, images: torch.Tensor = IMAGES) -> tuple[torch.Tensor, torch.Tensor]:
    return network.encode(images).float(), network.encode_for_decoder(images).float()


def test_a_network_of_one_encoder_has_the_same_embeddings_for_both() -> None:
    first, second = embeddings(two_encoders(own=False))
    assert torch.equal(first, second)


@pytest.mark.parametrize("placed", [False, True])
def test_it_shares_all_weights_but_the_adapters(placed: bool) -> None:
    network = two_encoders()
    if placed:
        place(network, CPU)
    first, second = (dict(e.named_parameters()) for e in (network.image_encoder, network.decoder_encoder))
    assert first.keys() == second.keys()
    for name, parameter in first.items():
        assert (second[name] is parameter) == ("lora_" not in name), name
    one = two_encoders(own=False)
    n_more = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in one.parameters())
    assert n_more == sum(p.numel() for n, p in first.items() if "lora_" in n)


def test_new_layers_are_drawn_as_without_it() -> None:
    plain, network = two_encoders(trained=False, own=False).own_state(), two_encoders(trained=False).own_state()
    assert all(torch.equal(network[name], value) for name, value in plain.items())
    assert network.keys() - plain.keys() and all(
        n.startswith("decoder_encoder.") for n in network.keys() - plain.keys()
    )


def test_the_first_stage_trains_the_first_adapters_the_second_the_others() -> None:
    network = two_encoders()
    lora = {n for n, _ in network.named_parameters() if "lora_" in n}
    first, second = network.stage1_parameters().keys(), network.stage2_parameters().keys()
    assert {n for n in lora if n.startswith("image_encoder.")} == {n for n in first if "lora_" in n}
    assert {n for n in lora if n.startswith("decoder_encoder.")} == {n for n in second if "lora_" in n}
    assert not any(n.startswith("decoder_encoder.") and "lora_" not in n for n in first | second)


def test_it_begins_as_stage_1_has_left_the_first_and_goes_its_own_way() -> None:
    network = two_encoders()
    first, second = embeddings(network)
    assert not torch.equal(first, second)
    network.copy_adapters_to_decoder()
    assert torch.equal(embeddings(network)[0], first) and torch.equal(embeddings(network)[1], first)
    for name, parameter in network.stage2_parameters().items():
        if "lora_B" in name:
            parameter.data += 0.1
    assert torch.equal(embeddings(network)[0], first), "the first does not follow"
    assert not torch.equal(embeddings(network)[1], first)


@pytest.mark.parametrize("backbone", ["tiny", "lite"])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [True, False])
def test_at_once_they_make_the_same_to_the_last_bit(backbone: str, dtype: torch.dtype | None, own: bool) -> None:
    network = two_encoders(backbone, own=own)
    if dtype is not None:
        optimize_for_prediction(network, dtype)
    with torch.no_grad():
        at_once = network.encode_for_both(IMAGES)
    for one, expected in zip(at_once, embeddings(network), strict=True):
        assert torch.equal(one.float(), expected)
    assert torch.equal(*at_once) != own


def test_at_once_the_stem_is_run_once_and_has_nothing_that_is_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    network = two_encoders("lite")
    stem, runs, inside = network.image_encoder.stem, [], set()
    for name, module in network.image_encoder.named_modules():
        module.register_forward_hook(lambda *_, name=name: inside.add(name))
    monkeypatch.setattr(network.image_encoder, "stem", lambda images: runs.append(len(images)) or stem(images))
    monkeypatch.setattr(network.decoder_encoder, "stem", None)
    with torch.no_grad():
        network.image_encoder.stem(network._normalized(IMAGES))
        assert inside and not any("lora_" in name for name in inside), "run by the stem alone"
        assert any("lora_" in name for name, _ in network.image_encoder.named_modules())
        network.encode_for_both(IMAGES)
    assert runs == [3, 3]


def test_both_encoders_are_the_published_one_without_adapters() -> None:
    network = two_encoders()
    with network.plain_sam():
        first, second = embeddings(network)
    expected, _ = embeddings(two_encoders(trained=False))
    assert torch.equal(first, expected) and torch.equal(second, expected)


def test_only_the_dropout_of_its_adapters_is_active_in_training() -> None:
    network = two_encoders().train()
    active = {n for n, m in network.decoder_encoder.named_modules() if m.training and not list(m.children())}
    assert active and all("lora_dropout" in n for n in active)


def test_own_state_restores_both() -> None:
    network, other = two_encoders(), two_encoders(trained=False)
    other.load_own_state(network.own_state())
    for one, restored in zip(embeddings(network), embeddings(other), strict=True):
        assert torch.equal(one, restored)
    with pytest.raises(KeyError, match=r"missing .*decoder_encoder"):
        network.load_own_state(two_encoders(own=False).own_state())


def test_a_copied_network_is_on_its_own() -> None:
    network = two_encoders()
    copied = copy.deepcopy(network)
    before = embeddings(network)
    for parameter in copied.parameters():
        parameter.data += 0.1
    for one, again in zip(before, embeddings(network), strict=True):
        assert torch.equal(one, again)
    names = [n for n, p in copied.image_encoder.named_parameters() if "lora_" not in n]
    there = dict(copied.decoder_encoder.named_parameters())
    assert all(there[n] is dict(copied.image_encoder.named_parameters())[n] for n in names)


@pytest.mark.parametrize("backbone", ["tiny", "lite"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_for_prediction_both_are_merged_and_neither_into_the_other(
    backbone: str, dtype: torch.dtype, most: float
) -> None:
    network = two_encoders(backbone)
    merged = copy.deepcopy(network)
    optimize_for_prediction(merged, dtype)
    published, fast = embeddings(network), embeddings(merged)
    for one, other in zip(published, fast, strict=True):
        assert (one - other).norm() / one.norm() < most
    assert (published[0] - published[1]).norm() / published[0].norm() > 2 * most, "else this would tell nothing"
    state = network.own_state()
    assert all(torch.equal(value, state[name]) for name, value in merged.own_state().items())
    assert merged.own_state().keys() == state.keys()


@pytest.mark.gpu
def test_both_are_the_same_on_a_gpu() -> None:
    network = two_encoders("lite")
    expected = embeddings(network)
    found = embeddings(network.cuda(), IMAGES.cuda())
    there = dict(network.decoder_encoder.named_parameters())
    assert all(there[n] is p for n, p in network.image_encoder.named_parameters() if "lora_" not in n)
    optimize_for_prediction(network, torch.bfloat16)
    fast = embeddings(network, IMAGES.cuda())
    for one, other, third in zip(expected, found, fast, strict=True):
        assert (one - other.cpu()).norm() / one.norm() < 1e-2  # TF32
        assert (one - third.cpu()).norm() / one.norm() < 6e-2


def test_more_channels_than_three_are_projected_once_for_both() -> None:
    network = two_encoders(trained=False, n_channels=5)
    first, second = embeddings(network, IMAGES.expand(-1, 5, -1, -1))
    assert torch.equal(first, second)
    assert not any(n.startswith("channel_projection.") for n in network.stage2_parameters())


def test_nnunet_s_network_does_without_it() -> None:
    network = two_encoders()
    built = SaliencyNetwork(
        1,
        3,
        backbone="tiny",
        image_size=SIZE,
        lora={"rank": 4, "alpha": 4, "dropout": 0.0},
        has_background_channel=True,
        input_windows=[(0.0, 1.0)],
        flips=(False, False),
    )
    built.load_state_dict(network.own_state())
    with torch.no_grad():
        assert torch.equal(built.eval().network.encode(IMAGES), network.encode(IMAGES))


# ---- a volume ---------------------------------------------------------------------------------------------


def test_the_saliency_is_of_the_first_and_the_embeddings_of_the_other() -> None:
    network = two_encoders()
    volume = encode_volume(network, IMAGES.numpy(), 2, CPU)
    alone = two_encoders(own=False)
    alone.load_own_state({n: network.own_state()[n] for n in alone.own_state()})
    np.testing.assert_array_equal(volume.saliency, encode_volume(alone, IMAGES.numpy(), 2, CPU).saliency)
    assert torch.equal(volume.embeddings, encode_for_decoder(network, IMAGES.numpy(), 2, CPU))
    assert not torch.equal(volume.embeddings, encode_volume(alone, IMAGES.numpy(), 2, CPU).embeddings)
    assert torch.equal(
        encode_for_decoder(alone, IMAGES.numpy(), 2, CPU), encode_volume(alone, IMAGES.numpy(), 2, CPU).embeddings
    )


@pytest.mark.parametrize("prompted", [True, False])
def test_the_stream_decodes_what_its_own_encoder_makes(prompted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, passes = two_encoders(), []
    both = network.encode_for_both
    monkeypatch.setattr(network, "encode_for_both", lambda images: passes.append(len(images)) or both(images))
    slices = np.random.default_rng(0).random((7, 1, SIZE, SIZE)).astype(np.float16)
    settings = DistillationSettings(mode="raw")
    points = SlicePrompts(np.array([[2.0, 20, 30], [5, 40, 12]]), np.array([0, 1]))
    found = predict_volume(network, slices, points if prompted else None, settings, 3, CPU)
    if not prompted:
        assert not passes, "the saliency alone needs no second pass"
        return
    assert sum(passes) == 7
    rules = Rules.of(settings, network)
    encoded = encode_volume(network, slices, 3, CPU)
    given = distill_whole_volume(points, encoded.saliency, rules)
    expected = predict_encoded(network, encoded, given, points, rules, CPU)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-2)  # other batches, bfloat16


# ---- training ---------------------------------------------------------------------------------------------


def own_encoder(**changes: Any) -> SPDSettings:
    return raw_true_settings(stage2=StageSettings(12, 1, 100, 1e-3), decoder_encoder="own", **changes)


def built(settings: SPDSettings) -> SPDNetwork:
    torch.manual_seed(0)
    own = settings.decoder_encoder == "own"
    return build_network("tiny", 1, 2, SIZE, settings.lora.rank, settings.lora.alpha, 0.0, decoder_encoder=own)


def test_stage_2_trains_it_and_leaves_the_first_and_the_saliency(
    planned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cases = own_encoder(), stored_cases(planned, 1)
    network = built(settings)
    for parameter in network.stage1_parameters().values():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    stage = PromptStage(network, settings, cases, cases, CPU, 0, tmp_path / "cache")
    monkeypatch.setattr(network, "encode_for_decoder", None)  # nobody asks for what is not stored
    stage.prepare()
    monkeypatch.undo()
    stage.begin()
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    first, second = embeddings(network)
    assert torch.equal(first, second), "it begins as the first is"
    assert {f.name.split("_")[-1] for f in stage._store.folder.iterdir()} == {"saliency.npy", "masks.npy"}
    first_loss, first_dice = scores(stage)
    losses = train_epochs(stage, 12)
    last_loss, last_dice = scores(stage)
    assert losses[-1] < 0.75 * losses[0] and last_loss < first_loss and last_dice > first_dice
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= network.stage2_parameters().keys()
    assert {n for n in changed if "lora_" in n} == {n for n in network.stage2_parameters() if "lora_" in n}
    again, trained = embeddings(network.eval())
    assert torch.equal(again, first) and not torch.equal(trained, second)
    stage.finish()
    assert not list((tmp_path / "cache").iterdir())


def test_it_learns_more_than_a_decoder_on_a_frozen_one(planned: Workspace, tmp_path: Path) -> None:
    """Of the same draws: the first loss is the same, and the last one lower."""
    losses = []
    for settings in (own_encoder(), replace(own_encoder(), decoder_encoder="shared")):
        cases = stored_cases(planned, 1)
        folder = tmp_path / settings.decoder_encoder
        losses.append(train_epochs(PromptStage(built(settings), settings, cases, [], CPU, 0, folder), 12))
    own, shared = losses
    assert own[0] == pytest.approx(shared[0], rel=5e-3)  # of embeddings that are stored in float16
    assert own[-1] < shared[-1]


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("encoder", ["own", "shared"])
def test_data_workers_bring_what_is_loaded_in_place(
    where: str, encoder: Any, planned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two of them the losses are those without, on a CPU to the last bit."""
    settings = replace(own_encoder(), decoder_encoder=encoder, stage2=StageSettings(1, 9, 4, 1e-3))
    cases, losses = stored_cases(planned, 1), []
    for device, workers in ((CPU, 0), (torch.device(where), 2)):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
        network = built(settings).to(device)
        stage = PromptStage(network, settings, cases, [], device, 0, tmp_path / f"{device}{workers}")
        stage.prepare()
        stage.begin()
        batches = list(stage.training_batches(0))
        assert len(batches) > 1 and all(b.loaded.inputs.is_pinned() == (device.type == "cuda") for b in batches)
        losses.append([stage.training_loss(batch).item() for batch in batches])
        stage.finish()
    assert losses[1] == (losses[0] if where == "cpu" else pytest.approx(losses[0], rel=3e-2))  # bfloat16


def test_a_store_without_embeddings_is_not_one_with(planned: Workspace, tmp_path: Path) -> None:
    """Of the same stage 1, kept for both."""
    cases, folders = stored_cases(planned, 1), []
    for settings in (own_encoder(), replace(own_encoder(), decoder_encoder="shared")):
        stage = PromptStage(built(settings), settings, cases, [], CPU, 0, tmp_path, True)
        stage.prepare()
        folders.append(stage._store.folder)
        assert len(list(stage.training_batches(0))) == 1
    assert folders[0] != folders[1]


def test_checkpoints_of_one_encoder_and_of_two_do_not_mix_but_for_stage_1(planned: Workspace) -> None:
    one = run(make_trainer(planned, "all", (1, 1), TRAINERS["SPDTrainerSharedEncoder"]))
    file = one.output_folder / "checkpoint_final.pth"
    two = make_trainer(planned, "all", (1, 1), change=lambda s: replace(s, decoder_encoder="own"))
    two.initialize()
    content = torch.load(file, weights_only=True)
    content["spd"]["trainer_name"] = "SPDTrainer"
    with pytest.raises(ModelError, match="decoder_encoder was 'shared', the plans say 'own'"):
        two.load_checkpoint(content)
    for source in (content["network_weights"], two.network.own_state()):
        skipped = load_pretrained_weights(two.network, {**content, "network_weights": source}, "tiny", file)
        assert skipped and all(n.startswith("decoder_encoder.") for n in skipped), "they begin anew in any case"
    two.start_from_stage1(file)
    two.run_training()
    given, final = one.network.own_state(), two.network.own_state()
    stage1 = two.network.stage1_parameters().keys()
    assert all(torch.equal(final[n], given[n]) for n in stage1)
    adapters = [n for n in final if n.startswith("decoder_encoder.")]
    assert any(not torch.equal(final[n], given[n.replace("decoder_encoder.", "image_encoder.")]) for n in adapters)


def test_an_encoder_of_its_own_needs_adapters() -> None:
    settings = tiny_settings(decoder_encoder="own")
    with pytest.raises(PlansError, match=r'decoder_encoder is "own", but spd\.lora\.rank 0'):
        replace(settings, lora=replace(settings.lora, rank=0))


def test_without_epochs_of_stage_2_it_is_as_stage_1_leaves_the_first(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, 0, (1, 0), change=lambda s: replace(s, decoder_encoder="own")))
    first, second = embeddings(trainer.network.eval())
    assert torch.equal(first, second)
    assert not torch.equal(first, embeddings(two_encoders(trained=False))[0])


def test_a_model_that_is_read_again_predicts_by_both(planned: Workspace) -> None:
    """A whole training with maps, and its validation; what the files say is what the network in memory does."""
    maps = {"dense_prompt": DensePromptSettings("maps", 1), "distillation": DistillationSettings("weighed")}
    trainer = make_trainer(planned, 0, (2, 2), change=lambda s: replace(s, decoder_encoder="own", **maps))
    run(trainer).perform_actual_validation()
    predictor = SPDPredictor(device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(planned.model(), (0,))
    (network,) = predictor.networks
    for expected, found in zip(embeddings(trainer.network.eval()), embeddings(network), strict=True):
        assert (expected - found).norm() / expected.norm() < 6e-2  # the form for prediction, in bfloat16 perhaps
    content = torch.load(trainer.output_folder / "checkpoint_final.pth", weights_only=True)
    first = [n for n in content["network_weights"] if n.startswith("image_encoder.")]
    assert first and {n.replace("image_", "decoder_") for n in first} < content["network_weights"].keys()
