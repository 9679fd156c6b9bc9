"""Reads, caches and batches arrays, and writes files whole.

Nothing is read, drawn or downloaded at import.
"""
