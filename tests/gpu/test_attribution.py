"""Per-sample gradients on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.attribution.features.chunks import find_chunk
from carv_distill.attribution.features.draws import shared_draws
from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import sample_features
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.models.prompted import _loaded, _PromptedModel, _Texts
from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.teachers.pipelines.folder import find_pipeline
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.teacher import load_teacher
from tests.helpers.small import ON_GPU, ROOT
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pipelines import SIZES, save_wan

pytestmark = ON_GPU


@pytest.mark.parametrize("kind", [VmapGradients, BackwardGradients])
def test_features_are_those_of_a_cpu_and_bf16_is_near(
    kind: type[VmapGradients] | type[BackwardGradients],
) -> None:
    """The digits teacher, 16 samples × 8 draws: float32 to 1e-3 of the norm, bf16 to a cosine of 0.98."""
    data = load_images("digits")
    draws = shared_draws(NoiseLevelSampler(Proposal.uniform(), "paired", "antithetic"), 8, 2, (1, 8, 8), 0)
    projector = build_projector("countsketch", 4096, 0)
    found = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        teacher = load_teacher(ROOT / "checkpoints/digits-teacher")
        gradients = kind(SampleLoss(teacher.denoiser.to(device), teacher.schedule, precision=precision))
        there = Draws(*(t.to(device) for t in (draws.u, draws.weight, draws.eps)))
        batch = SampleBatch(data.images[:16], data.labels[:16]).to(device)
        found[device, precision] = sample_features(gradients, projector, batch, there, chunk=8).cpu()
    exact = found["cpu", "fp32"]
    assert (found["cuda", "fp32"] - exact).norm() < 1e-3 * exact.norm()
    assert torch.cosine_similarity(found["cuda", "bf16"], exact, dim=-1).min() > 0.98


def test_a_transformer_s_gradient_is_never_whole_there_either(tmp_path: Path) -> None:
    """Ten samples of a Wan with weights in bfloat16: near those of float32 on a CPU; no gradient stays."""
    found = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "bf16-true")):
        teacher = load_text_teacher(save_wan(tmp_path / device), SIZES["wan"]).to(device)
        if precision == "bf16-true":
            teacher.network.cast(torch.bfloat16)
        loss = SampleLoss(teacher.denoiser, teacher.schedule, ("attention",), precision)
        gradients = BackwardGradients(loss, checkpointing=True)
        draws = shared_draws(NoiseLevelSampler(Proposal.uniform()), 4, 2, teacher.shape, 0)
        there = Draws(*(t.to(device) for t in (draws.u, draws.weight, draws.eps)))
        x = torch.randn(10, *teacher.shape, generator=stream("x")).to(device)
        cond = teacher.prompts(["a red torus", "a cube"] * 5)
        features = sample_features(
            gradients, build_projector("countsketch", 256), SampleBatch(x, cond), there
        )
        assert all(p.grad is None for p in teacher.network.parameters())
        found[device] = features.cpu()
    assert torch.cosine_similarity(found["cuda"], found["cpu"], dim=-1).min() > 0.95


def test_a_chunk_that_does_not_fit_is_halved() -> None:
    device = torch.device("cuda")
    whole = torch.cuda.get_device_properties(device).total_memory

    def work(count: int) -> torch.Tensor:
        return torch.empty(count * (whole // 10), dtype=torch.uint8, device=device)

    assert find_chunk(work, 4, 64, device) <= 8


def test_samples_of_a_prompted_model_are_made_there(tmp_path: Path) -> None:
    """Under guidance, which joins a prompt's condition with that of none; float32, near those of a CPU."""
    path, found = save_tiny_pipeline(tmp_path / "pipeline"), {}
    for device in ("cpu", "cuda"):
        texts = _Texts(find_pipeline(path), tmp_path / "prompts", device)
        model = _PromptedModel(_loaded(path, (), texts, device, ModelOptions()), texts, None, device)
        found[device] = model.generate(["a red torus", "a blue cube"]).batch.x
    assert found["cuda"].device.type == "cpu"
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-2, atol=1e-2)
