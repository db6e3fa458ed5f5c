"""Turns observations into findings, pure: no socket, no clock, no log. `diagnose` is the entry point.

Not here: the explanation of a finding (`knowledge`). Rules: the first finding is the cause; mere consequences of it
are not reported; a healthy endpoint has no finding, and a demand for a credential is none.
"""

from narthex.doctor.diagnosis.findings import Diagnosis, Finding
from narthex.doctor.diagnosis.order import diagnose

__all__ = ["Diagnosis", "Finding", "diagnose"]
