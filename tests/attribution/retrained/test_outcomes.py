"""What scores predict of models that were trained anew: which scores are taken."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from carv_distill.attribution.options import InfluenceOptions
from carv_distill.attribution.ranking.ranking import scores_digest
from carv_distill.attribution.retrained import outcomes
from carv_distill.attribution.retrained.outcomes import measure_outcomes
from carv_distill.errors import UserError


@pytest.fixture
def two_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribution of two queries over five training samples; its scores are read before a network runs."""
    monkeypatch.setattr(outcomes, "load_model", lambda *_: None)
    monkeypatch.setattr(outcomes, "ranked_set", lambda *_: range(5))
    monkeypatch.setattr(outcomes, "read_queries", lambda *_: range(2))


def damaged() -> bytes:
    """Scores whose deflated content begins with a block of no kind."""
    file = io.BytesIO()
    np.savez_compressed(file, scores=np.zeros((2, 5)))
    content = bytearray(file.getvalue())
    name, extra = struct.unpack("<26xHH", content[:30])
    content[30 + name + extra] |= 0b110
    return bytes(content)


def measure(scores: Path, digest: str = "") -> Any:
    nothing = cast(Any, None)
    models = scores.parent / "models.jsonl"
    return measure_outcomes(nothing, InfluenceOptions(), scores, digest, models, 1, 0, "cpu")


@pytest.mark.usefixtures("two_queries")
def test_scores_of_another_attribution_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", scores=torch.zeros(2, 4).numpy())
    said = r"scores\.npz has scores \[2, 4\] of queries and training samples; they are \[2, 5\] now"
    with pytest.raises(UserError, match=said):
        measure(tmp_path / "scores.npz", scores_digest(torch.zeros(2, 4)))


@pytest.mark.usefixtures("two_queries")
def test_scores_that_were_replaced_are_refused(tmp_path: Path) -> None:
    """By those of another ranking of as many queries and samples, as a second command may leave them."""
    np.savez(tmp_path / "scores.npz", scores=torch.ones(2, 5).numpy())
    with pytest.raises(
        UserError, match=r"scores\.npz, are others than it was written with; run evaluate\.py"
    ):
        measure(tmp_path / "scores.npz", scores_digest(torch.zeros(2, 5)))


@pytest.mark.usefixtures("two_queries")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("scores.npz", damaged(), r"scores\.npz, cannot be read \(Error -3"),
        ("scores.npz", b"", r"scores\.npz, cannot be read \(No data left"),
        ("scores.csv", b"1,2", r"an \.npz is needed"),
        ("scores.npz", b"1,2", r"scores\.npz, cannot be read"),
        ("scores.npz", None, r"scores\.npz, cannot be read"),
    ],
)
def test_scores_that_are_none_are_one_line(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is None:
        np.savez(path, values=np.zeros(2))  # readable, but no scores
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        measure(path)
