"""The servers of the contract suites, for what only one engine has."""

from tests.contracts.conftest import nats_server, valkey_server

__all__ = ["nats_server", "valkey_server"]
