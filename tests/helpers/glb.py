"""What a binary glTF file says of itself."""

from __future__ import annotations

import json
import struct
from typing import Any


def glb_tree(content: bytes) -> dict[str, Any]:
    """What a binary glTF says of itself."""
    (length,) = struct.unpack_from("<I", content, 12)
    tree: dict[str, Any] = json.loads(content[20 : 20 + length])
    return tree
