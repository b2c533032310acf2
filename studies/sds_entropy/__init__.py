"""The regime of text-to-3D, its border and why: exact teachers of every entropy."""
