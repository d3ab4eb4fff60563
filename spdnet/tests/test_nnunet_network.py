"""The saliency map as a network for nnU-Net."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spdnet.inference.nnunet_network import SaliencyNetwork
from spdnet.network import SPDNetwork, build_network
from spdnet.tests.tiny import register_tiny

SIZE = 56
LORA = {"rank": 4, "alpha": 4, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _tiny() -> None:
    register_tiny()


def trained_network(n_classes: int = 2) -> SPDNetwork:
    torch.manual_seed(0)
    network = build_network("tiny", 1, n_classes, SIZE, 4, 4, 0.0)
    for parameter in network.stage1_parameters().values():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def adapter(
    network: SPDNetwork, n_heads: int = 3, background: bool = True, flips: tuple[bool, bool] = (False, False)
) -> SaliencyNetwork:
    built = SaliencyNetwork(
        1,
        n_heads,
        False,
        backbone="tiny",
        image_size=SIZE,
        lora=LORA,
        has_background_channel=background,
        input_windows=[(-2.0, 3.0)],
        flips=flips,
    )
    built.load_state_dict(network.own_state())
    return built.eval()


def saliency(network: SPDNetwork, slices: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = network.saliency_logits(network.encode(slices))
    return torch.nn.functional.interpolate(logits, (SIZE, SIZE), mode="bilinear")


def test_nnunet_s_intensities_give_the_saliency_of_spdnet_s() -> None:
    network = trained_network()
    slices = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = adapter(network)(slices * 5 - 2)
    assert logits.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(logits[:, 1:], saliency(network, slices), atol=1e-4, rtol=1e-4)
    assert not logits[:, 0].any()
    winner = logits.argmax(dim=1)
    assert torch.equal(winner > 0, (torch.sigmoid(logits[:, 1:]) > 0.5).any(dim=1))


def test_regions_have_no_background_channel() -> None:
    network = trained_network()
    slices = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = adapter(network, n_heads=2, background=False)(slices * 5 - 2)
    torch.testing.assert_close(logits, saliency(network, slices), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("flips", "axes"), [((True, False), (-2,)), ((False, True), (-1,)), ((True, True), (-2, -1))])
def test_slices_stored_the_other_way_round_are_turned(flips: tuple[bool, bool], axes: tuple[int, ...]) -> None:
    network = trained_network()
    slices = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = adapter(network, flips=flips)(slices.flip(axes) * 5 - 2)
    torch.testing.assert_close(logits[:, 1:].flip(axes), saliency(network, slices), atol=1e-4, rtol=1e-4)


def test_nnunet_s_padding_is_black() -> None:
    network = trained_network()
    content = torch.rand(1, 1, SIZE - 20, SIZE - 10, generator=torch.Generator().manual_seed(3)) * 0.9 + 0.05
    ours = torch.nn.functional.pad(content, (4, 6, 12, 8))
    theirs = torch.nn.functional.pad(content * 5 - 2, (4, 6, 12, 8))
    theirs[0, 0, 30, 30] = 0.0  # a value within the image stays
    ours[0, 0, 30, 30] = 0.4
    with torch.no_grad():
        logits = adapter(network)(theirs)
    torch.testing.assert_close(logits[:, 1:], saliency(network, ours), atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_and_deep_supervision_are_refused() -> None:
    network = trained_network()
    with pytest.raises(KeyError, match="lora"):
        adapter(network).load_state_dict({})
    with pytest.raises(ValueError, match="saliency_head"):
        adapter(network).load_state_dict(trained_network(3).own_state())
    with pytest.raises(ValueError, match="deep supervision"):
        SaliencyNetwork(
            1, 3, True, backbone="tiny", image_size=SIZE, lora=LORA, has_background_channel=True,
            input_windows=[(0.0, 1.0)], flips=(False, False),
        )  # fmt: skip
    assert np.isfinite(float(adapter(network).low.sum()))
