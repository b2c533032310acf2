"""A text student as a pipeline of its teacher's own kind, which plain diffusers samples in one step."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from carv_distill.errors import UserError
from carv_distill.files import read_json, saved_folder, write_json
from carv_distill.teachers.parametrisation import EpsPreconditioning, SamplePreconditioning
from carv_distill.teachers.pipelines.family import Family
from carv_distill.teachers.pipelines.folder import INDEX, pipeline_settings
from carv_distill.teachers.pipelines.network import PromptNetwork
from carv_distill.teachers.schedule import DiscreteSchedule, FlowSchedule
from carv_distill.teachers.scheduler import SCHEDULER, parametrisation
from carv_distill.teachers.weights import weight_files

_TEXT_FILES = ("*.json", "*.txt", "*.model")
_GUIDANCE_KEY, _GUIDANCE_WIDTH = "time_embedding.cond_proj.weight", 256
_FLOW_KEYS = (
    "num_train_timesteps",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "time_shift_type",
)


def save_text_student(
    folder: Path,
    network: PromptNetwork,
    teacher_folder: Path,
    family: Family,
    scheduler_config: dict[str, Any],
    timestep: int | None,
    card: str,
    averages: Iterable[tuple[str, PromptNetwork]] = (),
) -> None:
    """Writes a whole pipeline: of latents z one step, `num_inference_steps=1`, makes x̂ = D.of_noise(z, σ_τ,
    condition); the page of :func:`~.text_card.text_student_card` says with which arguments.

    Everything but network and scheduler is the teacher's: files that are read there, never pickles or code;
    linked where the file system allows it, as an encoder may have 10 GB. Every further average is a pipeline
    of its own in `averages/<name>/`.

    Args:
        teacher_folder: where the teacher's pipeline lies on this machine.
        scheduler_config: the teacher's.
        timestep: τ at which the student's network sees z; None: the last.

    Raises:
        UserError: no stock scheduler takes that step; a file could not be written.
    """
    scheduler = one_step_scheduler(network, teacher_folder, family, scheduler_config, timestep)
    index = _index(teacher_folder, family, type(network.model).__name__, scheduler)
    with saved_folder(folder) as scratch:
        _write_pipeline(scratch, network, teacher_folder, family, scheduler, index)
        (scratch / "README.md").write_text(card)
        for name, average in averages:
            place = scratch / "averages" / name
            _write_pipeline(place, average, teacher_folder, family, scheduler, index)


def one_step_scheduler(
    network: PromptNetwork,
    teacher_folder: Path,
    family: Family,
    config: dict[str, Any],
    timestep: int | None,
) -> dict[str, Any]:
    """The configuration of a stock scheduler whose one step from z is x̂ = D.of_noise(z, σ_τ).

    Betas: the student's are cut off after τ, so that τ is the last timestep, where one step begins. Flows:
    Euler's step from t = 1, z − F.

    Raises:
        UserError: a flow's student that begins elsewhere, or a timestep that there is not.
    """
    grid = getattr(network, "grid", None)
    tokens = None if grid is None else int(torch.tensor(grid).prod())
    schedule, precondition = parametrisation(config, teacher_folder / "scheduler", tokens)
    assert isinstance(schedule, DiscreteSchedule)
    last = schedule.timesteps - 1
    tau = last if timestep is None else timestep
    if not 0 <= tau <= last:
        raise UserError(f"the student's timestep is {tau}; allowed are 0 to {last}")
    if isinstance(schedule, FlowSchedule):
        if tau != last:
            raise UserError(
                f"the student's timestep is {tau}: a stock scheduler of flow matching begins at pure noise, "
                f"timestep {last}, so that only a student of that one becomes a pipeline"
            )
        kept = {key: config[key] for key in _FLOW_KEYS if config.get(key) is not None}
        shift = config.get("shift", config.get("flow_shift"))
        kept["shift"] = 1.0 if shift is None else shift
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", **kept}
    kind = {EpsPreconditioning: "epsilon", SamplePreconditioning: "sample"}
    signal = 1 / (1 + schedule.table[: tau + 1].square())  # ᾱ
    betas = 1 - signal / torch.cat([torch.ones(1, dtype=signal.dtype), signal[:-1]])
    return {
        **family.one_step,
        "prediction_type": kind.get(type(precondition), "v_prediction"),
        "num_train_timesteps": tau + 1,
        "trained_betas": betas.tolist(),
        "clip_sample": False,
        "thresholding": False,
    }


def _index(teacher_folder: Path, family: Family, model: str, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """`model_index.json`: the teacher's own names of classes where they are of diffusers or transformers."""
    theirs = read_json(teacher_folder / INDEX)
    parts: dict[str, list[str | None]] = {
        key: [None, None] for key, value in theirs.items() if isinstance(value, list)
    }
    kinds = {part: kind for part, (kind,) in family.texts.items()}
    if family.autoencoder is not None:
        kinds["vae"] = family.autoencoder
    left_out = family.left_out(theirs)
    parts |= {part: [None, None] for part in left_out}
    for part, kind in kinds.items():
        if part in left_out:
            continue
        library, name = (*theirs.get(part, ()), None, None)[:2]
        known = library in ("diffusers", "transformers") and isinstance(name, str)
        parts[part] = [library, name] if known else [kind.__module__.split(".")[0], kind.__name__]
    parts[family.part] = ["diffusers", model]
    parts["scheduler"] = ["diffusers", scheduler["_class_name"]]
    settings = {**pipeline_settings(theirs, family), **family.arguments}
    missing = {part: [None, None] for part, value in family.arguments.items() if value is None}
    return {
        "_class_name": family.pipeline.__name__,
        "_diffusers_version": diffusers.__version__,
        **dict(sorted({**settings, **parts, **missing}.items())),
    }


def _write_pipeline(
    folder: Path,
    network: PromptNetwork,
    teacher_folder: Path,
    family: Family,
    scheduler: dict[str, Any],
    index: dict[str, Any],
) -> None:
    model = _deaf_to_guidance(network.model) if family.leaves_guidance else network.model
    model.save_pretrained(folder / family.part, safe_serialization=True)
    write_json(folder / "scheduler" / SCHEDULER, dict(sorted(scheduler.items())))
    write_json(folder / INDEX, index)
    texts = {part: kind for part, (kind,) in family.texts.items() if index[part][0] is not None}
    vae = {} if family.autoencoder is None else {"vae": family.autoencoder}
    for part, kind in {**texts, **vae}.items():
        for file in _files(teacher_folder / part, kind):
            _link(file, folder / part / file.name)


def _deaf_to_guidance(model: Any) -> Any:
    """The same UNet with a place for the guidance scale that it takes no notice of.

    Diffusers' pipelines leave guidance to a network with such a place. One-step students have theirs built
    in; guided a second time, as by default, their pictures would be spoilt.
    """
    width = model.config.get("time_cond_proj_dim") or _GUIDANCE_WIDTH
    with torch.device("meta"):
        other = type(model).from_config({**model.config, "time_cond_proj_dim": width})
    weights = model.state_dict()
    shape = other.get_parameter(_GUIDANCE_KEY).shape
    weights[_GUIDANCE_KEY] = torch.zeros(shape, dtype=model.dtype)
    other.load_state_dict(weights, assign=True)
    return other


def _files(folder: Path, kind: Any) -> list[Path]:
    """Of a part's folder those that are read: settings, vocabularies, the one set of weights."""
    if not issubclass(kind, nn.Module):
        return [file for pattern in _TEXT_FILES for file in sorted(folder.glob(pattern))]
    weights = weight_files(folder, kind)
    indices = folder.glob("*.safetensors.index.json") if len(weights) > 1 else ()
    settings = (folder / name for name in ("config.json", "generation_config.json"))
    return [*weights, *indices, *(file for file in settings if file.is_file())]


def _link(source: Path, target: Path) -> None:
    """One file under a second name, or a copy of it.

    A link shares its file's owner and mode: it must have those that a saved file gets, as they would be set.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()  # a hub's cache is made of links
    found, own = source.stat(), target.parent.stat()
    if stat.S_IMODE(found.st_mode) == 0o644 and found.st_uid == own.st_uid:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without such links
            pass
    shutil.copyfile(source, target)
