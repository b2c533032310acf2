"""One-step distillation as a LightningModule: what happens in one student update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from carv_distill.carv import carv_loss
from carv_distill.engine.averages import Averaging, HostAveraging
from carv_distill.engine.estimator import EstimatedModule, Estimator, observer
from carv_distill.engine.sharding import Skeleton, network_parameters
from carv_distill.processes import Share
from carv_distill.teachers.adapters import whole_network
from carv_distill.teachers.network import RawNetwork

from .averages import average_decays, networks_beside
from .export.image_student import Product
from .objective import DMDObjective, Generated, Samples, draw, real_parts
from .optimisers import make_optimisers, set_learning_rates

FROZEN = ("objective.teacher.", "objective.codec.")
"""How the names of tensors begin that are not in checkpoints."""
RealImages = Callable[[Sequence[int], int], Iterable[Samples]]
"""real(numbers of the shares, first update) → for each update the real images and labels of all these shares,
joined along the first axis."""


class DMDModule(EstimatedModule):
    """Distribution matching distillation with the CARV estimator.

    One `training_step` is one student update: first `fake_updates_per_student` updates of the fake score
    on student samples, then one update of the student by the gradient of :class:`DMDObjective`, averaged
    over all shares of the batch. Only the student's optimiser counts in Lightning's `global_step`, so that
    step and student update are one thing. All randomness is a function of (seed, share, update), whichever
    process works the share through.

    Args:
        estimator: of a share of the batch.
        accumulate: shares that each process works through, one after the other, in an update.
        product: how the student is written.
        real: images for the discriminator, where there is one.
        real_shape: of one of them as they are given; that of x by default.
    """

    def __init__(
        self,
        *,
        objective: DMDObjective,
        estimator: Estimator,
        seed: int,
        product: Product | None = None,
        accumulate: int = 1,
        real: RealImages | None = None,
        real_shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(seed, FROZEN, {"adaptive": estimator.adaptive})
        self.product, self.real_shape = product, real_shape or objective.shape
        self.objective, self.estimator, self.options = objective, estimator, objective.options
        self.accumulate, self.real = accumulate, real
        self.register_buffer("clipped", torch.zeros((), dtype=torch.long))
        if self.options.fake_clip_norm is not None:
            self.register_buffer("fake_clipped", torch.zeros((), dtype=torch.long))
        self.averaging = HostAveraging() if self.options.ema_memory == "host" else Averaging()
        self.denoising: list[Tensor] = []
        """Losses of the fake score's last updates, without what a discriminator adds."""
        self.reset_averages()
        self.average_skeleton: Skeleton | None = None
        """Of the student's average, where it is sharded."""
        self.gathered: tuple[RawNetwork, list[Tensor]] | None = None
        """That average and those beside it, whole, while they are saved."""

    clipped: Tensor
    fake_clipped: Tensor
    averages: nn.Parameter
    """The averages beside the student's first one, a row [d] for each of dmd.ema_beside; of a sharded student
    this process's part of the row."""

    def reset_averages(self) -> None:
        """Lets every average start where the student is."""
        o = self.objective
        with torch.no_grad():
            for average, parameter in zip(o.ema_parameters, o.student_parameters, strict=True):
                average.copy_(parameter)
        if beside := self.options.ema_beside:
            student = nn.utils.parameters_to_vector(o.student_parameters).detach()
            self.averages = nn.Parameter(student.repeat(len(beside), 1), requires_grad=False)

    def shard(self, mesh: DeviceMesh) -> None:
        """Cuts the networks and the averages over the processes of a mesh."""
        self.average_skeleton = Skeleton(self._average_network, whole_network)
        self.objective.shard(mesh)
        self.estimator.chunk.halves = False
        if self.options.ema_beside:
            student = network_parameters(self.objective.student_parameters, self.world_size)
            rows = [torch.cat([part.flatten() for part in student.own(row)]) for row in self.averages]
            self.averages = nn.Parameter(torch.stack(rows), requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        # Raw optimisers for the fake score: only LightningOptimizer's steps count in global_step.
        fake_optimizers = cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))[1:]
        student_optimizer = cast(list[LightningOptimizer], self.optimizers())[0]
        optimizers: list[Optimizer | LightningOptimizer] = [student_optimizer, *fake_optimizers]
        set_learning_rates(self.options, optimizers, step, self.trainer.max_steps)
        fake = self.fake_updates(fake_optimizers, step, batch if self.objective.discriminator else None)
        self.latest_losses = {"fake": fake, "student": self.student_update(student_optimizer, step)}

    def fake_updates(
        self, optimizers: Sequence[Optimizer], step: int | str, batch: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The updates of the fake score before a student update; the mean of their losses.

        Args:
            optimizers: the fake score's, and the discriminator's own where it has one.
            batch: real images and labels of all shares, where there is a discriminator.
        """
        o, shares = self.options, self.shares
        sets = 1 if o.fake_reuse else o.fake_updates_per_student
        real: list[list[Samples]] | list[list[None]] = [[None] * len(shares)] * sets
        if batch is not None:
            real = real_parts(batch, len(shares), sets, o.fake_batch)
        losses, samples = [], list[Generated]()
        self.denoising = []
        for i in range(o.fake_updates_per_student):
            if i == 0 or not o.fake_reuse:
                streams = [self.streams(share.index, step, "samples", i)[0] for share in shares]
                samples = [self.objective.student_samples(own) for own in streams]
            losses.append(self.fake_update(optimizers, step, i, samples, real[0 if o.fake_reuse else i]))
        return torch.stack(losses).mean()

    def fake_update(
        self,
        optimizers: Sequence[Optimizer],
        step: int | str,
        i: int,
        samples: Sequence[Generated],
        real: Sequence[Samples | None],
    ) -> Tensor:
        """One fake-score update on the student samples of each share; returns its loss."""
        losses, denoising = [], []
        for share, generated, images in zip(self.shares, samples, real, strict=True):
            streams = self.streams(share.index, step, "fake", i)
            loss = self.objective.fake_loss(share, generated, *streams, images)
            self._accumulate(loss, last=share == self.shares[-1])
            losses.append(loss.detach())
            denoising.append(self.objective.latest_denoising)
        for vector, optimizer in zip(self.fake_vectors, optimizers, strict=True):
            clipped = vector.descend(optimizer, self.options.fake_clip_norm)
            if clipped is not None:
                self.fake_clipped += clipped
        self.denoising.append(torch.stack(denoising).mean())
        return torch.stack(losses).mean()

    def student_update(self, optimizer: LightningOptimizer, step: int) -> Tensor:
        """One student update and its EMA; returns the mean norm of the direction."""
        e, norms = self.estimator, []
        sampler, observe = e.sampler_at(step), observer(self.statistics, e.adaptive)
        for share in self.shares:
            own, shared = self.streams(share.index, step, "student")
            upstream = self.objective.pipeline(share, shared)(e.upstream, own)
            drawn = draw(sampler, e.draws, share, upstream.x, own, shared)
            loss, direction = carv_loss(upstream, drawn, own, e.chunk, observe)
            self._accumulate(loss, last=share == self.shares[-1])
            norms.append(direction.flatten(1).norm(dim=1).mean())
        self.commit(step)
        self.apply_student(optimizer, step)
        return torch.stack(norms).mean()

    def apply_student(self, optimizer: Optimizer | LightningOptimizer, step: int) -> None:
        """The student's step by the gradients that are there, and that of its averages."""
        self.averaging.before_step()
        clipped = self.student_vector.descend(optimizer, self.options.clip_norm)
        if clipped is not None:
            self.clipped += clipped
        first, *beside = self.ema_decays(step)
        theta, update = self.student_vector, self.averaging.update
        theta.average_into(self.ema_vector.local, first, update)
        for row, decay in enumerate(beside):
            theta.average_into(theta.cut(self.averages[row]), decay, update)

    def ema_decays(self, step: int) -> list[float]:
        """See :func:`~.averages.average_decays`."""
        return average_decays(self.options, self.estimator.upstream * self.shares[0].count, step)

    def _accumulate(self, loss: Tensor, last: bool) -> None:
        """Adds one share's part of the mean over this process's shares to the gradients; sharded networks
        average them over all processes after the last one."""
        if self._trainer is None:
            (loss / self.accumulate).backward()
            return
        waits = self.average_skeleton is not None and not last
        strategy = cast(ParallelStrategy, self.trainer.strategy)
        with strategy.block_backward_sync() if waits else contextlib.nullcontext():
            self.manual_backward(loss / self.accumulate)

    @property
    def shares(self) -> list[Share]:
        """What this process works through in an update."""
        return Share.of_process(self.global_rank, self.world_size, self.accumulate)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The trainer's precision, outside of `training_step` too."""
        if self._trainer is None:
            return contextlib.nullcontext()
        return self.trainer.precision_plugin.forward_context()

    def metrics(self) -> dict[str, Tensor]:
        """As this process saw the update; the gradient's norm is that of what was applied, after clipping."""
        values = {
            "loss/fake": torch.stack(self.denoising).mean(),
            "student/direction_norm": self.latest_losses["student"],
            "student/grad_norm": self.student_vector.gradient_norm(),
        }
        if self.objective.latest_discriminator is not None:
            values["loss/discriminator"] = self.objective.latest_discriminator
        if self.options.clip_norm is not None:
            values["student/clipped_updates"] = self.clipped
        if self.options.fake_clip_norm is not None:
            values["fake/clipped_updates"] = self.fake_clipped
        return values

    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        """One-step pictures of the student's average, in [−1, 1] up to its error."""
        o = self.objective
        with self.averaging.on_device(o.ema_parameters, z.device):
            return o.pictures(o.student_ema, z.to(o.ema_parameters[0].dtype), labels)

    def save(self, folder: Path, step: int, figures: Mapping[str, str | float] | None = None) -> None:
        """The student's average after an update as a diffusers pipeline; `figures`: the run's numbers for the
        model card, beside those that the module knows."""
        known: dict[str, str | float] = {
            "updates": step,
            "R": self.estimator.upstream,
            "K": self.estimator.draws,
            "strategy": self.estimator.sampler.strategy,
        }
        assert self.product is not None, "a module without a product saves nothing"
        network, rows = self.gathered or (self._average_network, self._rows)
        self.averaging.finish()
        beside = networks_beside(network, rows, self.options.ema_beside)
        self.product.save(folder, network, known | dict(figures or {}), beside)
        self.gathered = None

    def gather(self) -> None:
        """Brings the averages of a sharded student to rank 0, for :meth:`save`; called by all processes."""
        if self.average_skeleton is not None:
            rows = self._whole_rows()
            whole = self.average_skeleton.filled(self._average_network)
            self.gathered = None if whole is None else (cast(RawNetwork, whole), rows)

    @property
    def _average_network(self) -> RawNetwork:
        return cast(RawNetwork, self.objective.student_ema.network)

    @property
    def _rows(self) -> list[Tensor]:
        return list(self.averages) if self.options.ema_beside else []

    def _whole_rows(self) -> list[Tensor]:
        """Of the averages beside, on rank 0."""
        return [self.student_vector.whole(self.student_vector.cut(row)) for row in self._rows]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.averaging.finish()
        super().on_save_checkpoint(checkpoint)
        if self.average_skeleton is not None and (rows := self._whole_rows()):
            checkpoint["state_dict"]["averages"] = torch.stack(rows)

    def train_dataloader(self) -> Iterable[Any]:
        """Real images for the discriminator; without one there is nothing to load, as an update draws what it
        needs from its own streams."""
        if self.objective.discriminator is None:
            return cast(Iterator[int], repeat(0))
        assert self.real is not None, "a discriminator needs real images"
        return self.real([share.index for share in self.shares], self.global_step)

    def configure_optimizers(self) -> list[Optimizer]:
        """Called once the networks are where they will be trained: their parameters become vectors."""
        o, objective = self.options, self.objective
        self.student_vector = network_parameters(objective.student_parameters, self.world_size)
        learning = [p for p in (objective.fake_parameters, objective.head_parameters) if p]
        self.fake_vectors = [network_parameters(parameters, self.world_size) for parameters in learning]
        self.ema_vector = self.averaging.vector(objective.ema_parameters, self.world_size)
        if o.ema_beside:
            self.averages.data = self.averaging.kept(self.averages.data)
        if o.compile:
            for denoiser in (objective.student, objective.fake, objective.teacher):
                denoiser.network.compile()
        return make_optimisers(o, [self.student_vector, *self.fake_vectors])
