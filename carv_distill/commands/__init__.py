"""What `evaluate.py` measures: a module for each command."""
