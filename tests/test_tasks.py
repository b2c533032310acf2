"""Tasks are values: what each says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.tasks import TASKS, load_config, run_to_resume
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT

FREE = {
    "dmd_carv": ["variance.pairs=3", "fid.every=7", "checkpoint.keep_newest=9", "data.workers=1"],
    "sds_carv": ["clip.every=7", "clip.views=4", "preview.every=1", "export.frames=9", "trainer.max_steps=9"],
    "teacher_digits": ["fid.images=64", "trainer.patience=9"],
    "teacher_shapes": ["preview.every=3", "checkpoint.every=9"],
    "teacher_wild": ["preview.every=3", "checkpoint.every=9"],
    "teacher_clips": ["preview.every=3", "checkpoint.every=9"],
}
FIXED = {
    "dmd_carv": ["estimator.draws=2", "dmd.beta1=0.5", "trainer.max_steps=1"],
    "sds_carv": ["sds.prompt=a blue cube", "scene.samples=8"],
    "teacher_digits": ["training.batch=2", "data.flip=true", "trainer.max_steps=1"],
    "teacher_shapes": ["data.views=3", "training.ema=0.5", "trainer.max_steps=1"],
    "teacher_wild": ["training.views=3", "training.ema=0.5", "trainer.max_steps=1"],
    "teacher_clips": ["training.clips=9", "training.ema=0.5", "trainer.max_steps=1"],
}


@pytest.mark.parametrize("name", FREE)
def test_a_resumed_run_may_change_what_is_only_measured_shown_or_kept(name: str, tmp_path: Path) -> None:
    words = [f"folder={tmp_path}"]
    as_run(load_config(name, words))
    for word in FREE[name]:
        run_to_resume(load_config(name, [*words, word]))
    for word in FIXED[name]:
        key = word.partition("=")[0]
        remedy = "to finish that run" if key == "trainer.max_steps" else "a resumed run keeps its values"
        with pytest.raises(UserError, match=rf"--resume: {key} was .* {remedy}"):
            run_to_resume(load_config(name, [*words, word]))


def test_each_says_what_others_must_know() -> None:
    assert list(TASKS) == ["dmd", "teacher", "text_teacher", "pixel_teacher", "video_teacher", "sds"]
    for name, task in TASKS.items():
        assert task.name == name
        assert load_config(ROOT / "configs" / task.example).task == name
        assert "dmd." not in task.out_of_memory or name == "dmd"
    assert [n for n, t in TASKS.items() if t.gradient] == ["dmd", "sds"]
    assert [n for n, t in TASKS.items() if t.generators] == ["dmd", "teacher"]
    assert [n for n, t in TASKS.items() if t.model] == ["dmd", "teacher", "text_teacher", "video_teacher"]
    assert [n for n, t in TASKS.items() if t.prompted] == ["dmd", "sds"]
