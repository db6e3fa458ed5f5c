"""The status page: whether chat works now and worked in the last 90 days, for customers, without a login.

It has its own database, so that it works while the gateway's broker and store do not. `embedded` puts it into a
gateway, `process` serves it apart. Not here: the rules (`domain/availability.py`, `domain/incidents.py`).
"""
