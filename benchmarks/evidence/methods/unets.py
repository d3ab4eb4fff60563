"""Networks that are trained from nothing, MONAI's: U-Net, U-Net++ and a transformer U-Net, without and with points.

All have one sigmoid output per class and nnU-Net's loss for that case: Dice over the batch plus binary cross-entropy.
Points come as further input channels, one per class (`evidence.slices.heat_maps`), of the slice alone or also of those
around, as far as SPD's decoder sees them.

The transformer is Swin UNETR (Hatamizadeh et al., arXiv 2201.01266). UNETR has tokens of 16 pixels: at 56 px that
would be a grid of 4 x 4. Swin UNETR begins with tokens of 2 pixels, but halves their grid four times; slices are padded
to a multiple of 32, at 56 px to 64, and the output is cropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn

from evidence.slice_method import SliceMethod
from evidence.slice_models import SliceModel
from evidence.slices import PromptedBatch, heat_maps
from evidence.workspace import Workspace
from spdnet.planning import SPDSettings
from spdnet.planning.plans import LossSettings
from spdnet.prompts import SlicePrompts
from spdnet.training.losses import segmentation_loss

SMALL_IMAGE = 112  # up to this size the small form of a network, see the builders
# focal loss without focus and with equal weights is half the cross-entropy
DICE_AND_CROSS_ENTROPY = LossSettings(dice_weight=1.0, focal_weight=2.0, focal_gamma=0.0, dice_epsilon=1e-5)
EQUAL_WEIGHTS = 0.5

Builder = Callable[[int, int, int], nn.Module]


class PointChannelNetwork(SliceModel):
    """A network on slices and, if it is given points, their heat maps.

    Args:
        body: (B, channels, height, width) to logits (B, n_classes, height, width), or a list that begins with them.
        n_classes: foreground classes. with_points: whether the points are further channels.
        reach: slices to either side whose points are, too; each slice and class has a channel.
        multiple: the sides of what `body` is given are multiples of this; slices are padded and logits cropped.
    """

    learning_rate = 1e-3
    weight_decay = 1e-5

    def __init__(self, body: nn.Module, n_classes: int, with_points: bool, multiple: int, reach: int = 0) -> None:
        super().__init__()
        self.reach = reach
        self.body, self.n_classes, self.with_points, self.multiple = body, n_classes, with_points, multiple

    def forward(self, images: torch.Tensor, prompts: SlicePrompts) -> torch.Tensor:
        """See the base class; the maps have the slices' resolution."""
        n_slices, _, size, _ = images.shape
        if self.with_points:
            maps = heat_maps(prompts, n_slices * (2 * self.reach + 1), self.n_classes, size, images.device)
            images = torch.cat([images, maps.view(n_slices, -1, size, size)], dim=1)
        missing = -size % self.multiple
        found = self.body(F.pad(images, (0, missing, 0, missing)))
        return (found[0] if isinstance(found, list) else found)[..., :size, :size]

    def loss(self, logits: torch.Tensor, batch: PromptedBatch) -> torch.Tensor:
        """Dice over the batch plus binary cross-entropy."""
        target, valid = batch.slices.masks, batch.slices.valid
        return segmentation_loss(logits, target, DICE_AND_CROSS_ENTROPY, EQUAL_WEIGHTS, valid)


def unet(n_inputs: int, n_classes: int, image_size: int) -> nn.Module:
    """U-Net (Ronneberger et al., arXiv 1505.04597) of five levels, two convolutions each.

    1.1 M parameters up to 112 px, 7.9 M above.
    """
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, n_inputs, n_classes, _features(image_size))


def unet_plus_plus(n_inputs: int, n_classes: int, image_size: int) -> nn.Module:
    """U-Net++ (Zhou et al., arXiv 1807.10165) of five levels: 1.4 M parameters up to 112 px, 9.6 M above."""
    from monai.networks.nets import BasicUNetPlusPlus

    return BasicUNetPlusPlus(2, n_inputs, n_classes, _features(image_size))


def _features(image_size: int) -> tuple[int, ...]:
    """Channels of the five levels, and of the last block."""
    width = 24 if image_size <= SMALL_IMAGE else 64
    return width, width, 2 * width, 4 * width, 8 * width, width


def swin_unetr(n_inputs: int, n_classes: int, image_size: int) -> nn.Module:
    """Swin UNETR: 1.6 M parameters up to 112 px, 14.2 M above."""
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(n_inputs, n_classes, feature_size=12 if image_size <= SMALL_IMAGE else 36, spatial_dims=2)


@dataclass(frozen=True)
class UNetMethod(SliceMethod):
    """One of these networks.

    Attributes:
        builder: input channels, classes and side of the slices to a network.
        multiple: see `PointChannelNetwork`.
        needs: packages.
    """

    builder: Builder = unet
    multiple: int = 1
    needs: tuple[str, ...] = ("monai",)

    def missing(self, workspace: Workspace) -> str | None:
        """Names the packages that are not installed."""
        absent = [package for package in self.needs if find_spec(package) is None]
        return f"needs the package {', '.join(absent)}" if absent else None

    def build(self, settings: SPDSettings, n_classes: int) -> SliceModel:
        """See the base class."""
        with_points, reach = self.points != "none", self.reach(settings)
        n_inputs = len(settings.normalization) + (n_classes * (2 * reach + 1) if with_points else 0)
        body = self.builder(n_inputs, n_classes, settings.image_size)
        return PointChannelNetwork(body, n_classes, with_points, self.multiple, reach)

    def n_steps(self, workspace: Workspace, settings: SPDSettings) -> int:
        """The budget's."""
        return workspace.budget.unet_iterations


METHODS: dict[str, SliceMethod] = {
    m.name: m
    for m in (
        UNetMethod("unet", "U-Net", "U-Net", False),
        UNetMethod("unet_raw_points", "U-Net, raw points as channel", "U-Net", points="raw"),
        UNetMethod(
            "unet_raw_points_pieces",
            "U-Net, raw points as channel, pieces without points dropped",
            "U-Net",
            points="raw",
            drops_lone_pieces=True,
            model_of="unet_raw_points",
        ),
        UNetMethod(
            "unet_points_around", "U-Net, raw points of nine slices as channels", "U-Net", points="raw", around=True
        ),
        UNetMethod(
            "unet_points_around_pieces",
            "U-Net, raw points of nine slices as channels, pieces without points dropped",
            "U-Net",
            points="raw",
            around=True,
            drops_lone_pieces=True,
            model_of="unet_points_around",
        ),
        UNetMethod("unet_consensus", "U-Net, consensus points as channel", "U-Net", points="consensus"),
        UNetMethod(
            "unet_consensus_around",
            "U-Net, consensus points of nine slices as channels",
            "U-Net",
            points="consensus",
            around=True,
        ),
        UNetMethod("unet_plus_plus", "U-Net++", "U-Net", False, builder=unet_plus_plus),
        UNetMethod(
            "swin_unetr", "Swin UNETR", "U-Net", False, builder=swin_unetr, multiple=32, needs=("monai", "einops")
        ),
    )
}
