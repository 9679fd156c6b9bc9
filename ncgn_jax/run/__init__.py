"""Keeps runs on disk: checkpoints, lock, logs, preemption, state and optimiser."""
