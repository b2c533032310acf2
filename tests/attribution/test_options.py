"""What an attribution is told, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.attribution import options
from carv_distill.errors import UserError


def test_options_that_do_not_fit_are_named() -> None:
    plain = {"teacher": "teacher", "data": "digits", "score": "cosine", "draws": 4, "groups": 2}
    for change, said in (
        ({"data": None}, "--teacher and --data go together"),
        ({"draws": 5}, "--draws: 5 is no multiple of --groups, 2"),
        ({"groups": 1}, "--groups: products across groups need 2 or more"),
        ({"score": "tracin", "checkpoints": (1, 2)}, "--checkpoints: they are those of a teacher's run"),
        ({"normalise": "draw", "score": "inner"}, "--normalise: draw is for --score cosine"),
        ({"score": "tracin"}, "--score: tracin needs --checkpoints"),
        ({"checkpoints": (1,)}, "--checkpoints: they are for --score tracin"),
        ({"score": "trak", "projection": "countsketch", "debias": True}, "--debias: trak has no debiased"),
        ({"score": "trak", "projection": "none"}, "--projection: trak"),
        ({"strategy": "paired", "draws": 6}, "--strategy: paired needs an even number .* found 3"),
        (
            {"backend": "vmap", "gradient_checkpointing": True},
            "--gradient-checkpointing: .* found vmap",
        ),
        ({"scores": Path("scores.csv")}, "--scores: scores.csv must end in"),
    ):
        with pytest.raises(UserError, match=said):
            options.InfluenceOptions(**{**plain, **change})  # type: ignore[arg-type]
