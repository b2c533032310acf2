"""The page of an object's folder."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from carv_distill.tasks import load_config
from carv_distill.text_to_3d.object.card import object_card
from carv_distill.text_to_3d.options import SDSConfig


def card(metrics: Path, *words: str, files: tuple[str, ...] = ("mesh.glb", "views.png")) -> ModelCard:
    config = load_config("sds_carv", [*words])
    assert isinstance(config, SDSConfig)
    return ModelCard(object_card(config, metrics, 6, files))


def test_files_settings_and_the_last_score_until_the_update(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("step,clip/score\n3,20.0\n6,30.25\n9,40.0\n")
    found = card(metrics, "sds.prompt=a red\n cube", "estimator.draws=2", "seed=5")
    assert found.data.to_dict() == {"pipeline_tag": "text-to-3d", "tags": ["sds", "voxels", "carv-distill"]}
    assert "\n# a red cube\n" in found.text
    assert "| `mesh.glb` | mesh with colours at its vertices |" in found.text
    assert "scene.ply" not in found.text
    for row in ("updates | 6", "R | 1", "K | 2", "strategy | stratified", "seed | 5"):
        assert f"| {row} |" in found.text
    assert "| CLIP score | 30.2 (12 views, at update 6) |" in found.text


def test_a_run_that_was_not_scored_says_no_score(tmp_path: Path) -> None:
    found = card(tmp_path / "metrics.csv", "scene.kind=gaussians", files=("scene.ply",))
    assert "CLIP" not in found.text
    assert "| `scene.ply` | Gaussians" in found.text
    assert "gaussians" in found.data.tags
