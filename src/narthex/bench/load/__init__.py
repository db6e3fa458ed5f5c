"""The generator: what runs in a process of its own, with plain sockets and epoll.

Rules: nothing here imports the gateway's rooms (but the digest, in `runs`); per operation it must be cheaper
than the server that it measures, so messages are counted by a marker in the bytes and not parsed.
"""
