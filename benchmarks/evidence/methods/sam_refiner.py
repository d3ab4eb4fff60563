"""SAMRefiner: frozen SAM redraws coarse masks, with prompts found in them (Lin et al., arXiv 2502.06756).

From the paper, with the numbers of its published code: every mask is split into its connected pieces, which are merged
again where their common box is well filled; each piece gives a positive point, where it is deepest, a negative one, the
place in its box farthest from it, a box that grows to a side where what lies there looks like the piece, and a Gaussian
in place of a mask of logits; of SAM's three masks the one of highest predicted overlap is taken; and all of this five
times, each time from the last masks. Its IoU adaption (SAMRefiner++) is not here.

What differs: the coarse masks are SPD's saliency maps, thresholded, or the masks that frozen SAM makes of the raw
points; they have the resolution of SAM's own masks, and the prompts are found at that resolution. The box is moved once
in a round to each side, by a tenth of its length. `lite` was trained with boxes and a single mask alone, so with it
only the box is used, and that mask.

    python -m evidence.methods.sam_refiner RAW -coarse saliency -stage1 CHECKPOINT -plans FILE -o FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from evidence.case_prediction import predict_test_cases, prediction_parser
from evidence.consensus import Distiller
from evidence.methods.base import Method
from evidence.methods.frozen_sam import BOX_ONLY, PublishedSAM
from evidence.methods.spd import PLANS, STAGE1, device, plan, shared_stage1
from evidence.workspace import Workspace
from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset
from spdnet.geometry import rescale_points
from spdnet.network.precision import get_device
from spdnet.planning import NetworkCase, SPDPlans
from spdnet.prompts import SlicePrompts

ROUNDS = 5
COARSE_THRESHOLD = 0.5
FILLED_SHARE = 0.5  # mu: how well pieces must fill their common box to be merged
LIKE = 0.5  # cosine similarity with the piece's mean embedding
GROWTH = 0.1  # of the box's side, to each of its four sides
LIKE_SHARE = 0.1  # lambda: of a strip beside the box that must look like the piece
GAUSSIAN_HEIGHT, GAUSSIAN_SPREAD = 15.0, 4.0  # omega and gamma
COARSE = ("saliency", "raw")


@dataclass(frozen=True)
class PiecePrompts:
    """The prompts of one piece, in pixels of its mask (M, M), whose centres are integers.

    Attributes:
        inside_yx: place farthest from the background. outside_yx: place in the tight box farthest from the piece; None
            if the piece fills it. box_yxyx: edges top, left, bottom, right. logits: float32 (M, M).
    """

    inside_yx: tuple[int, int]
    outside_yx: tuple[int, int] | None
    box_yxyx: np.ndarray
    logits: np.ndarray


def split_and_merge(mask: np.ndarray) -> list[np.ndarray]:
    """The pieces of a bool mask (M, M), as bool masks.

    Two connected regions are one piece if they fill more than half of their common box. The paper also asks that of
    their own boxes, which follows.
    """
    labels, n_regions = ndimage.label(mask, structure=np.ones((3, 3)))
    pieces = [labels == region for region in range(1, n_regions + 1)]
    merged = True
    while merged:
        merged = False
        for one, other in combinations(range(len(pieces)), 2):
            both = pieces[one] | pieces[other]
            if both.sum() > FILLED_SHARE * _area(tight_box(both)):
                pieces[one] = both
                del pieces[other]
                merged = True
                break
    return pieces


def excavate(piece: np.ndarray, embedding: torch.Tensor) -> PiecePrompts:
    """Find the prompts of a piece.

    Args:
        piece: bool (M, M), not empty.
        embedding: float (C, grid, grid) of its slice.
    """
    depth = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]  # beyond the slice is background
    inside = _highest(depth)
    box = tight_box(piece)
    within = np.zeros(piece.shape)
    within[_pixels(box)] = ndimage.distance_transform_edt(~piece)[_pixels(box)] if not piece.all() else 0
    outside = _highest(within) if within.any() else None
    y, x = np.indices(piece.shape)
    squared = (y - inside[0]) ** 2 + (x - inside[1]) ** 2
    logits = GAUSSIAN_HEIGHT * np.exp(-squared / (piece.sum() * GAUSSIAN_SPREAD))
    return PiecePrompts(inside, outside, elastic_box(box, looks_like(piece, embedding)), logits.astype(np.float32))


def tight_box(mask: np.ndarray) -> np.ndarray:
    """Edges float64 (4,) top, left, bottom, right of a mask's True pixels, whose centres are integers."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([rows[0] - 0.5, columns[0] - 0.5, rows[-1] + 0.5, columns[-1] + 0.5])


def looks_like(piece: np.ndarray, embedding: torch.Tensor) -> np.ndarray:
    """Where (M, M) the embedding is like its mean over the piece; as `excavate`."""
    upscaled = F.interpolate(embedding[None].float().cpu(), piece.shape, mode="bilinear", align_corners=False)[0]
    mean = upscaled[:, torch.from_numpy(piece)].mean(dim=1)
    return (F.cosine_similarity(upscaled, mean[:, None, None], dim=0) >= LIKE).numpy()


def elastic_box(box_yxyx: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Move each edge outwards where more than `LIKE_SHARE` of the strip beyond it looks like the piece.

    Args:
        box_yxyx: edges of a box in a map.
        like: the map, bool (M, M).
    """
    size = len(like)
    grown = box_yxyx.copy()
    sides = box_yxyx[2:] - box_yxyx[:2]
    for edge, direction in ((0, -1), (1, -1), (2, 1), (3, 1)):
        step = max(1, round(GROWTH * sides[edge % 2]))
        moved = np.clip(box_yxyx[edge] + direction * step, -0.5, size - 0.5)
        strip = box_yxyx.copy()
        strip[edge % 2], strip[edge % 2 + 2] = sorted((box_yxyx[edge], moved))
        beyond = like[_pixels(strip)]
        if beyond.size and beyond.mean() > LIKE_SHARE:
            grown[edge] = moved
    return grown


class Refiner:
    """Redraws masks with a published SAM."""

    def __init__(self, sam: PublishedSAM) -> None:
        self._sam = sam
        self.box_only = sam.settings.backbone in BOX_ONLY

    @torch.no_grad()
    def refine(self, mask: np.ndarray, embedding: torch.Tensor) -> np.ndarray:
        """The probabilities float32 (M, M) of what a bool mask (M, M) becomes; 0 where nothing of it is left.

        Args:
            mask: of one class in one slice.
            embedding: (C, grid, grid) of the slice.
        """
        embedding = embedding.to(self._sam.device, torch.float32)
        pieces, found = split_and_merge(mask), np.zeros((0, *mask.shape), dtype=np.float32)
        for _ in range(ROUNDS):
            if not pieces:
                return np.zeros(mask.shape, dtype=np.float32)
            found = self._decode([excavate(piece, embedding) for piece in pieces], embedding)
            pieces = [one > 0.5 for one in found if (one > 0.5).any()]
        return found.max(axis=0)

    def _decode(self, prompts: list[PiecePrompts], embedding: torch.Tensor) -> np.ndarray:
        """Probabilities float32 (N, M, M) of several pieces of one slice."""
        network = self._sam.network
        boxes = torch.from_numpy(np.stack([self._to_network(p.box_yxyx.reshape(2, 2)) for p in prompts]))
        points = masks = None
        if not self.box_only:
            pairs = [(p.inside_yx, p.outside_yx or (0, 0)) for p in prompts]
            kinds = torch.tensor([[1, -1 if p.outside_yx is None else 0] for p in prompts])
            positions = torch.from_numpy(np.stack([self._to_network(np.array(pair)) for pair in pairs]))
            points = self._on_device(positions.flip(-1).float()), self._on_device(kinds)
            masks = self._on_device(torch.from_numpy(np.stack([p.logits for p in prompts]))[:, None])
        corners_xy = self._on_device(boxes.flip(-1).reshape(len(prompts), 4).float())
        sparse, dense = network.prompt_encoder(points=points, boxes=corners_xy, masks=masks)
        logits, overlaps = network.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=not self.box_only,
        )
        best = logits[torch.arange(len(prompts)), overlaps.argmax(dim=1)]
        return torch.sigmoid(best).cpu().numpy()

    def _to_network(self, positions: np.ndarray) -> np.ndarray:
        network = self._sam.network
        return rescale_points(positions, network.mask_size, network.image_size)

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._sam.device)


def _area(box_yxyx: np.ndarray) -> float:
    return float(np.prod(box_yxyx[2:] - box_yxyx[:2]))


def _pixels(box_yxyx: np.ndarray) -> tuple[slice, slice]:
    """The pixels of a box whose edges lie between pixels."""
    top, left, bottom, right = np.rint(box_yxyx + 0.5).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def _highest(values: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(values.argmax(), values.shape)
    return int(row), int(column)


@dataclass(frozen=True)
class SAMRefiner(Method):
    """SAMRefiner on one kind of coarse masks.

    Attributes:
        coarse: one of `COARSE`.
    """

    coarse: str = "saliency"

    def notes(self, workspace: Workspace) -> list[str]:
        """What of the method the backbone cannot do."""
        if workspace.budget.backbone in BOX_ONLY:
            return [
                f"{workspace.budget.backbone} knows boxes alone: no point, no mask prompt, no choice of three masks"
            ]
        return []

    def training_steps(self) -> list[str]:
        """Nothing but the stage 1 that the saliency comes from."""
        return [STAGE1] if self.coarse == "saliency" else []

    def train(self, workspace: Workspace) -> None:
        """Plan, and train the shared stage 1 if it is needed and nobody has."""
        plan(workspace, workspace.raw.name)
        if self.coarse == "saliency":
            shared_stage1(workspace)

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Predict all test cases."""
        command: list[str | Path] = ["python", "-m", "evidence.methods.sam_refiner", workspace.raw]
        command += ["-coarse", self.coarse, "-plans", workspace.preprocessed() / f"{PLANS}.json"]
        command += ["-stage1", shared_stage1(workspace)] if self.coarse == "saliency" else ["-prompts", prompts]
        workspace.run([*command, "-o", output, *device(workspace)], f"{self.name}_predict", f"{self.name}/predict")


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Predict all test cases."""
    parser = prediction_parser(__doc__)
    parser.add_argument("-coarse", choices=COARSE, required=True)
    parser.add_argument("-stage1", type=Path, help="checkpoint of SPD's stage 1, for the saliency")
    args = parser.parse_args(argv)
    if (args.coarse == "saliency") != (args.stage1 is not None):
        parser.error("-stage1 is for coarse masks from the saliency, and these need it")
    settings, n_classes = SPDPlans.load(args.plans).settings, len(RawDataset(args.raw).labels)
    on_device = get_device(args.device)
    distiller = Distiller(settings, n_classes, args.stage1, on_device) if args.stage1 is not None else None
    sam = PublishedSAM(settings, n_classes, on_device)
    refiner = Refiner(sam)

    def segment(name: str, case: NetworkCase, points: SlicePrompts) -> np.ndarray:
        volume = sam.encode(case.slices)
        coarse = sam.segment(volume, points) if distiller is None else distiller.saliency(case.slices)
        refined = [
            [refiner.refine(mask, embedding) for mask in masks]
            for masks, embedding in zip(coarse > COARSE_THRESHOLD, volume.embeddings, strict=True)
        ]
        return np.array(refined)

    predict_test_cases(args.raw, args.prompts, args.o, settings, segment)


_GROUP = "refinement"
METHODS: dict[str, SAMRefiner] = {
    m.name: m
    for m in (
        SAMRefiner("sam_refiner", "SAMRefiner on the saliency map", _GROUP, uses_prompts=False),
        SAMRefiner("sam_refiner_raw", "SAMRefiner on frozen SAM's masks of raw points", _GROUP, coarse="raw"),
    )
}


if __name__ == "__main__":
    main()
