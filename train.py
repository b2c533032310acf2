"""Trains what a configuration describes: python train.py --config configs/dmd_carv.yaml [key=value ...]"""

import sys

from carv_distill.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
