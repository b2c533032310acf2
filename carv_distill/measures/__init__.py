"""The commands of evaluate.py, a module each: its options, what it measures, what it shows and keeps."""
