"""The modules that are trained: what all have in common, and how gradients are estimated by CARV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from carv_distill.carv import (
    AdaptiveProposal,
    Chunk,
    NoiseCoefficient,
    NoiseLevelSampler,
    Observer,
    Proposal,
    StepStatistics,
    stream,
)
from carv_distill.errors import UserError
from carv_distill.processes import gather_over_ranks

from .options import EstimatorOptions

Learner = AdaptiveProposal | NoiseCoefficient


@dataclass(frozen=True)
class Estimator:
    """How the gradient of an update is estimated."""

    sampler: NoiseLevelSampler
    upstream: int
    """R, samples of a share of the batch."""
    draws: int
    """K, re-noisings of each."""
    chunk: Chunk = field(default_factory=Chunk)
    """Re-noisings per call of the frozen networks, fewer where memory ends."""
    adaptive: AdaptiveProposal | None = None
    """Learns the sampler's proposal from the residuals of past updates, of all shares."""

    def sampler_at(self, step: int) -> NoiseLevelSampler:
        """The sampler, with the proposal that past updates taught where it is adaptive."""
        if self.adaptive is None:
            return self.sampler
        return replace(self.sampler, proposal=self.adaptive.proposal(step))


def build_estimator(
    options: EstimatorOptions, timesteps: int | None, levels: tuple[float, float] = (0.0, 1.0)
) -> Estimator:
    """As configured; with discrete timesteps, a proposal has one bin for each.

    Args:
        levels: the ends of the part of the teacher's schedule, [0, 1], that u in [0, 1) goes through. Of
            configured weights it takes those at the middles of as many equal bins of it.

    Raises:
        UserError: weights that are no density, or not one for each timestep.
    """
    proposal = Proposal.uniform(timesteps or 1000)
    if options.proposal == "weights":
        if timesteps and len(options.weights) != timesteps:
            raise UserError(
                f"estimator.weights: found {len(options.weights)}; the teacher has {timesteps} timesteps and "
                "needs one for each"
            )
        weights, (low, high) = torch.tensor(options.weights), levels
        middles = (torch.arange(len(weights), dtype=torch.float64) + 0.5) / len(weights)
        places = (low + (high - low) * middles) * len(weights)
        try:
            proposal = Proposal.from_weights(weights[places.long()], options.defensive)
        except ValueError as error:
            raise UserError(f"estimator.weights: {error}") from error
    sampler = NoiseLevelSampler(proposal, options.strategy, options.noise)
    return Estimator(sampler, options.upstream, options.draws, Chunk(options.chunk), build_adaptive(options))


def build_adaptive(options: EstimatorOptions) -> AdaptiveProposal | None:
    """What learns the proposal, where one is to be learned."""
    if options.proposal != "adaptive":
        return None
    # A past update's residuals count half after 35 updates: the student moves on.
    return AdaptiveProposal(options.bins, options.defensive, options.statistic, 0.98, options.refresh)


class RunModule(LightningModule):
    """What the callbacks of a run take a module for; `seed` names the random streams."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.latest_losses: dict[str, Tensor] = {}
        """What the last update saw of each network, on the device: for the log and the watch on NaN."""

    def metrics(self) -> dict[str, Tensor]:
        """What is worth a row in the log after an update; tensors on the device."""
        return {f"loss/{name}": loss for name, loss in self.latest_losses.items()}

    def check(self) -> None:
        """Called where the host waits for the device anyway.

        Raises:
            UserError: the run is to stop, and what the user can do.
        """

    def save(self, folder: Path, step: int) -> None:
        """Writes the product of the run as it is after an update."""
        raise NotImplementedError


def observer(
    statistics: StepStatistics,
    learner: AdaptiveProposal | None,
    place: Callable[[Tensor], Tensor] = lambda u: u,
) -> Observer | None:
    """What holds back an update's draws for the learner, until its statistics are committed; `place`: u of a
    draw → where on the learner's bins it lies."""
    if learner is None:
        return None

    def observe(u: Tensor, residual: Tensor, index: Tensor) -> None:
        statistics.record(learner, learner.rows(place(u), residual, index))

    return observe


class EstimatedModule(RunModule):
    """A training by the CARV estimator, which makes its backward itself.

    Args:
        frozen: how the names of tensors begin that are not in checkpoints: a teacher has its own folder.
        learners: what learns from past draws, those of all processes, by its name in a checkpoint.
    """

    def __init__(self, seed: int, frozen: tuple[str, ...], learners: Mapping[str, Learner | None]) -> None:
        super().__init__(seed)
        self.automatic_optimization = False
        self.strict_loading = False
        self.statistics = StepStatistics(finite=True)  # a loss of NaN stops the run, and says so
        self.frozen = frozen
        self.learners = {name: learner for name, learner in learners.items() if learner is not None}

    @property
    def world_size(self) -> int:
        """Processes that share the batch; 1 outside a trainer."""
        return self.trainer.world_size if self._trainer is not None else 1

    def streams(self, share: int, *key: int | str) -> tuple[torch.Generator, torch.Generator]:
        """(the stream of one share of the batch, the stream that all shares have in common) under a name."""
        own = stream(self.seed, share, *key, device=self.device)
        return own, stream(self.seed, "shared", *key, device=self.device)

    def commit(self, step: int) -> None:
        """Teaches the learners the draws of an update, of all processes."""
        self.statistics.commit(step, lambda rows: gather_over_ranks(rows, self.world_size))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"].items()
        checkpoint["state_dict"] = {k: v for k, v in state if not k.startswith(self.frozen)}
        checkpoint |= {name: learner.state_dict() for name, learner in self.learners.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected = {k for k in self.state_dict() if not k.startswith(self.frozen)}
        if differing := expected ^ set(checkpoint["state_dict"]):
            raise UserError(f"the checkpoint's networks differ from this run's, first at {min(differing)}")
        if missing := sorted(self.learners.keys() - checkpoint.keys()):
            raise UserError(
                f"the checkpoint lacks what this run learned from its draws: {', '.join(missing)}"
            )
        for name, learner in self.learners.items():
            learner.load_state_dict(checkpoint[name], self.device)
