"""Shared by the SQLite broker and the SQLite store: the file, its owner lock, the batching thread, checkpoints.

No SQL of either lives here.
"""
