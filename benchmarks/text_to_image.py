"""What text-to-image distillation costs: python -m benchmarks.text_to_image [--rounds 30]

Of the miniature Stable Diffusion, under guidance, for all weights and for adapters of rank 16:

- a training step against the bare network calls it consists of, made by hand, each with its adapter already
  on (at most 1.05), measured in turn in one process;
- parameters, gradients and moments that are held with adapters, over those with all weights (at most 0.40);
- text models that a second run reads, whose prompts' embeddings are on disk (0; the first reads them once);
- gradient of the first update on two gloo processes that share every network (FSDP), against one process's:
  greatest difference over greatest entry (at most 1e-6), and the same in double precision, where it is the
  arithmetic and not its rounding (at most 1e-12).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks import scale
from benchmarks.measure import bare_fit, held_bytes, ratio_of
from benchmarks.report import options, report
from benchmarks.updates import build, timed
from carv_distill.distillation.module import DMDModule
from carv_distill.engine.console import quiet_libraries
from carv_distill.teachers.pipelines.folder import PipelineFolder

CONFIG = "configs/text_to_image/dmd_shapes.yaml"
LORA = ("dmd.adapters.kind=lora", "dmd.adapters.rank=16")
BOUNDS = {
    "step, all weights": 1.05,
    "step, adapters": 1.05,
    "bytes held": 0.40,
    "text models read, first run": 1,
    "text models read, second run": 0,
    "sharded gradient": 1e-6,
    "sharded gradient, float64": 1e-12,
}


def held(module: DMDModule) -> int:
    """Bytes after one update."""
    bare_fit(module, 1)
    return held_bytes(module, module.trainer.optimizers)


def text_models_read(config: Path) -> tuple[int, int]:
    """How often they are read in two runs that share a folder of embeddings."""
    read, counts = PipelineFolder.encoder, []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with patch.object(PipelineFolder, "encoder", autospec=True, side_effect=read) as encoder:
                build(config, f"prompts.cache={folder}")
            # tokenizers alone are read at every start
            counts.append(sum(call.kwargs.get("models", True) for call in encoder.call_args_list))
    return counts[0], counts[1]


def main() -> None:
    arguments = options(__doc__, rounds=30, config=CONFIG)
    quiet_libraries()
    torch.set_num_threads(1)
    kinds = {"step, all weights": (), "step, adapters": LORA}
    results = {}
    for name, words in kinds.items():
        seconds = timed(build(arguments.config, *words), arguments.rounds)
        results[name] = ratio_of(seconds["step"], seconds["bare step"])
    full, adapters = (held(build(arguments.config, *words)) for words in kinds.values())
    results["bytes held"] = (adapters / full,) * 3
    for name, count in zip(("first", "second"), text_models_read(arguments.config), strict=True):
        results[f"text models read, {name} run"] = (float(count),) * 3
    for name, precision in (("", scale.FLOAT32), (", float64", scale.FLOAT64)):
        results[f"sharded gradient{name}"] = (scale.sharded_error(str(arguments.config), precision),) * 3
    report("Text to image", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
