"""Runs on disk: checkpoints, lock, logs, preemption, state and optimiser."""
