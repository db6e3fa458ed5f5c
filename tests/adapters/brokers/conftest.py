"""The servers of the contract suites, for tests of a single engine."""

from tests.contracts.conftest import nats_server, valkey_server

__all__ = ["nats_server", "valkey_server"]
