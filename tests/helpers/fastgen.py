"""What of NVIDIA FastGen a method of it meets, as a stand-in: it has no package to install.

Facts, read in github.com/NVlabs/FastGen, and where its own files were not at hand in forks that carry them
(no code of it is here):

- `DMD2Model` (fastgen/methods/distribution_matching/dmd2.py at a6b2497): `__init__` calls `build_model`; what
  `_student_update_step` is given and returns; each sample has one (t, ε), which matching term and
  discriminator share; guidance x̂ + (s − 1)(x̂ − x̂_∅); networks are called with x_t, t, condition and
  fwd_pred_type, and with feature_indices give features too.
- The matching loss (fastgen/methods/common_loss.py, in paulcho98/FastGen at aba1b3b): half the mean square of
  x − stopgrad(x − (x̂_fake − x̂)/(mean|x − x̂| + 1e-6)), the mean absolute difference in float32; the
  generator's loss is softplus(−logit).
- `EDMNoiseSchedule` (fastgen/networks/noise_schedule.py at 2a1a495): x_t = x + t ε, t in float64; the
  distribution "polynomial" is uniform on entries 2 … 998 of 1,000 levels from 0.002 to 80 with ρ = 7.
- Configurations are attrs classes; a file of one has `create_config` (fastgen/configs/config_utils.py and
  configs/methods/config_dmd2.py, in juliusberner/FastGen at 7762e30, configs/experiments/EDM in
  j0seo/Cosmos-Self-Forcing-Training at 51cb1be); `LazyCall(class)(**arguments)` keeps both for later.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Schedule:
    t_precision = torch.float64

    def __init__(self) -> None:
        ramp = torch.linspace(0, 1, 1000, dtype=torch.float64)
        self.levels = (0.002 ** (1 / 7) + ramp * (80.0 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7

    def sample_t(self, n: int, time_dist_type: str, device: torch.device) -> Tensor:
        assert time_dist_type == "polynomial"
        return self.levels[torch.randint(2, 999, (n,))].to(device)

    def forward_process(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == self.t_precision
        return (x.double() + t.view(-1, 1, 1, 1) * eps.double()).to(x.dtype)


class Network(nn.Module):
    """x̂ of 2×4×4 pictures with a label's embedding [n, 3] as condition; its features are 5 numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.noise_scheduler = Schedule()
        self.inner, self.outer = nn.Linear(32 + 1 + 3, 5), nn.Linear(5, 32)

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Any, fwd_pred_type: str, feature_indices: Any = None
    ) -> Any:
        assert fwd_pred_type == "x0"
        label = condition["label"] if isinstance(condition, dict) else condition
        scale = 1 / (t.to(x_t.dtype).square() + 0.25).sqrt().view(-1, 1)
        features = self.inner(torch.cat([x_t.flatten(1) * scale, scale, label], 1)).tanh()
        x0 = self.outer(features).view_as(x_t)
        return x0 if feature_indices is None else (x0, [features])


class Discriminator(nn.Linear):
    feature_indices = (0,)

    def forward(self, features: list[Tensor]) -> Tensor:
        return super().forward(features[0])


class DMD2Model(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.device = config, torch.device("cpu")
        self.build_model()

    def build_model(self) -> None:
        self.net, self.teacher, self.fake_score = (Network(seed) for seed in (1, 2, 3))
        self.discriminator = Discriminator(5, 1).requires_grad_(False)
        for network in (self.teacher, self.fake_score):
            network.requires_grad_(False)

    def gen_data_from_net(self, input_student: Tensor, t_student: Tensor, condition: Any) -> Tensor:
        return self.net(input_student, t_student, condition=condition, fwd_pred_type="x0")

    def _compute_teacher_prediction_gan_loss(self, x_t: Tensor, t: Tensor, condition: Any) -> Any:
        x0, features = self.teacher(x_t, t, condition, "x0", self.discriminator.feature_indices)
        return x0.detach(), softplus(-self.discriminator(features)).mean()

    def _apply_classifier_free_guidance(
        self, x_t: Tensor, t: Tensor, teacher: Tensor, neg_condition: Any
    ) -> Tensor:
        with torch.no_grad():
            none = self.teacher(x_t, t, condition=neg_condition, fwd_pred_type="x0")
        return teacher + (self.config.guidance_scale - 1) * (teacher - none)

    def _student_update_step(
        self,
        input_student: Tensor,
        t_student: Tensor,
        t: Tensor,
        eps: Tensor,
        data: dict[str, Any],
        condition: Any = None,
        neg_condition: Any = None,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        x = self.gen_data_from_net(input_student, t_student, condition)
        x_t = self.net.noise_scheduler.forward_process(x, eps, t)
        with torch.no_grad():
            fake = self.fake_score(x_t, t, condition, "x0")
        teacher, gan_loss = self._compute_teacher_prediction_gan_loss(x_t, t, condition)
        if self.config.guidance_scale is not None:
            teacher = self._apply_classifier_free_guidance(x_t, t, teacher, neg_condition)
        size = (x.float() - teacher.float()).abs().mean((1, 2, 3), keepdim=True) + 1e-6
        pull = ((fake - teacher) * (1 / size).to(x.dtype)).detach()
        vsd_loss = 0.5 * (x - (x - pull).detach()).square().mean()
        total = vsd_loss + self.config.gan_loss_weight_gen * gan_loss
        losses = {"total_loss": total, "vsd_loss": vsd_loss, "gan_loss_gen": gan_loss}
        return losses, self._get_outputs(x, input_student, condition)

    def _get_outputs(self, x: Tensor, input_student: Tensor, condition: Any) -> dict[str, Any]:
        return {"gen_rand": x, "input_rand": input_student / 80.0}


@attrs.define(slots=False)
class SampleTConfig:
    time_dist_type: str = "polynomial"


@attrs.define(slots=False)
class ModelConfig:
    guidance_scale: float | None = None
    gan_loss_weight_gen: float = 0.001
    student_update_freq: int = 5
    sample_t_cfg: SampleTConfig = attrs.field(factory=SampleTConfig)
    use_ema: Any = False


def create_config() -> Any:
    """CIFAR-10's: three averages."""
    model = ModelConfig(use_ema=["ema_9999", "ema_99995", "ema_9996"])
    return SimpleNamespace(model=model, model_class=lazy_call(DMD2Model)(config=None))


def lazy_call(target: type) -> Any:
    return lambda **arguments: SimpleNamespace(_target_=target, **arguments)


def instantiate(config: Any) -> Any:
    """As FastGen's train.py makes the model."""
    return config.model_class._target_(config=config.model)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastGen as far as a method of it and its configuration import it."""
    contents: dict[str, dict[str, Any]] = {
        "fastgen": {},
        "fastgen.methods": {"DMD2Model": DMD2Model},
        "fastgen.utils": {"LazyCall": lazy_call},
        "fastgen.utils.basic_utils": {"convert_cfg_to_dict": attrs.asdict},
        "fastgen.configs": {},
        "fastgen.configs.methods": {},
        "fastgen.configs.methods.config_dmd2": {"ModelConfig": ModelConfig},
        "fastgen.configs.experiments": {},
        "fastgen.configs.experiments.EDM": {},
        "fastgen.configs.experiments.EDM.config_dmd2_cifar10": {"create_config": create_config},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
