"""The figures of arXiv 2605.21489: ``python -m studies.<name> [--quick]``.

A study is a folder: `__main__` has its options and what it does, in order; each other file is a part.
Results go to `results/<name>`. Nothing heavy is imported before the options are understood.
"""
