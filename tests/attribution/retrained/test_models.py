"""Models that were trained anew, from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from carv_distill.attribution.models.attributed import load_model
from carv_distill.attribution.retrained import models as losses
from carv_distill.attribution.retrained.models import (
    RetrainedModel,
    predicted_outcomes,
    query_losses,
    read_models,
)
from carv_distill.errors import UserError
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.parametrisation import Coefficients
from tests.helpers.attributed import few_digits, tiny_teacher


def test_a_line_for_each_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "some.txt").write_text("0 4")
    file = tmp_path / "models.jsonl"
    lines = [{"model": "a", "with": [1, 2]}, {"model": "a", "without": "some.txt", "query": 1}]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    first, second = read_models(file, torch.arange(5), 2)
    assert (first.folder, first.without, first.query) == (tmp_path / "a", {0, 3, 4}, None)
    assert (second.without, second.query) == ({0, 4}, 1)
    scores = torch.tensor([[1.0, 2, 4, 8, 16], [float("nan"), 1, 1, 1, 1]])
    predicted = predicted_outcomes(scores, torch.arange(5), [first, second])
    assert predicted.tolist() == [[6, 14], [2, 3]]
    part = predicted_outcomes(scores[:, 2:], torch.arange(2, 5), [first, second])
    assert part[0].tolist() == [4, 12]


def test_numbers_are_those_of_the_whole_data_set(tmp_path: Path) -> None:
    """Of an attribution whose model learned from some of it (data.only)."""
    (tmp_path / "a").mkdir()
    (tmp_path / "models.jsonl").write_text('{"model": "a", "with": [5, 100]}')
    (model,) = read_models(tmp_path / "models.jsonl", torch.tensor([5, 9, 100]), 1)
    assert model.without == {9}
    scores = torch.tensor([[1.0, 2.0, 4.0]])
    assert predicted_outcomes(scores, torch.tensor([5, 9, 100]), [model]).tolist() == [[5]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 is not JSON"),
        ('{"model": 3, "with": [1]}', 'line 1 is no {"model"'),
        ('{"model": "a", "with": [1], "wihtout": [2]}', 'line 1 is no {"model"'),
        ('{"model": "a"}', "give either with or without"),
        ('{"model": "b", "with": [1]}', "line 1: b is no folder"),
        ('{"model": "a", "with": [5]}', "with: .* no list of numbers from 0 to 4"),
        ('{"model": "a", "with": "none.txt"}', "with: none.txt cannot be read"),
        ('{"model": "a", "with": [1], "query": 2}', "query 2 is no number from 0 to 1"),
        ("", "names no model"),
    ],
)
def test_what_is_none_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "models.jsonl"
    file.write_text(line)
    with pytest.raises(UserError, match=rf"^--models: .*{said}"):
        read_models(file, torch.arange(5), 2)


def test_a_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"^--models: .*models.jsonl is not UTF-8"):
        read_models(tmp_path / "models.jsonl", torch.arange(5), 2)


def test_draws_go_through_the_network_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they fit; a loss is the same mean over all of them."""
    few_digits(monkeypatch)
    base = load_model(tiny_teacher(tmp_path), "cpu")
    models = [RetrainedModel(Path(base.name), frozenset())]
    queries = base.training.at([3, 14])
    called: list[int] = []
    monkeypatch.setattr(losses, "find_chunk", lambda work, *_: (work(2), 5)[1])
    raw = NetworkDenoiser.raw

    def counted(self: NetworkDenoiser, y: Tensor, c: Coefficients, cond: Cond) -> Tensor:
        called.append(len(y))
        return raw(self, y, c, cond)

    monkeypatch.setattr(NetworkDenoiser, "raw", counted)
    found = query_losses(models, base, queries, 12, 0)
    assert called[-7:] == [2, *[5, 5, 2] * 2]  # after a trial of the network as it is loaded
    torch.testing.assert_close(query_losses(models, base, queries, 12, 0, 12), found, rtol=1e-6, atol=0)
    assert called[-2:] == [12, 12]
