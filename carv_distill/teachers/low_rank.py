"""What low-rank adapters of a network are made of; known without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from carv_distill.options import at_least

PROJECTIONS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "net.0.proj",
    "net.2",
    "proj_mlp",
    "single_transformer_blocks.*.proj_out",
)
"""Attention and feed-forward projections by the names that they have in diffusers' UNets and transformers; no
network has all of them."""


@dataclass
class LowRankOptions:
    """Low-rank adapters W + (α/r) B A of a frozen network's layers (Hu et al. 2022, LoRA)."""

    rank: int = at_least(1, 16)
    """r: rows of A, columns of B."""
    alpha: int | None = at_least(1, None)
    """α; empty: the rank, that is a factor of 1."""
    targets: list[str] = field(default_factory=lambda: list(PROJECTIONS))
    """Ends of the names of linear and convolutional layers that get adapters, from a dot on; * stands for
    anything. One that is not among the defaults must match a layer."""
