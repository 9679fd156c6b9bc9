"""Loaders, generators and simulators: numpy arrays with static shapes.

Nothing in here imports the rest of the package, and nothing is read, drawn or
downloaded at import.
"""
