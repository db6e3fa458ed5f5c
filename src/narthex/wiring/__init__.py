"""Composition: makes a gateway, a worker or the auth service from settings, and runs it.

Not here: the parts themselves (`app`, `web`, `adapters`), the command line (`cli`).
"""
