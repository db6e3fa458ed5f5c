"""The edge in front of another server: the upstream's handshake, the relay of frames, the pass-through of HTTP."""
