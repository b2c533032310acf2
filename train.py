"""Trains what a configuration describes.

python train.py --config configs/dmd_carv.yaml
python train.py --config configs/dmd_carv.yaml estimator.draws=16 name=dmd_k16
python train.py --config configs/dmd_carv.yaml --resume
torchrun --nproc-per-node 8 train.py --config configs/dmd_carv.yaml
srun python train.py --config configs/cifar10/dmd_carv.yaml --requeue
"""

from __future__ import annotations

import argparse
import logging
import sys

from carv_distill.cli import Parser, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, metavar="YAML", help="one self-contained YAML of configs/")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the run's newest good checkpoint")
    again.add_argument(
        "--requeue", action="store_true", help="the same where there is one, else start: for schedulers"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any field, as estimator.draws=16")
    return parser.parse_intermixed_args()


def main() -> int:
    arguments = parse()

    def train() -> None:
        # After the parser, so that --help and a misspelt option answer at once; what only a run needs comes
        # after the configuration, so that a mistake in it does not wait for diffusers and Lightning.
        from carv_distill.engine.config import load_config

        config = load_config(arguments.config, arguments.overrides)

        from carv_distill.engine.console import quiet_libraries
        from carv_distill.engine.run import execute

        quiet_libraries()
        folder = execute(config, arguments.resume, arguments.requeue)
        logging.getLogger("carv_distill").info("done: %s", folder)

    return run_command(train)


if __name__ == "__main__":
    sys.exit(main())
