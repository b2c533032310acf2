"""Mirrors carv_distill.commands."""
