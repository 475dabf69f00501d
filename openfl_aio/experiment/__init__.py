"""The frontend: Federation, Experiment, submitting and following a run."""
