"""The prompt of each view, and what is said of prompts before a run."""

from __future__ import annotations

import logging
import re

from carv_distill.data.solids import view_prompt
from carv_distill.errors import UserError
from carv_distill.geometry.camera import VIEWS
from carv_distill.geometry.solids import SIDED, SOLIDS
from carv_distill.teachers.pipelines.encoder import PromptEncoder

from .options import SDSOptions

log = logging.getLogger(__name__)

THINGS = {*SOLIDS, *SIDED}
"""What prompts of the miniatures name."""


def view_prompts(options: SDSOptions) -> list[str]:
    """The prompt of each of :data:`VIEWS`: the user's own words for it; else the prompt with the view's
    words, or without them where `view_prompts` is false."""
    plain = [view_prompt(options.prompt, view) if options.view_prompts else options.prompt for view in VIEWS]
    return [own or prompt for own, prompt in zip(_own_words(options).values(), plain, strict=True)]


def check_prompts(options: SDSOptions, encoder: PromptEncoder) -> None:
    """Says what the teacher does not see of the prompts: unknown words, what is beyond the encoder's length,
    views that become one.

    Raises:
        UserError: a word that a teacher of few words does not know; Perp-Neg, with views around the object
            that become one.
    """
    own = _own_words(options)
    given = {f"sds.prompts_by_view.{view}": words for view, words in own.items() if words}
    negative = {"sds.negative_prompt": options.negative_prompt}
    for key, words in {"sds.prompt": options.prompt, **given, **negative}.items():
        _check_words(key, words, encoder)
    prompts = dict(zip(VIEWS, view_prompts(options), strict=True))
    plain = [prompt for view, prompt in prompts.items() if not own[view]]
    same = _alike(prompts, encoder)
    if options.perp_neg:
        _refuse_alike(same, prompts)
    cut = max((encoder.cut_text(prompt) for prompt in plain), key=len, default="")
    lost = [views for views in same if len({prompts[view] for view in views if not own[view]}) > 1]
    if lost and cut:
        log.warning(
            "sds.prompt: the text encoder takes %d tokens and cuts off the view, as %r, so that several "
            "views have one prompt; shorten it, or give sds.view_prompts=false",
            encoder.length,
            cut,
        )
    elif cut:
        _say_cut("sds.prompt", cut, encoder)
    for key, words in {**given, **negative}.items():
        if end := encoder.cut_text(words):
            _say_cut(key, end, encoder)
    for views in same:
        if any(own[view] for view in views):
            log.warning(
                "sds.prompts_by_view: %s have one prompt as the text encoder sees them, %r",
                " and ".join(views),
                prompts[views[0]],
            )


def _check_words(key: str, prompt: str, encoder: PromptEncoder) -> None:
    known = encoder.listed_words()
    things = [word for word in known if word in THINGS]
    if unknown := encoder.unknown_words(prompt):
        words = ", ".join(map(repr, unknown))
        if known:
            others = [word for word in known if word not in things]
            listed = "; and the words ".join(", ".join(some) for some in (things, others) if some)
            raise UserError(
                f"{key}: {prompt!r} has words that the teacher has never seen: {words}; it knows {listed}"
            )
        log.warning("%s: the teacher's tokenizer does not know %s; the object may ignore it", key, words)
    elif things and key == "sds.prompt" and not set(things) & set(re.findall(r"\w+", prompt.lower())):
        log.warning(
            "%s: %r names none of the things that the teacher knows: %s", key, prompt, ", ".join(things)
        )


def _own_words(options: SDSOptions) -> dict[str, str]:
    """The user's words for each of :data:`VIEWS`; mostly empty."""
    return {view: getattr(options.prompts_by_view, view).strip() for view in VIEWS}


def _alike(prompts: dict[str, str], encoder: PromptEncoder) -> list[list[str]]:
    """Groups of views that have one prompt as the text encoder sees them."""
    groups = encoder.alike(list(prompts.values()))
    return [[VIEWS[place] for place in places] for places in groups if len(places) > 1]


def _refuse_alike(same: list[list[str]], prompts: dict[str, str]) -> None:
    for views in same:
        around = [view for view in views if view != "overhead"]
        if len(around) > 1:
            raise UserError(
                f"sds.perp_neg: {' and '.join(around)} have one prompt as the text encoder sees them, "
                f"{prompts[around[0]]!r}, and none to lead away from; use a shorter one with "
                "sds.view_prompts=true, or other words in sds.prompts_by_view"
            )


def _say_cut(key: str, cut: str, encoder: PromptEncoder) -> None:
    log.warning("%s: the text encoder takes %d tokens and cuts off %r", key, encoder.length, cut)
