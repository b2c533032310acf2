"""What a picture of 3D Gaussians costs on a CPU beside one of a voxel field: python -m benchmarks.splatting

Seconds of one render of 128 × 128 pixels, without a graph and with the backward of its sum, of

- 10,000 Gaussians, splatted in plain torch: as a run begins with them, and with an opacity of 0.9;
- the voxel field of the configuration, by as many points on a ray as it trains with.

Measured in this process by alternating, one thread, after a warm-up; ratios with an interval for the median.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from benchmarks.measure import ratio_of
from benchmarks.report import options
from carv_distill.engine.console import quiet_libraries
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.object.turntable import turntable
from carv_distill.text_to_3d.options import GaussianOptions, SDSConfig
from carv_distill.text_to_3d.scenes import GaussianScene, Scene, build_scene
from carv_distill.variance import Table

COUNT, SIZE, WARM_UP = 10_000, 128, 2


def scenes(config: SDSConfig) -> dict[str, Scene]:
    """What is rendered, by its name in the table."""
    view = replace(config.scene, kind="gaussians", gaussians=GaussianOptions(COUNT, "torch"))
    opaque = build_scene(view)
    assert isinstance(opaque, GaussianScene)
    with torch.no_grad():
        opaque.opacity_logits.fill_(torch.tensor(0.9).logit())
    return {
        "voxels": build_scene(replace(config.scene, kind="voxels")),
        "Gaussians": build_scene(view),
        "opaque Gaussians": opaque,
    }


def timed(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in a new order each round."""
    seconds = defaultdict[str, list[float]](list)
    for number in range(rounds + WARM_UP):
        for name in random.Random(number).sample(list(work), len(work)):
            start = time.perf_counter()
            work[name]()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    arguments = options(__doc__, rounds=15, config="configs/sds_carv.yaml")
    quiet_libraries()
    torch.set_num_threads(1)
    config = load_config(arguments.config)
    assert isinstance(config, SDSConfig)
    camera, samples = turntable(1), config.scene.samples

    def picture(scene: Scene) -> None:
        with torch.no_grad():
            scene.render(camera, SIZE, samples)

    def gradient(scene: Scene) -> None:
        scene.render(camera, SIZE, samples).image.sum().backward()
        scene.zero_grad()

    results, rows = {}, []
    for what, render in (("picture", picture), ("picture and gradient", gradient)):
        work = {name: partial(render, scene) for name, scene in scenes(config).items()}
        seconds = timed(work, arguments.rounds)
        for name, values in seconds.items():
            ratio, low, high = ratio_of(values, seconds["voxels"])
            median = statistics.median(values)
            results[f"{what}, {name}"] = {"seconds": median, "ratio": ratio, "interval": [low, high]}
            rows.append((what, name, f"{median:.3f}", f"{ratio:.2f}", f"[{low:.2f}, {high:.2f}]"))
    head = ("what", "of", "seconds", "voxels' × ", "95 % interval")
    print(Table(f"{COUNT:,} Gaussians at {SIZE} pixels", head, sorted(rows)))
    if arguments.out:
        about = {"rounds": arguments.rounds, "threads": torch.get_num_threads(), "torch": torch.__version__}
        setting = {
            "Gaussians": COUNT,
            "size": SIZE,
            "resolution": config.scene.resolution,
            "samples": samples,
        }
        arguments.out.write_text(json.dumps(about | setting | results, indent=2) + "\n")


if __name__ == "__main__":
    main()
