"""What is logged already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carv_distill.engine.loggers.ledger import Ledger
from carv_distill.errors import UserError


def test_a_resumed_attempt_logs_what_is_new(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "a.json")
    assert first.id is None
    assert first.is_new(0)
    first.begin("x7")
    for step in (10, 20, 20, 15):
        first.reach(step)
        assert first.is_new(step)  # several values of one update, from one attempt
    again = Ledger(tmp_path / "a.json")
    assert (again.id, again.next) == ("x7", 21)
    assert [again.is_new(step) for step in (10, 20, 21)] == [False, False, True]
    again.reach(30)
    assert again.is_new(25)
    assert json.loads((tmp_path / "a.json").read_text()) == {"id": "x7", "step": 30}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["{}", '{"id": 3, "step": 1}', '{"id": "a", "step": "b"}', "half a"])
def test_a_file_that_is_not_as_it_was_written_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json is not"):
        Ledger(tmp_path / "a.json")
