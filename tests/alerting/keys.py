"""An issuer whose key set is served here, so that a test can take it away; its certificate ends when the test says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import time
import uuid
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc.jwk import ECKey

from narthex.adapters.tokens.keys import sign_compact

ISSUER = "https://issuer.test"


class Issuer:
    """Signs tokens; serves the key set on loopback between `start` and `stop`."""

    def __init__(self, *, certificate_days: int) -> None:
        native = ec.generate_private_key(ec.SECP256R1())
        self._key = ECKey(native, native)
        self._kid = uuid.uuid4().hex[:8]
        now = dt.datetime.now(dt.UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer.test")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(native.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=certificate_days))
            .sign(native, hashes.SHA256())
        )
        chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
        public = self._key.as_dict(private=False) | {"kid": self._kid, "alg": "ES256", "x5c": chain}
        self._body = json.dumps({"keys": [public]}).encode()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def environ(self) -> dict[str, str]:
        """Settings of a gateway that trusts it."""
        return {
            "NARTHEX_JWKS_URL": f"http://127.0.0.1:{self.port}/jwks.json",
            "NARTHEX_JWT_ISSUER": ISSUER,
        }

    def token(self, subject: str = "ada", *, kid: str = "", **claims: Any) -> str:
        """A token; with a `kid` that the set lacks, the gateway has to ask for the set."""
        now = int(time.time())
        body = {
            "iss": ISSUER,
            "sub": subject,
            "iat": now,
            "exp": now + 600,
            "jti": uuid.uuid4().hex,
            **claims,
        }
        return sign_compact({"alg": "ES256", "kid": kid or self._kid}, body, "ES256", self._key)

    async def start(self) -> None:
        """Serve, on the port of the first time."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(self._body)}\r\n"
            )
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + self._body)
            await writer.drain()
        writer.close()
