"""train.py: trains what a configuration describes."""

from __future__ import annotations

import argparse
import logging

from carv_distill.command_line import Parser, run_command, spin_briefly
from carv_distill.engine.console import quiet_libraries, show_messages
from carv_distill.tasks import load_config, require_resumable, train

log = logging.getLogger(__name__)

HELP = """Trains what a configuration describes.

python train.py --config configs/dmd_carv.yaml
python train.py --config configs/dmd_carv.yaml estimator.draws=16 name=dmd_k16
python train.py --config configs/dmd_carv.yaml --resume
torchrun --nproc-per-node 8 train.py --config configs/dmd_carv.yaml
srun python train.py --config configs/cifar10/dmd_carv.yaml --requeue
carv-distill train --config dmd_carv              the same with a configuration that ships, from any folder
"""


def main(words: list[str] | None = None) -> int:
    """Reads the words of a command line and trains; the exit status."""
    parser = Parser(HELP)
    parser.add_argument(
        "--config", required=True, metavar="YAML", help="a file, or the name of a shipped one"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the run's newest good checkpoint")
    again.add_argument(
        "--requeue", action="store_true", help="the same where there is one, else start: for schedulers"
    )
    parser.add_argument(
        "--env", action="store_true", help="replace ${oc.env:NAME} by the environment variable NAME"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any field, as estimator.draws=16")
    arguments = parser.parse_intermixed_args(words)
    return run_command(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.overrides, complete=True, environment=arguments.env)
    if arguments.resume:
        require_resumable(config)
    show_messages()
    log.info("%s: loading torch, diffusers and Lightning …", config.name)
    spin_briefly()

    import carv_distill.engine.run  # noqa: F401, so that Lightning is there to be quietened

    quiet_libraries()
    folder = train(config, arguments.resume, arguments.requeue)
    log.info("done: %s", folder)
