"""SAM's mask decoder on a batch of different slices with different numbers of points, with or without a box.

segment-anything's own forward takes one image and the same number of points for every mask. Here the same
modules are called, with the same operations in the same order, for one embedding per row and with the tokens
that only pad a row masked out of the attention (SAM's padding label changes the result slightly; a mask does
not). Without padding the result is equal to segment-anything's to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import torch


def decode_masks(
    mask_decoder: Any,
    embeddings: torch.Tensor,
    image_pe: torch.Tensor,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    token_is_real: torch.Tensor | None = None,
) -> torch.Tensor:
    """Predict one mask per row (SAM's first output token, as with `multimask_output=False`).

    Args:
        mask_decoder: a `MaskDecoder` of segment-anything or of LiteMedSAM.
        embeddings: (B, C, grid, grid).
        image_pe: (1, C, grid, grid) positional encoding of the embedding.
        sparse: (B, N, C) prompt tokens.
        dense: (B, C, grid, grid) dense prompt.
        token_is_real: bool (B, N), False for tokens that only pad; None if all are real.

    Returns:
        Mask logits (B, 4 * grid, 4 * grid).
    """
    batch = sparse.shape[0]
    output_tokens = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat((output_tokens.unsqueeze(0).expand(batch, -1, -1), sparse), dim=1)
    attend = None
    if token_is_real is not None and not bool(token_is_real.all()):
        outputs = token_is_real.new_ones(batch, output_tokens.shape[0])
        attend = torch.cat((outputs, token_is_real), dim=1)[:, None, None, :]
    source = embeddings + dense
    height, width = source.shape[-2:]
    positions = image_pe.expand(batch, -1, -1, -1)
    tokens, keys = _two_way_transformer(mask_decoder.transformer, source, positions, tokens, attend)
    upscaled = mask_decoder.output_upscaling(keys.transpose(1, 2).view(batch, -1, height, width))
    # all four of SAM's masks, as in segment-anything: a product of another shape rounds differently
    weights = torch.stack(
        [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(mask_decoder.output_hypernetworks_mlps)], dim=1
    )
    height, width = upscaled.shape[-2:]
    return (weights @ upscaled.flatten(2)).view(batch, -1, height, width)[:, 0]


def _two_way_transformer(
    transformer: Any, image: torch.Tensor, image_pe: torch.Tensor, tokens: torch.Tensor, attend: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`TwoWayTransformer.forward` with a mask of the tokens that may be attended to."""
    keys = image.flatten(2).permute(0, 2, 1)
    key_pe = image_pe.flatten(2).permute(0, 2, 1)
    queries = tokens
    for layer in transformer.layers:
        queries, keys = _two_way_block(layer, queries, keys, tokens, key_pe, attend)
    attended = _attention(transformer.final_attn_token_to_image, queries + tokens, keys + key_pe, keys)
    return transformer.norm_final_attn(queries + attended), keys


def _two_way_block(
    layer: Any,
    queries: torch.Tensor,
    keys: torch.Tensor,
    query_pe: torch.Tensor,
    key_pe: torch.Tensor,
    attend: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if layer.skip_first_layer_pe:
        queries = _attention(layer.self_attn, queries, queries, queries, attend)
    else:
        positioned = queries + query_pe
        queries = queries + _attention(layer.self_attn, positioned, positioned, queries, attend)
    queries = layer.norm1(queries)
    queries = queries + _attention(layer.cross_attn_token_to_image, queries + query_pe, keys + key_pe, keys)
    queries = layer.norm2(queries)
    queries = layer.norm3(queries + layer.mlp(queries))
    attended = _attention(layer.cross_attn_image_to_token, keys + key_pe, queries + query_pe, queries, attend)
    return queries, layer.norm4(keys + attended)


def _attention(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attend: torch.Tensor | None = None
) -> torch.Tensor:
    q = _split_heads(module.q_proj(q), module.num_heads)
    k = _split_heads(module.k_proj(k), module.num_heads)
    v = _split_heads(module.v_proj(v), module.num_heads)
    scores = q @ k.permute(0, 1, 3, 2) / math.sqrt(q.shape[-1])
    if attend is not None:
        scores = scores.masked_fill(~attend, -torch.inf)
    out = torch.softmax(scores, dim=-1) @ v
    return module.out_proj(out.transpose(1, 2).flatten(2))


def _split_heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    batch, n, channels = tokens.shape
    return tokens.reshape(batch, n, heads, channels // heads).transpose(1, 2)
