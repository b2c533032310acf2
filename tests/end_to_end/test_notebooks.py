"""The notebooks of examples/, run from their first cell to their last in an empty folder, offline: in small
numbers each time, and, slow, as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
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
FEWER = {
    "distillation": {
        "max_steps=45": "max_steps=4",
        "fid.every=15": "fid.every=2",
        "checkpoint.every=45": "checkpoint.every=4",
        "pairs=16": "pairs=3",
        "upstreams=12": "upstreams=4",
        "upstreams=6": "upstreams=2",
    },
    "text_to_3d": {
        "max_steps=100": "max_steps=4",
        "clip.every=25": "clip.every=2",
        "checkpoint.every=100": "checkpoint.every=4",
        "pairs=10": "pairs=3",
        "upstreams=12": "upstreams=4",
    },
    "attribution": {
        '"--among", "100"': '"--among", "20"',
        '"--draws", "12"': '"--draws", "4"',
        "pairs=12": "pairs=3",
        "upstreams=8": "upstreams=2",
    },
}
"""Instead of its own numbers, to run it in seconds."""


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For the kernel, which gets the test's environment."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(name: str, folder: Path, fewer: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The values of a notebook's expression in :data:`COMPUTED`; an exception in any cell fails here."""
    notebook = read(name)
    for many, few in fewer.items():
        assert any(many in cell.source for cell in notebook.cells), many
        for cell in notebook.cells:
            cell.source = cell.source.replace(many, few)
    expression = f"import json\nprint(json.dumps([{COMPUTED[name]}]))"
    notebook.cells.append(nbformat.v4.new_code_cell(expression))
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    return json.loads(outputs[-1]["text"])


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", COMPUTED)
def test_every_cell_runs(name: str, tmp_path: Path) -> None:
    found, saved = run(name, tmp_path, FEWER[name])
    assert found
    assert saved > 0


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_distillation(tmp_path: Path) -> None:
    """The student's distance falls to less than a third; strata and importance lower the variance."""
    fids, saved = run("distillation", tmp_path)
    assert fids[-1] < fids[0] / 3
    assert saved > 1
    assert (tmp_path / "runs/notebook_dmd/student/model_index.json").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_text_to_3d(tmp_path: Path) -> None:
    """The object comes to look like its prompt."""
    scores, saved = run("text_to_3d", tmp_path)
    assert scores[-1] > 85
    assert scores[-1] > scores[0]
    assert saved > 1
    assert (tmp_path / "runs/notebook_object/object/mesh.glb").is_file()


@pytest.mark.slow
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
