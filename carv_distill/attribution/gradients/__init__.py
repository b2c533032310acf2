"""Gradients of the samples' loss, projected as they arrive: two back ends with the same features."""
