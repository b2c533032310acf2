"""Variance of the student's gradient against its FID."""
