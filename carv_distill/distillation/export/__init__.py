"""What a run leaves: the student as a diffusers pipeline, its adapters, its page."""
