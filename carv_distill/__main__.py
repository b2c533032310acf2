"""python -m carv_distill: the console command."""

import sys

from carv_distill.cli import main

sys.exit(main())
