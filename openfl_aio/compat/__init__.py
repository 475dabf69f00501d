"""OpenFL 1.6 under its own names: a facade for code that was written for it, and import names for its archives."""
