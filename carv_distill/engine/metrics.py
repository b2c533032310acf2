"""metrics.csv as it is read, without what a training needs: one row per logged step."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from carv_distill.errors import UserError, one_line

Row = dict[str, float]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.csv, empty cells left out; no rows for a file that is not there.

    A last line without its end is dropped: its writer was killed, or is writing.

    Raises:
        UserError: the file is not as it was written.
    """
    if not path.is_file():
        return []
    try:
        content = path.read_bytes()
        if content and b"\n" not in content:
            raise ValueError("it has no line")
        whole = content.rpartition(b"\n")[0].decode("utf-8-sig")
        return [_row(row) for row in csv.DictReader(io.StringIO(whole), strict=True)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise UserError(
            f"{path} is not as it was written ({one_line(error)}); put back the file as it was, or move it "
            "away to go on without its rows"
        ) from error


def _row(cells: dict[str, str]) -> Row:
    if None in cells or None in cells.values():
        raise ValueError("a row has not as many cells as the first line")
    row = {name: float(value) for name, value in cells.items() if value}
    if not row["step"].is_integer():
        raise ValueError(f"step {cells['step']}")
    return {**row, "step": int(row["step"])}
