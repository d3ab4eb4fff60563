"""The form of the network for prediction against the published form, on the tiny SAM, LiteMedSAM and (slow) ViT-B."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from spdnet.errors import ConfigurationError
from spdnet.network import SPDNetwork, build_network
from spdnet.network.precision import autocast, compute_dtype, place
from spdnet.network.prediction_form import (
    FusedRelativeAttention,
    attend_in_larger_heads,
    attend_with_bias,
    attend_with_fixed_bias,
    optimize_for_prediction,
)

CPU = torch.device("cpu")
SHARE_OF_FLOAT32, SHARE_OF_BFLOAT16 = 2e-5, 6e-2


def trained(backbone: str = "tiny", image_size: int = 56, load_weights: bool = False) -> SPDNetwork:
    """A network whose adapters and decoder are not what they start as."""
    torch.manual_seed(3)
    network = build_network(backbone, 1, 2, image_size, 4, 8, 0.1, load_weights=load_weights)
    for parameter in (network.stage1_parameters() | network.stage2_parameters()).values():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn(buffer.shape)
    return network


def optimized(network: SPDNetwork, dtype: torch.dtype = torch.float32) -> SPDNetwork:
    copied = copy.deepcopy(network)
    optimize_for_prediction(copied, dtype)
    return copied


def slices(size: int = 56, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(first: SPDNetwork, second: SPDNetwork, images: torch.Tensor) -> float:
    """Of the embeddings, as share of their norm."""
    one, other = first.encode(images).float(), second.encode(images).float()
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize(("backbone", "size"), [("tiny", 56), ("tiny", 88), ("lite", 56), ("lite", 64), ("lite", 44)])
def test_embeddings_are_those_of_the_published_form(backbone: str, size: int) -> None:
    """88 and 44 px are sizes that the windows do not tile; for 64 px those of `lite` are fitted."""
    network = trained(backbone, size)
    assert difference(network, optimized(network), slices(size)) < SHARE_OF_FLOAT32


def test_lite_with_its_published_weights_too() -> None:
    network = trained("lite", 56, load_weights=True)
    assert difference(network, optimized(network), slices(56)) < SHARE_OF_FLOAT32


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 256])
def test_vit_b_of_segment_anything_too(size: int) -> None:
    network = trained("vit_b", size)
    for name, parameter in network.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert difference(network, optimized(network), slices(size, 1)) < SHARE_OF_FLOAT32


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["tiny", "lite"])
def test_embeddings_are_those_of_the_published_form_on_a_gpu(backbone: str) -> None:
    network = trained(backbone).cuda()
    assert difference(network, optimized(network), slices().cuda()) < 1e-3  # TF32
    assert difference(network, optimized(network, torch.bfloat16), slices().cuda()) < SHARE_OF_BFLOAT16


@pytest.mark.parametrize("backbone", ["tiny", "lite"])
def test_stored_in_bfloat16_the_encoder_computes_as_under_autocast(backbone: str) -> None:
    network = trained(backbone)
    stored = optimized(network, torch.bfloat16)
    matrices = {m.weight.dtype for m in stored.image_encoder.modules() if isinstance(m, torch.nn.Conv2d)}
    assert matrices == {torch.bfloat16}
    assert difference(network, stored, slices()) < SHARE_OF_BFLOAT16
    with torch.autocast("cpu", torch.bfloat16):
        published = network.encode(slices()).float()
        assert (published - stored.encode(slices()).float()).norm() / published.norm() < SHARE_OF_BFLOAT16


def test_masks_are_those_of_the_published_form() -> None:
    network = trained()
    points = torch.tensor([[[20.0, 30.0], [10, 9]]] * 3)
    real = torch.tensor([[True, True], [True, False], [True, True]])
    with torch.no_grad():
        embeddings = network.encode(slices())
        first, second = (
            n.decode(embeddings, points, real, torch.tensor([0, 1, 1])) for n in (network, optimized(network))
        )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_checkpoint_holds_stays_the_same(dtype: torch.dtype) -> None:
    network = trained()
    state, again = network.own_state(), optimized(network, dtype).own_state()
    assert state.keys() == again.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, again[name], rtol=0, atol=0)
    restored = trained()
    restored.load_own_state(again)
    assert difference(network, restored, slices()) == 0


def test_it_cannot_be_trained_loaded_or_made_plain_and_twice_is_once() -> None:
    network = optimized(trained())
    expected = network.encode(slices())
    optimize_for_prediction(network)
    torch.testing.assert_close(network.encode(slices()), expected)
    assert not network.eval().training
    with pytest.raises(RuntimeError, match="load it again"):
        network.train()
    with pytest.raises(RuntimeError, match="load it again"):
        network.load_own_state(network.own_state())
    with pytest.raises(RuntimeError, match="merged adapters"), network.plain_sam():
        pass


# ---- attention --------------------------------------------------------------------------------------------


def relative_attention(table_size: int) -> Attention:
    """segment-anything's attention whose relative positions matter."""
    torch.manual_seed(0)
    attention = Attention(32, num_heads=2, use_rel_pos=True, input_size=(table_size, table_size))
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        torch.nn.init.normal_(table)
    return attention.eval()


@pytest.mark.parametrize("table_size", [7, 5])
def test_relative_positions_are_segment_anything_s(table_size: int) -> None:
    """Also where its table is for another grid and has to be interpolated."""
    attention = relative_attention(table_size)
    x = torch.randn(2, 7, 7, 32)
    with torch.no_grad():
        torch.testing.assert_close(FusedRelativeAttention(attention)(x), attention(x), atol=1e-5, rtol=1e-5)


def test_rows_and_columns_are_not_mixed_up() -> None:
    attention = relative_attention(6)
    x = torch.randn(1, 6, 4, 32)
    with torch.no_grad():
        torch.testing.assert_close(FusedRelativeAttention(attention)(x), attention(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3)])
def test_both_ways_to_add_positions_are_the_same(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes: list[int] = [16, 16, 16, height, width]
    arguments: list[Any] = [torch.randn(2, 3, height * width, n, generator=generator) for n in sizes]
    torch.testing.assert_close(
        attend_in_larger_heads(*arguments, 0.25), attend_with_bias(*arguments, 0.25), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("n_tokens", [49, 100])
def test_small_and_large_windows_in_bfloat16_are_close_to_float32(n_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n_tokens, 8, generator=generator) for _ in range(3))
    bias = torch.randn(1, 3, n_tokens, n_tokens, generator=generator)
    exact = attend_with_fixed_bias(q, k, v, bias, 0.5)
    written_out = torch.softmax(0.5 * q @ k.mT + bias, dim=-1) @ v
    torch.testing.assert_close(exact, written_out, atol=1e-5, rtol=1e-5)
    rounded = attend_with_fixed_bias(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias, 0.5)
    assert (rounded.float() - exact).norm() / exact.norm() < 0.01


# ---- precision --------------------------------------------------------------------------------------------


def test_the_precision_can_be_set_and_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        monkeypatch.setenv("SPD_precision", chosen)
        assert compute_dtype(CPU) == dtype
        with autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    monkeypatch.setenv("SPD_precision", "half")
    with pytest.raises(ConfigurationError, match="SPD_precision is 'half'; use one of auto, bfloat16, float32"):
        compute_dtype(CPU)


@pytest.mark.parametrize("has_it", [True, False])
def test_a_cpu_computes_in_bfloat16_only_if_it_can(has_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPD_precision", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert compute_dtype(CPU) == (torch.bfloat16 if has_it else torch.float32)


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_a_gpu_computes_in_bfloat16_from_its_generation_on(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPD_precision", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compute_dtype(torch.device("cuda")) == dtype


def test_the_bias_of_attention_stays_in_order_when_the_network_is_placed() -> None:
    """Fused kernels take a bias only if its last axis is contiguous."""
    network = build_network("lite", 1, 1, 56, 4, 4.0, 0.0).eval()
    optimize_for_prediction(network, torch.float32)
    place(network, torch.device("cpu"))
    biases = [b for name, b in network.named_buffers() if name.endswith(".bias") and b.dim() == 3]
    assert biases and all(b.stride(-1) == 1 and b[None].is_contiguous() for b in biases)
