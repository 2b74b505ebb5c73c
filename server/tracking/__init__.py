"""Experiment trackers: what a run has come to so far, written to MLflow or TensorBoard as it goes."""
