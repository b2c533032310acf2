"""Sections of a configuration: dataclasses whose fields carry their limits.

One module per method, apart from its code, so that a configuration is checked without the libraries which
only a run needs.
"""

from .limits import at_least, between, check_limits, more_than, nearest, one_of

__all__ = ["at_least", "between", "check_limits", "more_than", "nearest", "one_of"]
