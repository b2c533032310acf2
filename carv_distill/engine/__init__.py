"""One run, whatever its task: configuration, folder, checkpoints, processes."""
