"""plan.yaml, director and envoy configuration files."""
