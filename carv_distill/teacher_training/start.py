"""A training that starts from the weights of a teacher that there is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from carv_distill.errors import UserError, named_as, shown
from carv_distill.teachers.teacher import Teacher, load_teacher

from .image_module import PretrainModule

log = logging.getLogger(__name__)

_SAME = "take the one that it was trained with"
OF_DATA = {
    "num_class_embeds": (
        "number of labels, the null label included,",
        "these data have another number of classes, and a teacher goes on with as many as it has",
    ),
    "in_channels": ("number of colours", "data.convert=rgb makes three of grey"),
    "sample_size": ("side in pixels", "the pictures must be of its size"),
}
"""Of a network's configuration what follows from the data, in a user's words, and what can be done."""
OPTIONS = {
    "block_out_channels": ("channels", f"training.channels: {_SAME}"),
    "layers_per_block": ("layers", f"training.layers: {_SAME}"),
    "attention_head_dim": ("channels of a head", f"training.head_channels: {_SAME}"),
}
"""And what follows from options, likewise."""


def start_from(module: PretrainModule, place: str) -> None:
    """Puts the network that learns and its average where a teacher has its weights.

    The optimiser, warm-up and decay begin anew; noise levels and data are the configuration's.

    Args:
        place: a teacher's folder, the folder of the run that made it, or a hub id.

    Raises:
        UserError: it cannot be read, is of another parametrisation (σ_d weighs skip and network), or of other
            sizes or labels.
    """
    folder = Path(place, "teacher")  # of a run
    place = str(folder) if folder.is_dir() else place
    with named_as({"teacher.path": "training.start"}):
        given = load_teacher(place)
    _require_same(module, given, place)
    state = given.network.state_dict()
    for denoiser in (module.denoiser, module.ema):
        denoiser.network.load_state_dict(state)
    log.info("the network starts as in %s", place)


def _require_same(module: PretrainModule, given: Teacher, place: str) -> None:
    wanted, found = module.denoiser.precondition, given.denoiser.precondition
    if wanted != found:
        raise UserError(
            f"training.start: {place} is of {_short(found)}, and this training of {_short(wanted)} "
            "(training.sigma_data)"
        )
    learned: Any = module.denoiser.network
    own, other = _sizes(learned), _sizes(given.network)
    for key in sorted(own.keys() | other.keys(), key=lambda key: (key not in OF_DATA, key)):
        if own.get(key) != other.get(key):
            what, remedy = {**OF_DATA, **OPTIONS}.get(key, (key, "the two are of different kinds"))
            raise UserError(
                f"training.start: {place} is another network: its {what} is {shown(other.get(key))}, and "
                f"this training's {shown(own.get(key))}; {remedy}"
            )
    names = module.data.spec.names
    if given.classes and names and given.classes != names:
        raise UserError(
            f"training.start: {place} learned the classes {', '.join(given.classes)}, in this order, and "
            f"these data have {', '.join(names)}"
        )


def _sizes(network: Any) -> dict[str, Any]:
    """Of the network's configuration what makes it, as its file would have it."""
    content = {key: value for key, value in network.config.items() if not key.startswith("_")}
    sizes: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return sizes | {"class": type(network.model).__name__}


def _short(precondition: object) -> str:
    """Its class, and σ_d where it has one."""
    sigma_data = getattr(precondition, "sigma_data", None)
    of = "" if sigma_data is None else f" with sigma_data {sigma_data:g}"
    return f"{type(precondition).__name__}{of}"
