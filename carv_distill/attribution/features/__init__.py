"""Features of a whole training set: which draws, in which pieces, and where they are kept."""
