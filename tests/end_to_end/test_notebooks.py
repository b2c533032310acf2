"""The notebooks of examples/, run from their first cell to their last in an empty folder, offline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.small import ROOT

FOLDER = ROOT / "examples/notebooks"
COMPUTED = {
    "distillation": "[row['fid/fid'] for row in traced], saved",
    "text_to_3d": "scores, saved",
    "attribution": "share, saved",
}
"""By notebook, what it has at its end that is looked at here."""


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For the kernel, which gets the test's environment."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(name: str, folder: Path) -> Any:
    """The values of a notebook's expression in :data:`COMPUTED`; an exception in any cell fails here."""
    notebook = read(name)
    expression = f"import json\nprint(json.dumps([{COMPUTED[name]}]))"
    notebook.cells.append(nbformat.v4.new_code_cell(expression))
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    return json.loads(outputs[-1]["text"])


@pytest.mark.usefixtures("offline")
def test_distillation(tmp_path: Path) -> None:
    """The student's distance falls to less than a third; strata and importance lower the variance."""
    fids, saved = run("distillation", tmp_path)
    assert fids[-1] < fids[0] / 3
    assert saved > 1
    assert (tmp_path / "runs/notebook_dmd/student/model_index.json").is_file()


@pytest.mark.usefixtures("offline")
def test_text_to_3d(tmp_path: Path) -> None:
    """The object comes to look like its prompt."""
    scores, saved = run("text_to_3d", tmp_path)
    assert scores[-1] > 85
    assert scores[-1] > scores[0]
    assert saved > 1
    assert (tmp_path / "runs/notebook_object/object/mesh.glb").is_file()


@pytest.mark.usefixtures("offline")
def test_attribution(tmp_path: Path) -> None:
    """Three times as many of the first are of the query's class as by chance."""
    share, saved = run("attribution", tmp_path)
    assert share > 0.3
    assert saved > 1.5


def test_each_capability_has_one() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(COMPUTED)


@pytest.mark.parametrize("name", COMPUTED)
def test_it_is_kept_without_outputs_and_needs_public_names_alone(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not re.search(r"\b_[a-z]\w*", "\n".join(cell.source for cell in code))
    assert str(Path.home()) not in json.dumps(notebook)
