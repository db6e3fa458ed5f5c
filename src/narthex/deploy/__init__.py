"""Deployments: what the settings demand of a platform, manifests written from that, and manifests checked against it.

`demands` is the one model. `rendering` writes manifests from it (`narthex deploy render`); `readers` take facts from
manifests of any origin, and `rules` compares the two (`narthex check --platform`).
"""
