"""Stage 2's first step where the plans say so: learn from the training cases which points to trust.

The points are drawn as for the training of the decoder. In every second draw some are dropped and others added at
random, so that what is learned does not hang on how many points there happen to be.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from spdnet.inference.prompting import backgrounds, points_of_class
from spdnet.planning import SPDSettings
from spdnet.prompts import ALL_CLASSES
from spdnet.prompts.distillation import point_uses
from spdnet.prompts.learned_trust import LearnedTrust
from spdnet.prompts.point_features import describe_uses
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.prompt_source import draw_prompts
from spdnet.training.stopping import StopRequest

_DRAWS = 6  # of prompts for each case, every second one perturbed
_DRAWS_OF_HELD_OUT = 24  # of cases that stage 1 has not seen, so that they count for about as much as all others
_SEED = 20261  # beside the training's, so that these draws are those of no epoch
_LEAST_KEPT, _MOST_ADDED = 0.2, 2.0  # shares of the points, of perturbed draws
_MOST_USES = 100_000  # of a class, to learn from; the cases have equal shares
_LEAST_USES = 20  # on the target, and as many beside it
_BATCH, _EPOCHS, _MOST_STEPS, _LEAST_STEPS = 256, 15, 3000, 200
_LEARNING_RATE, _WEIGHT_DECAY = 3e-3, 1.0


class Examples(NamedTuple):
    """Uses of points: features float32 (Q, F), and whether the point is on the target there, bool (Q,)."""

    features: np.ndarray
    on_target: np.ndarray


def learn_trust(
    variants: Sequence[StoredVariant],
    settings: SPDSettings,
    seed: int,
    stop: StopRequest,
    held_out: Collection[str] = (),
    classes: Sequence[int] | None = None,
) -> dict[int, tuple[LearnedTrust | None, Examples]]:
    """For each class what the training cases teach, None if they have too few points, and what it was learned from.

    All draws depend on the seed and the names of the cases alone.

    Args:
        variants: one of each training case.
        settings: of the plans.
        seed: of the training.
        stop: looked at between cases.
        held_out: names of the cases that stage 1 has not seen. Their saliency errs as that of new cases does, so more
            is drawn for them.
        classes: those that are to learn; None: all.
    """
    asked = range(variants[0].saliency.shape[1]) if classes is None else classes
    n_draws = [_DRAWS_OF_HELD_OUT if v.case.case in held_out else _DRAWS for v in variants]
    of_draw = math.ceil(_MOST_USES / sum(n_draws))
    parts: dict[int, list[Examples]] = {k: [] for k in asked}
    for variant, n in stop.guard(list(zip(variants, n_draws, strict=True))):
        for k, examples in _examples(variant, settings, seed, n, of_draw, asked).items():
            parts[k].append(examples)
    learned = {}
    for k, own in parts.items():
        rng = np.random.default_rng([seed, _SEED, k])
        features, on_target = (np.concatenate(arrays) for arrays in zip(*own, strict=True))
        examples = Examples(features, on_target)
        n_on = int(examples.on_target.sum())
        enough = min(n_on, len(examples.on_target) - n_on) >= _LEAST_USES
        learned[k] = fit_trust(examples, rng) if enough else None, examples
    return learned


def _examples(
    variant: StoredVariant, settings: SPDSettings, seed: int, n_draws: int, most: int, classes: Sequence[int]
) -> dict[int, Examples]:
    """Of one case, for each of the classes, at most so many of a draw; what lies under the ignore label is left out."""
    rng = np.random.default_rng([seed, _SEED, zlib.crc32(variant.name.encode())])
    saliency = np.asarray(variant.saliency, dtype=np.float32)
    n_slices, side = len(saliency), saliency.shape[-1]
    size, n_context = settings.image_size, settings.distillation.n_context
    parts: dict[int, list[Examples]] = {k: [] for k in classes}
    for draw in range(n_draws):
        prompts = variant.move(draw_prompts(variant.case, settings.prompts, rng))
        behind = backgrounds(prompts, saliency, variant.content_share)
        for k in classes:
            background = behind[k]
            points = points_of_class(prompts, k, size, side)
            if draw % 2:
                for_all = prompts.for_class(k).class_index == ALL_CLASSES
                points, for_all = _perturbed(points, for_all, n_slices, rng)
                background = replace(background, for_all=for_all)
            uses = point_uses(points, saliency[:, k].shape, n_context)
            uses = uses.select(uses.order())
            on_target, is_known = variant.target_at(k, uses.slice_index, uses.pixel.astype(np.float64))
            chosen = rng.permutation(len(on_target))[:most]
            chosen = chosen[is_known[chosen]]
            features = describe_uses(uses, saliency[:, k], background)
            parts[k].append(Examples(features[chosen], on_target[chosen]))
    return {k: Examples(*(np.concatenate(arrays) for arrays in zip(*own, strict=True))) for k, own in parts.items()}


def _perturbed(
    points_syx: np.ndarray, for_all: np.ndarray, n_slices: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Some of the points (N, 3), and others anywhere in the slices, within the rectangle that the points span.

    As many of the others speak for all classes as of the points, `for_all`, bool (N,).
    """
    if not len(points_syx):
        return points_syx, for_all
    is_kept = rng.random(len(points_syx)) < rng.uniform(_LEAST_KEPT, 1)
    n_added = rng.poisson(rng.uniform(0, _MOST_ADDED) * len(points_syx))
    low, high = points_syx[:, 1:].min(axis=0), points_syx[:, 1:].max(axis=0)
    added = np.column_stack([rng.integers(n_slices, size=n_added), rng.uniform(low, high, (n_added, 2))])
    return np.concatenate([points_syx[is_kept], added]), np.concatenate([for_all[is_kept], np.resize(for_all, n_added)])


def fit_trust(examples: Examples, rng: np.random.Generator) -> LearnedTrust:
    """Fit by cross-entropy, on the CPU; the result depends on the examples and the generator alone.

    Args:
        examples: some of either kind.
        rng: draws the weights to begin with and the batches.
    """
    mean, deviation = examples.features.mean(axis=0), examples.features.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)
    shapes = LearnedTrust.shapes()
    start = {name: np.zeros(shapes[name], dtype=np.float32) for name in shapes}
    for name in ("weight_1", "weight_2", "weight_3"):
        bound = 1 / np.sqrt(shapes[name][0])
        start[name] = rng.uniform(-bound, bound, shapes[name]).astype(np.float32)
    untrained = LearnedTrust(**{**start, "mean": mean, "scale": scale})
    weights = {name: torch.from_numpy(start[name]).requires_grad_() for name in shapes if name not in ("mean", "scale")}
    inputs = torch.from_numpy(untrained.standardized(examples.features))
    target = torch.from_numpy(examples.on_target.astype(np.float32))
    n = len(target)
    steps = int(np.clip(_EPOCHS * n // _BATCH, _LEAST_STEPS, _MOST_STEPS))
    optimizer = torch.optim.AdamW(list(weights.values()), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.from_numpy(rng.integers(n, size=_BATCH))
        hidden = torch.relu(inputs[batch] @ weights["weight_1"] + weights["bias_1"])
        hidden = torch.relu(hidden @ weights["weight_2"] + weights["bias_2"])
        logits = hidden @ weights["weight_3"] + weights["bias_3"]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    found = {name: weight.detach().numpy() for name, weight in weights.items()}
    return LearnedTrust(**{f.name: found.get(f.name, getattr(untrained, f.name)) for f in fields(LearnedTrust)})
