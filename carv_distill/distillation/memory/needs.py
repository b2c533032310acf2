"""What a distillation takes of a GPU's memory, by part, and what lowers it.

With P parameters of the network, p of what learns (p = P, or of one adapter), b = 2 or 4 bytes per frozen
number, N processes that share every part, and A adapters or networks that are averages:

    frozen       b P / N                the teacher, which adapters share
    weights      2 · 4 p / N            student and fake score
    averages     A · 4 p / N            0 in host memory, once there are optimisers
    gradients    2 · 4 p / N            of the two, which stay between updates
    optimiser    2 · 8 p / N            Adam's two moments; 2 · 2 (1 + 4/256) p / N in 8 bits
    transient    4 p                    one network's gradients, before they are one vector; of this, what is
                                        there when the activations are largest: see :attr:`Plan.transient`
    activations  max(student's, fake score's update), by :class:`~.footprint.Footprint`
    variance     12 p / N               the trace: a pair's first gradient, the float64 mean of pairs; and the
                                        second, in parts and as a vector, where activations take less
    beside       codec, text encoders, discriminator, as far as they stay

Adapters are not shared out: of their parts N is 1. A process that shards (FSDP) gathers one block of the
network at a time and the next one meanwhile, which counts as transient too. The student is written from the
host's memory. Not counted: what CUDA itself and its kernels take, of the order of 1 GiB, and what of the
allocator's memory is in pieces too small to use. So the sum is mostly less than what is needed; but
activations under gradient checkpointing came out up to a tenth too many on miniatures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from carv_distill.errors import UserError

from .footprint import Footprint

GIB = 2**30
MOMENTS = {32: 8.0, 8: 2 * (1 + 4 / 256)}
"""Bytes of Adam's two moments per parameter, by the bits of each number. In 8 bits, each block of 256 numbers
has a scale in float32.

Source: Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, and bitsandbytes."""


@dataclass(frozen=True)
class Need:
    """Bytes of one process's device, by part."""

    frozen: float = 0
    weights: float = 0
    averages: float = 0
    gradients: float = 0
    optimiser: float = 0
    transient: float = 0
    activations: float = 0
    variance: float = 0
    beside: float = 0

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(asdict(self).values())

    @property
    def state(self) -> float:
        """Of what stays between updates, the teacher and all that is beside included."""
        return self.total - self.transient - self.activations - self.variance

    def __str__(self) -> str:
        """ "activations 6.1, optimiser 4.8, …" in GiB, the largest first, without those below 0.05."""
        parts = sorted(asdict(self).items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts if value >= 0.05 * GIB)


@dataclass(frozen=True)
class Calls:
    """Network calls of an update and what each takes."""

    network: Footprint
    """Of the student and the fake score."""
    checkpointed: Footprint | None = None
    """Of the same with gradient checkpointing; None: it has none."""
    upstream: int = 1
    """R, student samples of a share."""
    draws: int = 1
    """K, re-noisings of each."""
    chunk: int | None = None
    """Re-noisings that go through the frozen networks at a time; None: all R·K."""
    fake_batch: int = 1
    """Student samples of a fake-score update and share."""
    fake_updates: int = 1
    fake_reuse: bool = True
    """One set of student samples for all of them."""
    guided: bool = False
    """Whether the teacher is called with and without its condition."""
    checkpointing: bool = False

    @property
    def footprint(self) -> Footprint:
        """Of the network as it is trained."""
        if self.checkpointing and self.checkpointed:
            return self.checkpointed
        return self.network

    @property
    def bytes(self) -> int:
        """Peak of the activations,

        max(T(R), S(R) + I(g c), T(F)),  g = 2 with guidance, else 1; c = chunk or R·K; F = fake_batch,

        with T of a call and its backward, S of what a call leaves for its backward, I of a call without one.
        """
        f = self.footprint
        rows = min(self.chunk or self.upstream * self.draws, self.upstream * self.draws)
        residual = f.inference((2 if self.guided else 1) * rows)
        student = max(f.training(self.upstream), f.kept(self.upstream) + residual)
        return max(student, f.training(self.fake_batch))

    @property
    def flops(self) -> int:
        """Of one update of one share,

        R t + R K (1 + g) i + U F t + M F i,

        t of a sample's call with its backward, i without one, U fake-score updates, M = 1 set of samples for
        all of them or U.
        """
        f = self.footprint
        teacher = 2 if self.guided else 1
        sets = 1 if self.fake_reuse else self.fake_updates
        learning = self.upstream + self.fake_updates * self.fake_batch
        plain = self.upstream * self.draws * (1 + teacher) + sets * self.fake_batch
        return learning * f.training_flops + plain * f.inference_flops


@dataclass(frozen=True)
class Plan:
    """A run's settings that its memory follows."""

    parameters: int
    """P, of the network."""
    adapter: int | None = None
    """Parameters of one adapter; None: it is not known."""
    lora: bool = False
    """Whether adapters learn, or whole networks."""
    frozen_bits: int = 32
    """Of each of the teacher's weights: 16 or 32."""
    averages: int = 1
    """Of the student's weights, the first one included."""
    host_averages: bool = False
    optimiser_bits: int = 32
    """One of :data:`MOMENTS`."""
    double: bool = False
    """Whether all is float64, that is twice as much."""
    processes: int = 1
    """Of the run, which could be its shards."""
    shards: int = 1
    """N, processes of which each has its part of everything but adapters (FSDP)."""
    block: int = 0
    """Parameters of the largest block, which such a process gathers."""
    accumulate: int = 1
    """Shares that a process works through in an update."""
    beside: int = 0
    """Bytes of codec, discriminator and whatever else stays."""
    traced: bool = False
    """Whether the variance of the student's gradient is measured as it learns."""
    calls: Calls | None = None
    """None: activations are not counted."""

    @property
    def learning(self) -> int:
        """p, of what learns in the student."""
        if not self.lora:
            return self.parameters
        if self.adapter is None:
            raise ValueError("a plan with adapters needs their number of parameters")
        return self.adapter

    @property
    def transient(self) -> float:
        """Gradients of one network that are not yet one vector, beyond what the backward has freed:

        max(0, 4 p − activations), or 4 p where those of an earlier share wait; sharded, the weights of two
        gathered blocks and one's gradients, and beside them those of adapters, or of earlier shares.
        """
        gradients, waiting = 4 * self.learning, self.accumulate > 1
        whole = gradients if waiting or self.calls is None else max(0, gradients - self.calls.bytes)
        if self.host_averages:  # they leave the device when gradients and moments are to come
            moments = 2 * MOMENTS[self.optimiser_bits]
            whole = max(whole, round((4 * self.averages - 8 - moments) * self.learning))
        if self.shards == 1:
            return whole
        if self.lora:
            return 2 * self.block * self.frozen_bits // 8 + whole
        return 12 * self.block + (gradients if waiting else 0)

    @property
    def need(self) -> Need:
        """Bytes of one process by part; the equations are the module's."""
        share = self.learning / (1 if self.lora else self.shards)
        times = 2 if self.double else 1
        activations = self.calls.bytes if self.calls else 0
        second = max(0, 8 * share - self.transient - activations)
        return Need(
            frozen=times * self.parameters * self.frozen_bits / 8 / self.shards,
            weights=times * 8 * share,
            averages=0 if self.host_averages else times * 4 * self.averages * share,
            gradients=times * 8 * share,
            optimiser=times * 2 * MOMENTS[self.optimiser_bits] * share,
            transient=times * self.transient,
            activations=times * activations,
            variance=(8 + 4 * times) * share + times * second if self.traced else 0,
            beside=times * self.beside,
        )


Change = Callable[[Plan], Plan | None]
"""A plan with one setting changed; None where that changes nothing."""


def _calls(plan: Plan, **changes: Any) -> Plan | None:
    return replace(plan, calls=replace(plan.calls, **changes)) if plan.calls else None


def _adapters(plan: Plan) -> Plan | None:
    return None if plan.lora or plan.adapter is None else replace(plan, lora=True)


def _checkpointing(plan: Plan) -> Plan | None:
    return _calls(plan, checkpointing=True) if plan.calls and plan.calls.checkpointed else None


def _in_eight_bits(plan: Plan) -> Plan | None:
    return None if plan.shards > 1 or plan.double else replace(plan, optimiser_bits=8)


def _sharded(plan: Plan) -> Plan | None:
    """None where something is on that only whole networks have."""
    alone = plan.host_averages or plan.optimiser_bits != 32 or plan.processes == 1
    return None if alone else replace(plan, shards=plan.processes)


LEVERS: Mapping[str, Change] = {
    "dmd.adapters.kind=lora": _adapters,
    "trainer.sharding=fsdp": _sharded,
    "dmd.optimiser=adamw_8bit": _in_eight_bits,
    "dmd.ema_memory=host": lambda plan: None if plan.shards > 1 else replace(plan, host_averages=True),
    "teacher.precision=bfloat16": lambda plan: replace(plan, frozen_bits=16),
    "dmd.gradient_checkpointing=true": _checkpointing,
    "estimator.upstream=1 dmd.fake_batch=1": lambda plan: _calls(plan, upstream=1, fake_batch=1),
    "variance.every=0": lambda plan: replace(plan, traced=False),
    "estimator.chunk=1": lambda plan: _calls(plan, chunk=1),
}
"""What each setting makes of a plan. With adapters, activations are taken as those of whole networks."""


def savings(plan: Plan, levers: Mapping[str, Change] = LEVERS) -> dict[str, float]:
    """Settings in the order in which they save most, each with what it saves beyond those before it [bytes],
    0.05 GiB at least."""
    left, saved = dict(levers), dict[str, float]()
    while left:
        plans = {setting: changed for setting, change in left.items() if (changed := change(plan))}
        by = {setting: plan.need.total - changed.need.total for setting, changed in plans.items()}
        best = max(by, key=by.__getitem__, default=None)
        if best is None or by[best] < 0.05 * GIB:
            break
        saved[best], plan = by[best], plans[best]
        del left[best]
    return saved


def require_memory(plan: Plan, there: int, levers: Mapping[str, Change] = LEVERS) -> None:
    """Refuses a run that cannot fit; call it before its networks are on the device.

    Args:
        there: bytes that are free.
        levers: settings that the message may name.

    Raises:
        UserError: the plan needs more; with the parts, and up to three settings that lower it most.
    """
    need = plan.need
    if need.total <= there:
        return
    best = dict(list(savings(plan, levers).items())[:3])
    line = (
        f"this run needs at least {need.total / GIB:.1f} GiB of GPU memory ({need}), and "
        f"{there / GIB:.1f} are free"
    )
    if not best:
        raise UserError(f"{line}; no setting lowers it: more GPUs or a smaller model would")
    each = ", ".join(f"{setting} by {saved / GIB:.1f}" for setting, saved in best.items())
    left = (need.total - sum(best.values())) / GIB
    raise UserError(f"{line}; what lowers it most, one after the other: {each}, which leaves {left:.1f}")
