"""Whether text-to-3D from the wild teacher lies where reuse pays."""
