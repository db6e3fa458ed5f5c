"""What the SQLite broker and the SQLite store share: the file, its owner lock, the batching thread, checkpoints.

No SQL of either lives here.
"""
