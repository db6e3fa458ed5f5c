"""From observations to findings, pure: no socket, no clock, no log. `diagnose` is the way in.

Not here: what a finding means (`knowledge`). Rules: the first finding is the cause; what only follows from it is
not reported; a healthy endpoint has no finding, and being asked for a credential is none.
"""

from narthex.doctor.diagnosis.findings import Diagnosis, Finding
from narthex.doctor.diagnosis.order import diagnose

__all__ = ["Diagnosis", "Finding", "diagnose"]
