"""FastGen's DMD2 with several re-noisings of each generated sample."""
