"""One module per figure of arXiv 2605.21489: ``python -m carv_distill.studies.<name> [--quick]``."""
