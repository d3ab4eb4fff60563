"""MedSAM-style tuning (Ma et al., Nature Communications 2024): image encoder and mask decoder are trained.

The prompt encoder stays frozen, and AdamW has MedSAM's weight decay, 0.01. MedSAM is prompted with boxes drawn round
the reference; here there are only the raw points, so that one row has these, and the other one box round the raw points
of a slice. Loss, augmentation and length of the training are SPD's, so that the rows differ from it in what is tuned.
With several classes spdnet's class embedding is trained too, as one prompt may be for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from evidence.slice_method import SliceMethod
from evidence.slice_models import PromptedSam, SliceModel, build_plain_sam
from evidence.workspace import Workspace
from spdnet.planning import SPDSettings

TRAINED = ("image_encoder.", "mask_decoder.", "class_embedding.", "channel_projection.")


class MedSam(PromptedSam):
    """SAM with a trained encoder and decoder."""

    learning_rate = 1e-4
    weight_decay = 0.01


@dataclass(frozen=True)
class SamMethod(SliceMethod):
    """A tuned SAM, trained for as many steps as SPD's two stages together."""

    def n_steps(self, workspace: Workspace, settings: SPDSettings) -> int:
        """Epochs of the budget, iterations of the plans."""
        stages = zip(workspace.budget.epochs, (settings.stage1, settings.stage2), strict=True)
        return sum(epochs * stage.iterations_per_epoch for epochs, stage in stages)


@dataclass(frozen=True)
class MedSamMethod(SamMethod):
    """MedSAM-style tuning.

    Attributes:
        as_box: prompted with a box round the points.
    """

    as_box: bool = False

    def build(self, settings: SPDSettings, n_classes: int) -> SliceModel:
        """See the base class."""
        network = build_plain_sam(settings, n_classes)
        return MedSam(network, settings, self.as_box, lambda name: name.startswith(TRAINED))


METHODS: dict[str, SliceMethod] = {
    m.name: m
    for m in (
        MedSamMethod("medsam_points", "MedSAM-style tuning, raw points", "SAM", points="raw"),
        MedSamMethod("medsam_box", "MedSAM-style tuning, box round the raw points", "SAM", points="raw", as_box=True),
    )
}
