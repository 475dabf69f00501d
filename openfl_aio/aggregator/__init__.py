"""Rounds: who does what, what came back, when a round closes."""
