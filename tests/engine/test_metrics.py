"""What is read of metrics.csv: empty cells left out, half a row dropped, and anything else refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError


def test_empty_cells_are_left_out_and_steps_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == []
    path.write_text("step,a,b\n1,0.5,\n2,,inf\n")
    rows = read_metrics(path)
    assert rows == [{"step": 1, "a": 0.5}, {"step": 2, "b": float("inf")}]
    assert all(isinstance(row["step"], int) for row in rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("step,a", "it has no line"),
        ("step,a\n1\n", "a row has not as many cells as the first line"),
        ("step,a\n1,2,3\n", "a row has not as many cells as the first line"),
        ("step,a\n1.5,2\n", "step 1.5"),
        ("step,a\n1,two\n", "could not convert string to float: 'two'"),
        ("a\n1\n", "step"),
        ("step\ninf\n", "step inf"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(UserError, match="is not as it was written") as refused:
        read_metrics(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert path.read_text() == content
