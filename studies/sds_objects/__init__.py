"""Objects that the default configuration makes, beside the solids that their prompts name."""
