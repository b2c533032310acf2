"""What reuse, importance, strata and cameras are worth in text-to-3D."""
