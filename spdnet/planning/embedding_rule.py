"""Whether stage 2 of the training keeps embeddings on disk, by the room that there is.

Stored embeddings make an epoch of stage 2 many times faster, as the encoder does not run in it; they take 512 bytes for
each token of a slice.
"""

from __future__ import annotations

from dataclasses import replace

from spdnet.planning.plans import AugmentationSettings, SPDSettings

SHARE_OF_FREE_DISK = 0.5
_CHANNELS = 256  # of SAM's embeddings, float16


def stored_bytes(n_slices: int, grid: int, n_classes: int, settings: SPDSettings) -> int:
    """Bytes that stage 2 stores for some slices: embeddings (if the plans say so), saliency and masks.

    Args:
        n_slices: each stored variant of a slice counts.
        grid: tokens along a side.
        n_classes: foreground classes.
        settings: of the plans.
    """
    return n_slices * _bytes_of_slice(grid, n_classes, settings.image_size, settings.stores_embeddings)


def choose_storage(
    augmentation: AugmentationSettings,
    n_slices: int,
    grid: int,
    n_classes: int,
    image_size: int,
    free_bytes: float,
    embeddings: bool = True,
) -> tuple[AugmentationSettings, str]:
    """As many variants as half of the free disk holds, at least one; no embeddings where it does not hold one.

    Args:
        augmentation: with the number of variants that are wanted.
        n_slices: of the data set.
        grid, n_classes, image_size: as in `stored_bytes`; side of the input, pixels.
        free_bytes: of the disk that nnUNet_results is on.
        embeddings: whether they are to be stored beside saliency and masks at all.

    Returns:
        The settings with the choice, and the reason in words.
    """
    per_variant = n_slices * _bytes_of_slice(grid, n_classes, image_size, embeddings)
    fitting = int(SHARE_OF_FREE_DISK * free_bytes // max(1, per_variant))
    rule = (
        f"a variant of all {n_slices} slices takes {per_variant / 2**30:.1f} GiB, and half of the free disk "
        f"({free_bytes / 2**30:.0f} GiB) may be used"
    )
    if not embeddings:
        variants = min(augmentation.stored_variants, max(fitting, 1))
        return replace(augmentation, stored_variants=variants), f"{variants} variants, without embeddings: {rule}"
    if fitting < 1:
        return replace(augmentation, stored_embeddings=False), f"not stored, encoded in every batch: {rule}"
    variants = min(augmentation.stored_variants, fitting)
    return replace(augmentation, stored_variants=variants), f"{variants} variants stored: {rule}"


def _bytes_of_slice(grid: int, n_classes: int, image_size: int, stored: bool) -> int:
    embedding = 2 * _CHANNELS * grid**2 if stored else 0
    saliency = 2 * n_classes * (4 * grid) ** 2
    return embedding + saliency + n_classes * image_size**2
