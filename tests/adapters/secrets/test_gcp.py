"""Google Secret Manager: the real client library against a small gRPC server with the service's methods."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from narthex.adapters.secrets.gcp import read_gcp
from narthex.errors import ConfigError
from tests.timing import within

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:google")

NAME = "projects/p/secrets/s/versions/3"


class SecretManager:
    """The service: each version's content, or its status."""

    def __init__(self) -> None:
        self.versions: dict[str, bytes] = {NAME: b"the-secret\n"}
        self.statuses: dict[str, Any] = {}
        self.asked: list[str] = []

    def access(self, request: Any, context: Any) -> Any:
        """`AccessSecretVersion`."""
        import grpc
        from google.cloud.secretmanager_v1.types import AccessSecretVersionResponse, SecretPayload

        self.asked.append(request.name)
        if request.name in self.statuses:
            context.abort(self.statuses[request.name], "details of the service")
        if request.name not in self.versions:
            context.abort(grpc.StatusCode.NOT_FOUND, "not there")
        return AccessSecretVersionResponse(
            name=request.name, payload=SecretPayload(data=self.versions[request.name])
        )


@pytest.fixture
def service() -> Iterator[tuple[SecretManager, Any]]:
    """The service on loopback, and a client of the real library that talks to it."""
    grpc = pytest.importorskip("grpc", reason="narthex[gcp] is not installed")
    secretmanager = pytest.importorskip("google.cloud.secretmanager", reason="narthex[gcp] is not installed")
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
        SecretManagerServiceGrpcTransport,
    )
    from google.cloud.secretmanager_v1.types import AccessSecretVersionRequest, AccessSecretVersionResponse

    manager = SecretManager()
    handler = grpc.unary_unary_rpc_method_handler(
        manager.access,
        request_deserializer=AccessSecretVersionRequest.deserialize,
        response_serializer=AccessSecretVersionResponse.serialize,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    generic = grpc.method_handlers_generic_handler(
        "google.cloud.secretmanager.v1.SecretManagerService", {"AccessSecretVersion": handler}
    )
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    client = secretmanager.SecretManagerServiceClient(
        transport=SecretManagerServiceGrpcTransport(channel=channel)
    )
    yield manager, client
    channel.close()
    server.stop(None).wait()


def test_a_version_is_read(service: tuple[SecretManager, Any]) -> None:
    """By its name, less one line break."""
    manager, client = service
    assert read_gcp(f"gcp-secret://{NAME}", client=client) == "the-secret"
    assert manager.asked == [NAME]


def test_without_a_version_the_latest_is_read(service: tuple[SecretManager, Any]) -> None:
    """Also a regional one."""
    manager, client = service
    name = "projects/p/locations/europe-west1/secrets/s"
    manager.versions[name + "/versions/latest"] = b"regional"
    assert read_gcp(f"gcp-secret://{name}", client=client) == "regional"


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("PERMISSION_DENIED", "roles/secretmanager.secretAccessor"),
        ("NOT_FOUND", "Create it"),
        ("FAILED_PRECONDITION", "Enable that version"),
        ("INTERNAL", "reachable"),
    ],
)
def test_each_failure_names_the_secret_and_the_remedy(
    service: tuple[SecretManager, Any], status: str, remedy: str
) -> None:
    """As a ConfigError: the process must not start without it."""
    import grpc

    manager, client = service
    manager.statuses[NAME] = getattr(grpc.StatusCode, status)
    with pytest.raises(ConfigError) as caught:
        read_gcp(f"gcp-secret://{NAME}", client=client, timeout_s=within(5))
    (problem,) = caught.value.problems
    assert NAME in problem
    assert remedy in problem


@pytest.mark.parametrize(("content", "what"), [(b"", "is empty"), (b"\xff\xfe", "is not UTF-8")])
def test_unusable_content_is_refused(service: tuple[SecretManager, Any], content: bytes, what: str) -> None:
    """As for a file."""
    manager, client = service
    manager.versions[NAME] = content
    with pytest.raises(ConfigError, match=what):
        read_gcp(f"gcp-secret://{NAME}", client=client)


def test_a_service_that_is_away_is_told_within_the_deadline(service: tuple[SecretManager, Any]) -> None:
    """Start-up does not hang."""
    import grpc

    manager, client = service
    manager.statuses[NAME] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ConfigError, match="reachable"):
        read_gcp(f"gcp-secret://{NAME}", client=client, timeout_s=within(0.5))


@pytest.mark.parametrize(
    "name", ["x", "projects/p", "projects/p/secrets/", "projects/p/secrets/s/versions/1/x"]
)
def test_a_malformed_name_is_refused_before_anything_is_imported(name: str) -> None:
    """With the right form as remedy."""
    with pytest.raises(ConfigError, match=r"projects/P/secrets/S/versions/V"):
        read_gcp(f"gcp-secret://{name}")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is imported only when a name asks for it."""
    monkeypatch.setitem(sys.modules, "google.cloud.secretmanager", None)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(ConfigError, match=r"narthex\[gcp\]"):
        read_gcp(f"gcp-secret://{NAME}")
