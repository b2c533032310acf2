"""A run's plan of memory, from its options and its networks as they were read."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from carv_distill.distillation.building import is_prompted
from carv_distill.distillation.conditions import Prompts
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.objective import DMDObjective
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.devices import precision_of
from carv_distill.engine.sharding import largest_joined
from carv_distill.errors import UserError
from carv_distill.teachers.adapters import matching_layers
from carv_distill.teachers.denoiser import GuidedDenoiser

from .footprint import Bytes, Footprint, adapter_count, footprints, parameter_count, training_peak
from .needs import MOMENTS, Calls, Plan


def plan_of(config: DMDConfig, module: DMDModule, processes: int, exact: bool = True) -> Plan:
    """What a run will take of each process's CUDA device, counted on networks that are on none yet.

    The re-noisings at a time are taken as one where they are halved when memory ends. A discriminator's
    activations are not in it; frozen networks are counted under the training's autocast, where a residual
    compared in float32 takes up to twice that.

    Args:
        exact: else activations are an upper bound, which is found in less than half the time.
    """
    o, objective = config.dmd, module.objective
    shared, learning = objective.shared, parameter_count(objective.student_parameters)
    bits = 8 if o.optimiser == "adamw_8bit" else 32
    shards = 1 if config.trainer.sharding == "none" else processes
    holder = objective.student.network if shared is None else shared.network
    parameters = learning
    if shared is not None:
        parameters = parameter_count(holder.parameters()) - parameter_count(shared.all_parameters())
    return Plan(
        parameters=parameters,
        adapter=_adapter(config, holder) if shared is None else learning,
        lora=shared is not None,
        frozen_bits=32 if config.teacher.precision == "float32" else 16,
        averages=1 + len(o.ema_beside),
        host_averages=o.ema_memory == "host",
        optimiser_bits=bits,
        double=precision_of(config.trainer, "cuda") == "64-true",
        processes=processes,
        shards=shards,
        block=largest_joined(holder) if processes > 1 else 0,
        accumulate=module.accumulate,
        traced=config.variance.every > 0,
        beside=round(_beside(objective, bits, shards)),
        calls=_calls(config, objective, shards, exact),
    )


def _adapter(config: DMDConfig, network: nn.Module) -> int | None:
    """Parameters of an adapter, as it would be; None where there cannot be one."""
    if not is_prompted(config) or config.dmd.compile:
        return None
    with suppress(UserError):  # patterns that match nothing: adapters were not asked for
        names = matching_layers(network.model, config.dmd.adapters.targets, "dmd.adapters")  # type: ignore[arg-type]
        layers = (network.model.get_submodule(name) for name in names)  # type: ignore[union-attr]
        return adapter_count(layers, config.dmd.adapters.rank)
    return None


def _beside(objective: DMDObjective, bits: int, shards: int) -> float:
    """Bytes of codec and prompts, and of a discriminator with its gradients and moments."""
    total = float(sum(t.nbytes for t in (*objective.codec.parameters(), *objective.codec.buffers())))
    if isinstance(objective.conditions, Prompts):
        total += objective.conditions.table.nbytes
    if objective.discriminator is not None:
        count = parameter_count(objective.discriminator.parameters())
        total += (8 + MOMENTS[bits]) * count / shards
    return total


def _calls(config: DMDConfig, objective: DMDObjective, shards: int, exact: bool) -> Calls:
    o, e = config.dmd, config.estimator
    autocast = torch.bfloat16 if precision_of(config.trainer, "cuda") == "bf16-mixed" else None
    counted = _student(objective), _StudentCall(objective), autocast
    if exact:
        network, checkpointed = footprints(*counted, flops=False)
    else:
        most = Bytes(0, training_peak(*counted))
        network, checkpointed = Footprint(most, most, most, 0, 0), None
    return Calls(
        network,
        checkpointed if is_prompted(config) else None,  # those of labels have no such option
        upstream=e.upstream,
        draws=e.draws,
        chunk=1 if shards == 1 else e.chunk,
        fake_batch=o.fake_batch,
        fake_updates=o.fake_updates_per_student,
        fake_reuse=o.fake_reuse,
        guided=isinstance(objective.teacher, GuidedDenoiser),
        checkpointing=o.gradient_checkpointing,
    )


def _student(objective: DMDObjective) -> nn.Module:
    """The student's network, with the one that its adapters lie over."""
    shared = [] if objective.shared is None else [objective.shared.network]
    return nn.ModuleList([objective.student.network, *shared])


class _StudentCall:
    """F of n samples under the first condition, by the first network of a list."""

    def __init__(self, objective: DMDObjective) -> None:
        self.shape, self.dtype = objective.shape, objective.student_parameters[0].dtype
        self.cond = objective.conditions(torch.zeros(1, dtype=torch.long))

    def __call__(self, networks: nn.Module, n: int) -> Tensor:
        network = next(networks.children())
        x, c_noise = torch.zeros(n, *self.shape, dtype=self.dtype), torch.zeros(n, dtype=self.dtype)
        assert self.cond is not None
        output: Tensor = network(x, c_noise, self.cond[torch.zeros(n, dtype=torch.long)])
        return output
