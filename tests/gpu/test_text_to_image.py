"""Text-to-image distillation on a CUDA device: half precision, adapters, no synchronisation, a run to its
end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.metrics import read_metrics
from carv_distill.tasks import load_config, train
from carv_distill.teachers.pipelines.network import PromptNetwork
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.small import ON_GPU
from tests.helpers.tiny_pipelines import save_sd3

pytestmark = ON_GPU
SHAPES = "checkpoints/shapes-teacher"


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.013)])
def test_half_precision_of_a_guided_draw(dtype: torch.dtype, bound: float) -> None:
    """ε̂ − ε at guidance 100 against float32, relative error of a draw; a bit of mantissa is worth two."""
    teacher = load_text_teacher(SHAPES)
    cond = teacher.prompts(["a red torus, side view"] * 8).to("cuda")
    x, eps = torch.randn(2, 8, *teacher.shape, generator=stream("x")).cuda()
    sigma = teacher.schedule.table[torch.linspace(100, 900, 8).long()].float().cuda()
    guided = teacher.guided(100.0).cuda()
    with torch.no_grad():
        exact = guided.predict_noise(x, sigma, eps, cond) - eps
        network = guided.network
        assert isinstance(network, PromptNetwork)
        network.cast(dtype)
        found = guided.predict_noise(x, sigma, eps, cond) - eps
    assert found.dtype == torch.float32
    error = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert 1e-4 < error.mean().item() < bound


def config(folder: Path, *words: str) -> DMDConfig:
    loaded = load_config(
        "text_to_image/dmd_shapes",
        [
            f"folder={folder}",
            f"prompts.cache={folder}",
            "data.views=2",
            "estimator.upstream=4",
            "dmd.fake_batch=8",
            "trainer.max_steps=2",
            "trainer.log_every=1",
            "checkpoint.every=2",
            "variance.every=0",
            "fid.every=0",
            *words,
        ],
    )
    assert isinstance(loaded, DMDConfig)
    return loaded


@pytest.mark.parametrize("words", [(), ("dmd.adapters.kind=lora",)])
def test_the_gradient_is_that_of_the_cpu(words: tuple[str, ...], tmp_path: Path) -> None:
    """The same z and draws, float32 without TF32: the student's samples to 1e-4."""
    torch.backends.cudnn.allow_tf32 = False
    options = config(tmp_path, "trainer.precision=32-true", *words)
    samples = []
    for device in ("cpu", "cuda"):
        module = build_module(options, load_data(options)).to(device)
        z, numbers = module.objective.upstream_noise(4, stream("z"))
        o = module.objective
        with torch.no_grad():
            samples.append(o.generate(o.student, z.to(device), numbers.to(device)).cpu())
    torch.testing.assert_close(samples[0], samples[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("dmd.adapters.kind=lora", "teacher.precision=bfloat16", "dmd.gradient_checkpointing=true"),
        ("teacher.precision=float16", "dmd.gan.fake_weight=0.03", "dmd.gan.student_weight=0.01"),
    ],
)
def test_a_run_to_its_end(words: tuple[str, ...], tmp_path: Path) -> None:
    train(config(tmp_path, "name=run", *words))
    assert (tmp_path / "run/student/model_index.json").is_file()
    rows = read_metrics(tmp_path / "run/metrics.csv")
    assert len(rows) == 2
    assert all(row["loss/fake"] < 10 for row in rows)


def test_a_flow_model(tmp_path: Path) -> None:
    """SD3-shaped, from t = 1, with adapters over bfloat16 weights."""
    teacher = save_sd3(tmp_path / "sd3")
    (tmp_path / "prompts.txt").write_text("a red cube\na torus\n")
    options = config(
        tmp_path,
        f"teacher.path={teacher}",
        f"prompts.path={tmp_path / 'prompts.txt'}",
        "data.name=captioned",
        "dmd.student_timestep=null",
        "dmd.adapters.kind=lora",
        "teacher.precision=bfloat16",
        "name=flow",
    )
    train(replace(options, data=replace(options.data, size=32, views=66)))
    assert (tmp_path / "flow/student/lora/pytorch_lora_weights.safetensors").is_file()
