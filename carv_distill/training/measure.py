"""Measuring a finished or running run from its folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from carv_distill.carv import Estimate, NoiseLevelSampler, PairedVariance, Proposal, ratio
from carv_distill.data import load_images
from carv_distill.diffusion import heun_sample, load_teacher
from carv_distill.dmd import DMDModule
from carv_distill.dmd.variance import measure_variance
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import Sample
from carv_distill.evaluation.report import Report, evaluate_generator

from .checkpoint import newest_checkpoint
from .config import DMDConfig, FIDOptions, config_from_dict
from .folder import read_run_config
from .run import FIDTools, build_module

log = logging.getLogger(__name__)


def run_config(run: Path) -> DMDConfig:
    """The configuration of a distillation run.

    Raises:
        UserError: not a run's folder, or a run of another task.
    """
    config = config_from_dict(read_run_config(run), str(run / "config.yaml"))
    if not isinstance(config, DMDConfig):
        raise UserError(f"{run}: task {config.task} has no student; evaluate a run of task dmd")
    return config


def fid_reports(
    run: Path, options: FIDOptions, ranges: int, device: str, with_teacher: bool, progress: bool = True
) -> list[Report]:
    """Reports of the run's student and, if asked, of its teacher by Heun steps, under one evaluator.

    Raises:
        UserError: the run has no student yet, or features, reference or teacher do not fit.
    """
    config = run_config(run)
    data = load_images(config.data.name)
    tools = FIDTools.load(options, data, device)
    if not (run / "student").is_dir():
        raise UserError(f"{run}: no student folder; the run has not reached its first checkpoint")

    def report(name: str, sample: Sample) -> Report:
        return evaluate_generator(
            sample,
            data.spec,
            tools.extractor,
            tools.reference,
            name=name,
            images=options.images,
            ranges=ranges,
            device=device,
            progress=progress,
        )

    student = load_teacher(run / "student")
    student.denoiser.to(device)
    top = student.schedule.sigma_max
    reports = [
        report("student, 1 step", lambda z, y: student.denoiser(top * z, z.new_full((len(z),), top), y))
    ]
    if with_teacher:
        teacher = load_teacher(config.teacher.path)
        guided = teacher.guided(config.teacher.guidance, data.spec.classes).to(device)
        steps = options.sampler_steps
        reports.append(
            report(f"teacher, Heun {steps}", lambda z, y: heun_sample(guided, teacher.schedule, z, y, steps))
        )
    return reports


@dataclass(frozen=True)
class Arm:
    """One estimator whose variance is measured."""

    sampler: NoiseLevelSampler
    upstream: int
    draws: int
    measured: PairedVariance

    @property
    def name(self) -> str:
        """(R,K) strategy, with noise coupling and proposal where they are not the plain ones."""
        name = f"({self.upstream},{self.draws}) {self.sampler.strategy}"
        if self.sampler.noise != "iid":
            name += f", {self.sampler.noise}"
        uniform = Proposal.uniform(self.sampler.proposal.bins).mass
        return name if torch.allclose(self.sampler.proposal.mass, uniform) else f"{name}, importance"


def variance_arms(run: Path, upstream: int, draws: int, pairs: int, device: str) -> list[Arm]:
    """(R, 1) iid, (R, K) iid and (R, K) of the configured strategy, at the run's newest checkpoint.

    Raises:
        UserError: the run has no checkpoint.
    """
    config = run_config(run)
    module = build_module(config, load_images(config.data.name))
    assert isinstance(module, DMDModule)
    newest = newest_checkpoint(run / "checkpoints")
    if newest is None:
        raise UserError(f"{run / 'checkpoints'} holds no checkpoint to measure")
    path, step = newest
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)["state_dict"]
    module.load_state_dict(state, strict=False)
    module.to(device)
    module.upstream = upstream
    log.info("measuring %s at update %d", run, step)
    iid = NoiseLevelSampler(Proposal.uniform(module.sampler.proposal.bins), "iid")
    arms = []
    for sampler, count in ((iid, 1), (iid, draws), (module.sampler, draws)):
        measured = measure_variance(module, sampler, count, pairs, (step, "evaluate"))
        arms.append(Arm(sampler, upstream, count, measured))
    return arms


def variance_table(arms: list[Arm]) -> Table:
    """Total, upstream-fixed and between variance with 95 % intervals, and the ratio to the first arm."""
    columns = ("(R,K) levels", "total", "× lower", "upstream fixed", "× lower", "between")
    table = Table(
        *columns, title="Variance of the student's gradient (trace), 95 % intervals", show_lines=True
    )
    for arm in arms:
        m, base = arm.measured, arms[0].measured
        of_total, of_within = ratio(base.total(), m.total()), ratio(base.within(), m.within())
        cells = [m.total(), of_total, m.within(), of_within, m.between()]
        shown = [_cell(e) for e in cells]
        if arm is arms[0]:
            shown[1] = shown[3] = "1"
        table.add_row(arm.name, *shown)
    return table


def variance_rows(arms: list[Arm]) -> list[dict[str, Any]]:
    """The same numbers for JSON, one entry per estimator."""
    rows = []
    for arm in arms:
        m, base = arm.measured, arms[0].measured
        quantities: dict[str, Estimate] = {
            "total": m.total(),
            "within": m.within(),
            "between": m.between(),
            "squared_norm": m.squared_norm(),
            "total_ratio": ratio(base.total(), m.total()),
            "within_ratio": ratio(base.within(), m.within()),
        }
        intervals = {k: {"value": e.value, "interval": [e.low, e.high]} for k, e in quantities.items()}
        rows.append({"estimator": arm.name, **intervals})
    return rows


def _cell(e: Estimate) -> str:
    return f"{_number(e.value)}\n{_number(e.low)} – {_number(e.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
