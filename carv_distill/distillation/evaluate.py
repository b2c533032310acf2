"""Measuring a finished or running run from its folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from carv_distill.data.images import load_images
from carv_distill.engine.folder import run_config
from carv_distill.engine.images import FIDTools
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import Sample
from carv_distill.evaluation.options import FIDOptions
from carv_distill.evaluation.report import Report, evaluate_generator
from carv_distill.processes import Processes
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.teacher import load_teacher

from .options import DMDConfig

log = logging.getLogger(__name__)


def fid_reports(
    run: Path, options: FIDOptions, ranges: int, device: str, with_teacher: bool, progress: bool = True
) -> list[Report] | None:
    """Reports of the run's student and, if asked, of its teacher by Heun steps, under one evaluator.

    Under torchrun all processes make and embed the images; all but the first then return None.

    Raises:
        UserError: the run has no student yet, or features, reference or teacher do not fit.
    """
    config = replace(run_config(run, DMDConfig), fid=options)
    processes = Processes.launched(device)
    device = str(processes.device)
    data = load_images(config.data)
    tools = FIDTools.load(config, data, device)
    if not (run / "student").is_dir():
        raise UserError(f"{run}: no student folder; the run has not reached its first checkpoint")

    reference = tools.reference(processes)

    def report(name: str, sample: Sample) -> Report:
        return evaluate_generator(
            sample,
            data.spec,
            tools.extractor,
            reference,
            name=name,
            images=options.images,
            ranges=ranges,
            progress=progress,
            labels=options.labels,
            processes=processes,
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
    return None if processes.rank else reports
