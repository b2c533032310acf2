"""Measures a run: python evaluate.py [fid | reference | clip | variance | influence] [--run runs/dmd_carv]"""

import sys

from carv_distill.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
