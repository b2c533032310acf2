"""Teachers that a prompt conditions, from pipelines in diffusers' layout: a file and a row each."""
