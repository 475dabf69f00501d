"""The code of a workspace of rounds without training."""
