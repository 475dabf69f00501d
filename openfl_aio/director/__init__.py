"""Experiments and envoys."""
