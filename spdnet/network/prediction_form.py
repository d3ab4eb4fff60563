"""The network as it is run for prediction: the same function in fewer and larger operations.

Adapters are merged into the weights, in float32 batch norms into the convolutions before them, and attention, which the
published models write out, becomes one fused operation. Outputs are equal within rounding. Training keeps the published
form, which is equal to the published models to the last bit.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from spdnet.network.lora import merge_lora
from spdnet.network.spd_network import SPDNetwork

_SMALL_WINDOW = 64  # tokens


def optimize_for_prediction(network: SPDNetwork, dtype: torch.dtype = torch.float32) -> None:
    """Bring a network into the form for prediction, in place and for good: it cannot be trained after that.

    `own_state` stays what it was.

    Args:
        network: with its final weights. Nothing happens if it already has this form.
        dtype: number format in which it will compute (see `precision.compute_dtype`); the encoders' frozen matrices
            are stored in it, so that they need not be converted in every pass.
    """
    if network.is_prediction_form:
        return
    network.decoder_encoder = copy.deepcopy(network.decoder_encoder)  # merged weights cannot be shared
    for encoder in (network.image_encoder, network.decoder_encoder):
        if encoder is not None:
            _optimize_encoder(encoder.eval(), dtype)
    _replace_modules(network.mask_decoder)
    network.encoder_dtype = dtype
    network.is_prediction_form = True


def _optimize_encoder(encoder: nn.Module, dtype: torch.dtype) -> None:
    merge_lora(encoder)
    _replace_modules(encoder)
    if dtype == torch.float32:
        _fuse_batch_norms(encoder)
    else:  # fused in bfloat16, LiteMedSAM's embeddings are off by 4.5 % instead of 3.3 %, which 4 % of time do not buy
        _store_matrices(encoder, dtype)


def _fuse_batch_norms(module: nn.Module) -> None:
    """Replace every pair of a convolution and its batch norm by one convolution."""
    for name, child in module.named_children():
        layers = list(child.children()) if isinstance(child, nn.Sequential) else []
        if len(layers) == 2 and isinstance(layers[0], nn.Conv2d) and isinstance(layers[1], nn.BatchNorm2d):
            setattr(module, name, nn.utils.fusion.fuse_conv_bn_eval(layers[0], layers[1]))
        else:
            _fuse_batch_norms(child)


def _replace_modules(module: nn.Module) -> None:
    """Put the fused modules of this file in the place of the published ones, which are known by what they hold."""
    for name, child in module.named_children():
        if hasattr(child, "local_conv") and hasattr(child, "window_size"):
            setattr(module, name, FusedTinyViTBlock(child))
        elif hasattr(child, "qkv") and getattr(child, "use_rel_pos", False):
            setattr(module, name, FusedRelativeAttention(child))
        elif type(child).__name__ == "LayerNorm2d":
            setattr(module, name, FusedLayerNorm2d(child))
        else:
            _replace_modules(child)


def _store_matrices(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Store the frozen weights of linear and convolution layers in another format; adapters stay as they are."""
    for name, module in encoder.named_modules():
        if "lora_" not in name and isinstance(module, nn.Linear | nn.Conv2d) and hasattr(module, "bias"):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


class FusedLayerNorm2d(nn.Module):
    """segment-anything's `LayerNorm2d` in one operation."""

    def __init__(self, published: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = published.weight, published.bias, published.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), normalised over C."""
        channels_last = x.permute(0, 2, 3, 1)
        normalized = F.layer_norm(channels_last.float(), self.weight.shape, self.weight, self.bias, self.eps)
        return normalized.permute(0, 3, 1, 2)


class FusedTinyViTBlock(nn.Module):
    """A block of TinyViT with fused attention, its tokens kept in the order in which convolutions read them."""

    def __init__(self, published: Any) -> None:
        super().__init__()
        self.input_resolution = published.input_resolution
        self.window_size = published.window_size
        self.attn = FusedBiasedAttention(published.attn)
        self.local_conv = published.local_conv
        self.mlp = published.mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, H * W, C) to the same."""
        batch, n_tokens, channels = x.shape
        height, width = self.input_resolution
        x = x + self._attend(x.view(batch, height, width, channels)).reshape(batch, n_tokens, channels)
        image = self.local_conv(x.view(batch, height, width, channels).permute(0, 3, 1, 2))
        x = image.permute(0, 2, 3, 1).reshape(batch, n_tokens, channels)
        return x + self.mlp(x)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attention within the windows of (B, H, W, C), which is padded where they do not tile it."""
        batch, height, width, channels = x.shape
        side = self.window_size
        bottom, right = -height % side, -width % side
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = (height + bottom) // side, (width + right) // side
        windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        windows = self.attn(windows.reshape(-1, side * side, channels))
        windows = windows.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        x = windows.reshape(batch, rows * side, columns * side, channels)
        return x[:, :height, :width] if bottom or right else x


class FusedBiasedAttention(nn.Module):
    """TinyViT's attention with a bias for every pair of places in a window."""

    def __init__(self, published: Any) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = published.norm, published.qkv, published.proj
        self.num_heads, self.scale = published.num_heads, published.scale
        self.sizes = (published.key_dim, published.key_dim, published.d)
        self.bias: torch.Tensor
        bias = published.attention_biases[:, published.attention_bias_idxs]
        # of three dimensions: one of four would be turned to channels_last, which fused kernels do not take
        self.register_buffer("bias", bias.detach().contiguous(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, N, C) to the same."""
        batch, n_tokens, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, n_tokens, self.num_heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.split(self.sizes, dim=3))
        attended = attend_with_fixed_bias(q, k, v, self.bias[None], self.scale)
        return self.proj(attended.transpose(1, 2).reshape(batch, n_tokens, -1))


def attend_with_fixed_bias(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of (B, heads, N, d) with a bias float32 (1, heads, N, N), the same for all of the batch.

    On a CPU, small windows in bfloat16 are faster written out (measured: 1.4 to 1.7 times for 49 tokens), and the bias
    stays in float32, as in the published form under autocast.
    """
    on_cpu = q.device.type == "cpu"
    with torch.autocast(q.device.type, enabled=False):
        if on_cpu and q.dtype == torch.bfloat16 and q.shape[2] <= _SMALL_WINDOW:
            scores = (q @ k.transpose(-2, -1)).float().mul_(scale).add_(bias)
            return torch.softmax(scores, dim=-1).to(v.dtype) @ v
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias if on_cpu else bias.to(q.dtype), scale=scale)


class FusedRelativeAttention(nn.Module):
    """segment-anything's attention with decomposed relative positions, in windows or over the whole grid."""

    def __init__(self, published: Any) -> None:
        super().__init__()
        self.qkv, self.proj = published.qkv, published.proj
        self.num_heads, self.scale = published.num_heads, published.scale
        self.rel_pos_h, self.rel_pos_w = published.rel_pos_h, published.rel_pos_w

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to the same."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attend = attend_in_larger_heads if q.is_cuda else attend_with_bias
        attended = attend(q, k, v, *self._position_terms(q, height, width), self.scale)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, channels))

    def _position_terms(self, q: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the scores of queries (B, n, H * W, d) gain by a key's row, (..., H), and by its column, (..., W)."""
        rows = relative_positions(self.rel_pos_h, height).to(q.dtype)
        columns = relative_positions(self.rel_pos_w, width).to(q.dtype)
        by_place = q.unflatten(2, (height, width))
        row_terms = torch.einsum("bnhwc,hkc->bnhwk", by_place, rows).flatten(2, 3)
        return row_terms, torch.einsum("bnhwc,wkc->bnhwk", by_place, columns).flatten(2, 3)


def relative_positions(table: torch.Tensor, size: int) -> torch.Tensor:
    """Embedding of the distance between any two of `size` places: (2 * n - 1, d) to (size, size, d).

    A table for another number of places is interpolated, as by segment-anything.
    """
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T[None].float(), size=2 * size - 1, mode="linear")[0].T
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places + size - 1]


def attend_with_bias(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row_terms: torch.Tensor, column_terms: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of (B, heads, H * W, d) with position terms (B, heads, H * W, H) and (..., W), added up to one bias."""
    bias = (row_terms[..., :, None] + column_terms[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def attend_in_larger_heads(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row_terms: torch.Tensor, column_terms: torch.Tensor, scale: float
) -> torch.Tensor:
    """`attend_with_bias` without a bias of (H * W)^2 numbers, which CUDA's flash attention does not take.

    The position terms are further entries of a query, and a key's are 1 at its own row and column.
    """
    height, width = row_terms.shape[-1], column_terms.shape[-1]
    rows = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    places = torch.cat([rows, columns], dim=1).expand(*k.shape[:3], -1)
    missing = -(q.shape[-1] + height + width) % 8  # the size of a head must be a multiple of 8
    larger_q = F.pad(torch.cat([q * scale, row_terms, column_terms], dim=-1), (0, missing))
    larger_k = F.pad(torch.cat([k, places], dim=-1), (0, missing))
    larger_v = F.pad(v, (0, height + width + missing))
    return F.scaled_dot_product_attention(larger_q, larger_k, larger_v, scale=1.0)[..., : v.shape[-1]]
