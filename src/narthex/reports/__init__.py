"""Draws HTML reports for people: one file each, complete without a script and without a request.

Not here: what a report says (`narthex.e2e.reports`, `narthex.bench.html_report`, `narthex.doctor.canary_report`).
"""
