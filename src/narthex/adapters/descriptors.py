"""How many files this process may open, and the most that it may allow itself.

Rules: raising the soft limit is the program's business, done once at its start; a program that embeds the gateway keeps
its own.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

UNLIMITED: Final = (
    1 << 20
)  # what is counted with where there is no limit: Linux's own default for `fs.nr_open`


def descriptor_limit() -> int:
    """The soft limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def descriptors_to_come() -> int:
    """What `raise_descriptor_limit` would come to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if hard == resource.RLIM_INFINITY else hard


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, as far as the system lets us; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS says infinity and takes less
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()
