"""Which training set a user's words name, for a teacher that is given without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.options import IN_MEMORY, PROMPTED, DataOptions
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.teachers.folder import local_folder, read_json
from carv_distill.teachers.pipelines.families import FAMILIES
from carv_distill.teachers.pipelines.folder import INDEX
from carv_distill.teachers.teacher import TRAINING

from .options import NAMED, RENDERED_CLIPS, InfluenceOptions

_CLIPS = ("frames", "size", "count", "seed")
_SHAPES = ("size", "views", "elevation", "seed")


def named_model(o: InfluenceOptions) -> TrainedModel:
    """The teacher of --teacher with the training set of --data: one of :data:`~.options.NAMED`, or files,
    which are labelled images, captioned images or captioned clips, as the teacher is of one kind or another.

    Raises:
        UserError: no such set or place, or a resolution for a teacher of images.
    """
    assert o.teacher is not None
    assert o.data is not None
    if o.data == RENDERED_CLIPS:
        _refuse_convert(o)
        return TrainedModel(o.teacher, _rendered_clips(o))
    if o.data in (*IN_MEMORY, *PROMPTED):
        _refuse_resolution(o)
        if o.data not in PROMPTED:
            return TrainedModel(o.teacher, DataOptions(o.data, convert=o.convert))
        _refuse_convert(o)
        return _rendered_shapes(o)
    if not Path(o.data).exists():
        raise UserError(
            f"--data: {o.data} is neither a place nor one of {', '.join(NAMED)}; a folder, zip or shards of "
            "what the teacher learned from is allowed, too"
        )
    index = local_folder(o.teacher, [INDEX]) / INDEX
    kind = read_json(index).get("_class_name") if index.is_file() else None
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is not None:  # captioned pictures and clips always have three colours
        _refuse_convert(o)
    if family is not None and len(family.size) == 3:
        return TrainedModel(o.teacher, ClipOptions(o.data, _size(o)))
    _refuse_resolution(o)
    name = "images" if family is None else "captioned"
    return TrainedModel(o.teacher, DataOptions(name, o.data, convert=o.convert))


def _rendered_clips(o: InfluenceOptions) -> ClipOptions:
    """Those that the teacher's folder says it learned from; rendered anew at another resolution if one is
    asked for."""
    own = ClipOptions()
    if told := _told(o, RENDERED_CLIPS, _CLIPS):
        frames, size, count, seed = (told[key] for key in _CLIPS)
        own = ClipOptions(None, (frames, size, size), count, seed)
    return replace(own, size=_size(o) or own.size)


def _rendered_shapes(o: InfluenceOptions) -> TrainedModel:
    """Those that the teacher's folder says it learned from."""
    assert o.teacher is not None
    assert o.data is not None
    own, seed = DataOptions(o.data), 0
    if told := _told(o, o.data, _SHAPES):
        own.size, own.views, own.elevation, seed = (told[key] for key in _SHAPES)
    return TrainedModel(o.teacher, own, seed)


def _told(o: InfluenceOptions, name: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """What the teacher's folder says of the rendered set of that name; None where it says nothing."""
    assert o.teacher is not None
    file = local_folder(o.teacher, [INDEX, TRAINING]) / TRAINING
    content = read_json(file) if file.is_file() else {}
    if name not in content:
        return None
    told = content[name]
    if told is None:
        raise UserError(
            f"--data: {o.teacher} learned from a part of the {name} (data.only), and its run knows which: "
            "--run FOLDER"
        )
    kinds = {key: (int, float) if key == "elevation" else int for key in keys}
    if not isinstance(told, dict) or not all(isinstance(told.get(k), kind) for k, kind in kinds.items()):
        raise UserError(f"{file}: {name} is {told!r}; the numbers {', '.join(keys)} are wanted")
    return told


def _size(o: InfluenceOptions) -> tuple[int, int, int] | None:
    if o.resolution is None:
        return None
    frames, height, width = o.resolution
    return frames, height, width


def _refuse_resolution(o: InfluenceOptions) -> None:
    if o.resolution is not None:
        words = " ".join(map(str, o.resolution))
        raise UserError(f"--resolution: {words} is of clips, but {o.teacher} takes images of its own size")


def _refuse_convert(o: InfluenceOptions) -> None:
    if o.convert != "none":
        raise UserError(f"--convert: {o.convert} is for pictures without captions; leave it out")
