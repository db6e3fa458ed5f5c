"""The Centrifuge client protocol v2 in JSON, sans-IO: bytes, values and `now` in; values out."""
