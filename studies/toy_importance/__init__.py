"""The toy: estimators of one-dimensional integrals, measured and exact."""
