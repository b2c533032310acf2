"""The parameters that a gradient is taken by: patterns of their names, and presets of patterns."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from carv_distill.errors import UserError
from carv_distill.options import nearest

PRESETS: dict[str, tuple[str, ...]] = {
    "attention": (
        "*.to_[qkv].*",
        "*.to_out.*",
        "*.add_[qkv]_proj.*",
        "*.to_add_out.*",
        "*.norm_[qk].*",
        "*.norm_added_[qk].*",
    ),
    "mlp": ("*.ff.*", "*.ff_context.*", "*.ffn.*", "*.mlp.*", "*.proj_mlp.*"),
    "lora": ("*.lora_[AB].*",),
}
"""By name: projections of attention with their norms, feed-forward layers, peft's low-rank adapters; as
diffusers' networks name them."""


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match a pattern (``*`` for any characters) or belong to a preset, in their own order.

    Raises:
        UserError: there are no names or no patterns, or a pattern or preset matches none.
    """
    if not names:
        raise UserError("--parameters: the network has no parameters, so there is no gradient by them")
    if not patterns:
        raise UserError(
            f"--parameters: no pattern was given (allowed: names as {names[0]}, *, or one of "
            f"{', '.join(PRESETS)})"
        )
    found: set[str] = set()
    for pattern in patterns:
        own = [name for name in names if _matches(name, pattern)]
        if not own:
            raise UserError(_nothing(pattern, names))
        found.update(own)
    return [name for name in names if name in found]


def _matches(name: str, pattern: str) -> bool:
    """The dot before a name lets a pattern of a preset meet a part of it that comes first."""
    if pattern in PRESETS:
        return any(fnmatchcase(f".{name}", part) for part in PRESETS[pattern])
    return fnmatchcase(name, pattern)


def _nothing(pattern: str, names: Sequence[str]) -> str:
    named = f"they are named as {names[0]}, {names[-1]}"
    if pattern in PRESETS:
        return (
            f"--parameters: {pattern} stands for {', '.join(PRESETS[pattern])}, which match none of the "
            f"{len(names)} parameters; {named}"
        )
    return (
        f"--parameters: {pattern!r} matches none of the {len(names)} parameters"
        f"{nearest(pattern, [*names, *PRESETS])}; {named}"
    )
