"""An app of rounds without training."""
