"""Attention by plain products, for gradients under `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ · scale + mask) v, as `torch.nn.functional.scaled_dot_product_attention` defines it.

    Args:
        query: [… L, D].
        key: [… S, D].
        value: [… S, E].
        attn_mask: added to the products, or of truth values: true takes part.
        scale: 1/√D by default.
        enable_gqa: heads, the third dimension from the end, of key and value are repeated to the query's.

    Returns:
        [… L, E].

    Raises:
        ValueError: `dropout_p`, whose randomness would be of no draw.
    """
    if dropout_p:
        raise ValueError(f"dropout_p must be 0; found {dropout_p}")
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    products = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        products = products.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        products = products + attn_mask
    return products.softmax(-1) @ value


class PlainAttention(TorchFunctionMode):
    """A block in which every fused attention is :func:`plain_attention`.

    vmap cannot batch the fused kernels, and their fallback, which autocast leaves to each level of a
    transform, ends on CUDA in a softmax whose gradient has another precision than its input.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is scaled_dot_product_attention:
            return plain_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
