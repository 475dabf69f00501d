"""RFC 9113 sections 3.2 and 9.2: HTTP/2 over TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.transport.http2.conformance.peer import SECONDS, Peer
from tests.transport.http2.conformance.serving import ServerThread


def as_it_should_be(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["h2"])


def with_older_protocols_too(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["http/1.1", "h2"])


def tls_1_2(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def without_alpn(context: ssl.SSLContext) -> None:
    """Agree on nothing."""


def http_1(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["http/1.1"])


def old_cipher(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:AES256-SHA:AES128-SHA256")  # of the list in RFC 9113, appendix A


def connect(server: ServerThread, ca: ThrowawayCA, change: Callable[[ssl.SSLContext], None]) -> Peer:
    files = ca.client("hospital_one")
    context = ssl.create_default_context(cafile=files.ca)
    assert files.certificate is not None
    context.load_cert_chain(files.certificate, files.private_key)
    change(context)
    sock = socket.create_connection(("127.0.0.1", server.endpoint.port), timeout=SECONDS)
    try:
        return Peer(context.wrap_socket(sock, server_hostname="127.0.0.1"))
    except OSError:
        sock.close()
        raise


@pytest.mark.parametrize("change", [as_it_should_be, with_older_protocols_too, tls_1_2])
def test_9113_3_2_served(mutual_tls: ServerThread, ca: ThrowawayCA, change: Callable[[ssl.SSLContext], None]) -> None:
    with connect(mutual_tls, ca, change) as peer:
        peer.start()
        assert peer.call().field("grpc-status") == "0"


@pytest.mark.parametrize("change", [without_alpn, http_1, old_cipher])
def test_9113_9_2_refused(mutual_tls: ServerThread, ca: ThrowawayCA, change: Callable[[ssl.SSLContext], None]) -> None:
    try:
        peer = connect(mutual_tls, ca, change)
    except (ssl.SSLError, ConnectionError):
        pass  # refused in the handshake
    else:
        with peer:
            peer.start()
            peer.wait_closed()
            assert peer.frames == []
    mutual_tls.check_unharmed()
