"""Passwords by argon2id (RFC 9106, the low-memory profile: 64 MiB, three passes), off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from narthex.errors import Overloaded

MAX_AT_ONCE: Final = 2  # 64 MiB each
MAX_WAITING: Final = 20  # at about 60 ms each the last one waits well under a second
MAX_PASSWORD_LENGTH: Final = 1_024  # longer input is refused without hashing

R = TypeVar("R")


class Argon2Passwords:
    """Implements `narthex.ports.tokens.PasswordHashes`.

    Attributes:
        waiting: passwords that are hashed now or wait for that.
    """

    def __init__(self) -> None:
        self._hasher = PasswordHasher()  # argon2-cffi's defaults are that profile
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self.waiting = 0
        self._stand_in = ""

    async def hash(self, password: str) -> str:
        """See the port. Raises ValueError when it is longer than `MAX_PASSWORD_LENGTH`."""
        if len(password) > MAX_PASSWORD_LENGTH:
            raise ValueError("The password is too long.")
        return await self._bounded(lambda: self._hasher.hash(password))

    async def verify(self, encoded: str, password: str) -> bool:
        """See the port."""
        if not self._stand_in:
            self._stand_in = await self._bounded(lambda: self._hasher.hash("nobody"))
        tried = password if len(password) <= MAX_PASSWORD_LENGTH else ""
        right = await self._bounded(lambda: self._matches(encoded or self._stand_in, tried))
        return right and bool(encoded) and tried is password

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _bounded(self, work: Callable[[], R]) -> R:
        if self.waiting >= MAX_WAITING:
            raise Overloaded("auth", f"{MAX_WAITING} sign-ins are waiting.", "Try again in a second.")
        self.waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work)
        finally:
            self.waiting -= 1
