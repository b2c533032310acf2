"""Clips with captions, rendered or in files; how much moves in them, and where."""
