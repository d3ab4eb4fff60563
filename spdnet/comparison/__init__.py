"""SPD beside nnU-Net: which trained models, and which pairs of them, are best on the folds they share.

The comparison itself is nnU-Net's own, run on models of several trainers and plans at once. Needs the package
nnunetv2, which is imported only when a comparison is run. `point_channels` and `lone_pieces` give nnU-Net the points.
"""

from spdnet.comparison.models import TrainedModel, choose_models
from spdnet.comparison.search import Comparison, find_best

__all__ = ["Comparison", "TrainedModel", "choose_models", "find_best"]
