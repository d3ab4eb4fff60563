"""SAMRefiner: what prompts are found in a mask, and that SAM is asked with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from stage1_file import write_plans, write_stage1

from evidence.methods import sam_refiner
from evidence.methods.frozen_sam import PublishedSAM
from evidence.methods.sam_refiner import (
    GAUSSIAN_HEIGHT,
    Refiner,
    elastic_box,
    excavate,
    looks_like,
    main,
    split_and_merge,
    tight_box,
)
from evidence.noise import NOISES, write_test_prompts
from spdnet.tests.tiny import IMAGE_SIZE, build_tiny_sam, tiny_settings, write_blob_dataset

CPU = torch.device("cpu")
SIZE = 28  # of the tiny SAM's masks
GRID = 7


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rounding to bfloat16."""
    monkeypatch.setenv("SPD_precision", "float32")


def drawn(*boxes: tuple[int, int, int, int], size: int = SIZE) -> np.ndarray:
    """A mask of rectangles, half-open."""
    mask = np.zeros((size, size), dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


L_SHAPE = drawn((5, 4, 22, 8), (14, 4, 22, 20))
EMBEDDING = torch.randn(16, GRID, GRID, generator=torch.Generator().manual_seed(1))


def test_prompts_of_a_right_mask_lie_where_they_should() -> None:
    prompts = excavate(L_SHAPE, EMBEDDING)
    assert L_SHAPE[prompts.inside_yx]
    assert 14 <= prompts.inside_yx[0] < 22, "the broad leg is deeper than the narrow one"
    assert prompts.outside_yx is not None and not L_SHAPE[prompts.outside_yx]
    assert prompts.outside_yx[0] == 5 and 16 <= prompts.outside_yx[1] < 20, "in the box, nine rows above the broad leg"
    top, left, bottom, right = prompts.box_yxyx
    rows, columns = np.nonzero(L_SHAPE)
    assert top < rows.min() and left < columns.min() and bottom > rows.max() and right > columns.max()


def test_mask_prompt_is_a_gaussian_at_the_deepest_place() -> None:
    prompts = excavate(L_SHAPE, EMBEDDING)
    y, x = prompts.inside_yx
    assert prompts.logits.dtype == np.float32 and prompts.logits.shape == L_SHAPE.shape
    assert prompts.logits[y, x] == prompts.logits.max() == GAUSSIAN_HEIGHT
    spread = 4.0 * L_SHAPE.sum()
    np.testing.assert_allclose(prompts.logits[y - 3, x + 4], GAUSSIAN_HEIGHT * np.exp(-25 / spread), rtol=1e-5)


def test_a_piece_that_fills_its_box_has_no_point_outside() -> None:
    assert excavate(drawn((4, 5, 9, 14)), EMBEDDING).outside_yx is None
    assert excavate(np.ones((SIZE, SIZE), dtype=bool), EMBEDDING).outside_yx is None


def test_a_piece_at_the_border_is_deepest_away_from_it() -> None:
    row, column = excavate(drawn((0, 0, 9, 5)), EMBEDDING).inside_yx
    assert 2 <= row <= 6 and column == 2


def test_far_pieces_are_split_and_near_ones_merged() -> None:
    far = drawn((1, 1, 5, 5), (20, 20, 24, 24))
    assert len(split_and_merge(far)) == 2
    near = drawn((1, 1, 9, 5), (1, 6, 9, 10))
    (both,) = split_and_merge(near)
    np.testing.assert_array_equal(both, near)
    three = near | far
    pieces = split_and_merge(three)
    assert len(pieces) == 2
    np.testing.assert_array_equal(np.any(pieces, axis=0), three)
    thin = np.zeros((SIZE, SIZE), dtype=bool)
    thin[np.arange(8), np.arange(8)] = thin[np.arange(8), np.arange(8) + 9] = True
    assert len(split_and_merge(thin)) == 2, "their boxes fill the common one, they do not"
    assert split_and_merge(drawn()) == []
    assert len(split_and_merge(np.eye(SIZE, dtype=bool))) == 1, "corners hang together"


def test_box_grows_to_the_side_that_looks_alike() -> None:
    box = tight_box(drawn((10, 10, 20, 20)))
    assert box.tolist() == [9.5, 9.5, 19.5, 19.5]
    like = drawn((0, 15, SIZE, SIZE))
    assert elastic_box(box, like).tolist() == [8.5, 9.5, 20.5, 20.5], (
        "up, down and right; half of those strips is alike"
    )
    assert elastic_box(box, drawn()).tolist() == box.tolist()
    one_of_ten = drawn((9, 10, 10, 11))
    assert elastic_box(box, one_of_ten).tolist() == box.tolist(), "a tenth is not enough"


def test_box_stays_in_the_slice() -> None:
    everything = np.ones((SIZE, SIZE), dtype=bool)
    box = tight_box(drawn((0, 20, 12, SIZE)))
    assert elastic_box(box, everything).tolist() == [-0.5, 18.5, 12.5, SIZE - 0.5]


def test_alike_is_what_has_the_same_embedding() -> None:
    embedding = torch.zeros(2, GRID, GRID)
    embedding[0, :, :4], embedding[1, :, 4:] = 1.0, 1.0
    alike = looks_like(drawn((8, 2, 12, 6)), embedding)
    assert alike[:, :14].all() and not alike[:, 20:].any()


def published_mask(mask: np.ndarray, embedding: torch.Tensor, box_only: bool) -> np.ndarray:
    """What segment-anything makes of the prompts of a mask that is one piece, coordinates scaled by hand."""
    sam, prompts, scale = build_tiny_sam(), excavate(mask, embedding), IMAGE_SIZE / SIZE

    def pixels_xy(y: float, x: float) -> list[float]:
        return [(x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5]

    assert prompts.outside_yx is not None
    points = torch.tensor([[pixels_xy(*prompts.inside_yx), pixels_xy(*prompts.outside_yx)]])
    top, left, bottom, right = prompts.box_yxyx
    box = torch.tensor([[*pixels_xy(top, left), *pixels_xy(bottom, right)]])
    with torch.no_grad():
        given = None if box_only else (points, torch.tensor([[1, 0]]))
        logits = None if box_only else torch.from_numpy(prompts.logits)[None, None]
        sparse, dense = sam.prompt_encoder(given, box, logits)
        positions = sam.prompt_encoder.get_dense_pe()
        masks, overlaps = sam.mask_decoder(embedding[None], positions, sparse, dense, multimask_output=not box_only)
    return torch.sigmoid(masks[0, overlaps[0].argmax()]).numpy()


@pytest.mark.parametrize("box_only", [False, True])
def test_sam_is_asked_with_these_prompts(monkeypatch: pytest.MonkeyPatch, box_only: bool) -> None:
    monkeypatch.setattr(sam_refiner, "ROUNDS", 1)
    if box_only:
        monkeypatch.setattr(sam_refiner, "BOX_ONLY", ("tiny",))
    sam = PublishedSAM(tiny_settings(), 1, CPU)
    slices = np.random.default_rng(0).random((1, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    embedding = sam.encode(slices).embeddings[0].float()
    refined = Refiner(sam).refine(L_SHAPE, embedding)
    np.testing.assert_allclose(refined, published_mask(L_SHAPE, embedding, box_only), atol=1e-4)
    assert refined.std() > 0.01


def test_every_round_starts_from_the_last_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    sam = PublishedSAM(tiny_settings(), 1, CPU)
    slices = np.random.default_rng(3).random((1, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    embedding = sam.encode(slices).embeddings[0].float()
    monkeypatch.setattr(sam_refiner, "ROUNDS", 1)
    once = Refiner(sam).refine(L_SHAPE, embedding)
    again = published_mask(once > 0.5, embedding, box_only=False)
    monkeypatch.setattr(sam_refiner, "ROUNDS", 2)
    np.testing.assert_allclose(Refiner(sam).refine(L_SHAPE, embedding), again, atol=1e-4)
    assert not np.allclose(once, again)


def test_an_empty_mask_stays_empty() -> None:
    sam = PublishedSAM(tiny_settings(), 1, CPU)
    refined = Refiner(sam).refine(drawn(), torch.zeros(256, GRID, GRID))
    assert refined.shape == (SIZE, SIZE) and not refined.any()


def test_command_refines_the_saliency_or_frozen_sams_masks(tmp_path: Path) -> None:
    raw = write_blob_dataset(tmp_path, n_train=1)
    write_test_prompts(NOISES["recipe"], raw, tmp_path / "recipe", 0)
    settings = tiny_settings()
    plans = write_plans(tmp_path / "SPDPlans.json", settings)
    stage1 = {s: write_stage1(tmp_path / f"{s}.pth", settings, 2, salient=s) for s in (False, True)}
    sources = {
        "nothing": ["-coarse", "saliency", "-stage1", stage1[False]],
        "everything": ["-coarse", "saliency", "-stage1", stage1[True]],
        "raw": ["-coarse", "raw", "-prompts", tmp_path / "recipe"],
    }
    found = {}
    for name, options in sources.items():
        words = [raw, "-plans", plans, "-o", tmp_path / name, "-device", "cpu", *options]
        main([str(w) for w in words])
        files = sorted((tmp_path / name).glob("*.nii.gz"))
        assert [f.name for f in files] == ["blob_001.nii.gz", "blob_002.nii.gz"]
        found[name] = [sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in files]
    assert not any(a.any() for a in found["nothing"])
    assert any(a.any() for a in found["everything"]) and any(a.any() for a in found["raw"])
