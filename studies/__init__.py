"""One module per figure of arXiv 2605.21489: ``python -m studies.<name> [--quick]``."""
