"""The load generator, which runs in a process of its own with plain sockets and epoll.

Rules: of the gateway it imports nothing but the client's side of the wire (`protocol.client`, `protocol.framing`) and
the digest; per operation it must be cheaper than the server that it measures, so deliveries are counted by a marker in
the bytes and not parsed.
"""
