"""TLS contexts that follow rotation and check who the peer is.

An SSLContext can be told about a new certificate, but not to forget an old
trust anchor. So a LiveContext is a thin front: each handshake is made by an
inner context that holds exactly the newest certificate and bundle.
"""

import os
import ssl
import threading
import warnings
from typing import Callable, Iterable, List, NamedTuple, Optional, Union

Authorize = Union[str, Iterable[str], Callable[[str], bool]]


class PeerRefused(ssl.SSLError):
    """The peer proved an identity, and it is not one that may be talked to."""


class Material(NamedTuple):
    """One coherent state of a workload's identity, all PEM."""

    spiffe_id: str
    certificate: bytes
    private_key: bytes
    bundle: bytes


def any_in_trust_domain(_: str) -> bool:
    """Authorize every identity of the own trust domain."""
    return True


def authorizer(authorize: Optional[Authorize]) -> Callable[[str], bool]:
    """Turn what the caller wrote into one predicate. Nothing means anybody of
    the own trust domain, and a warning."""
    if authorize is None:
        warnings.warn(
            "this context accepts every peer of the trust domain; give authorize= the "
            "SPIFFE ID that the peer must have, or any_in_trust_domain to say so",
            stacklevel=3,
        )
        return any_in_trust_domain
    if callable(authorize):
        return authorize
    allowed = frozenset([authorize] if isinstance(authorize, str) else authorize)
    return lambda peer: peer in allowed


def check_peer(certificate: Optional[dict], allowed: Callable[[str], bool]) -> None:
    """Raise PeerRefused unless the certificate holds exactly one URI, and it is allowed."""
    names = (certificate or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise PeerRefused(f"the peer's certificate is not an X509-SVID: it has {len(uris)} URI names")
    if not allowed(uris[0]):
        raise PeerRefused(f"the peer is {uris[0]}, which is not authorized here")


class LiveContext(ssl.SSLContext):
    """An SSLContext whose handshakes always use the newest material."""

    def __new__(cls, protocol: int, *_args: object, **_kwargs: object) -> "LiveContext":
        return super().__new__(cls, protocol)

    def __init__(
        self, protocol: int, material: Callable[[], Material], allowed: Callable[[str], bool]
    ) -> None:
        self._protocol = protocol
        self._material = material
        self._allowed = allowed
        self._alpn: List[str] = []
        self._lock = threading.Lock()
        self._inner: Optional[ssl.SSLContext] = None
        self._held: Optional[Material] = None

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        with self._lock:
            self._alpn = list(alpn_protocols)
            self._held = None

    def wrap_socket(self, *args: object, **kwargs: object) -> ssl.SSLSocket:
        return self._current().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: object, **kwargs: object) -> ssl.SSLObject:
        return self._current().wrap_bio(*args, **kwargs)

    def _current(self) -> ssl.SSLContext:
        material = self._material()
        with self._lock:
            if self._inner is None or self._held != material:
                self._inner = self._build(material)
                self._held = material
            return self._inner

    def _build(self, material: Material) -> ssl.SSLContext:
        inner = ssl.SSLContext(self._protocol)
        inner.check_hostname = False  # the SPIFFE ID is checked instead
        inner.verify_mode = ssl.CERT_REQUIRED
        inner.minimum_version = ssl.TLSVersion.TLSv1_2
        inner.load_verify_locations(cadata=material.bundle.decode())
        load_chain(inner, material)
        if self._alpn:
            inner.set_alpn_protocols(self._alpn)
        inner.sslsocket_class = _checking(ssl.SSLSocket, self._allowed)
        inner.sslobject_class = _checking(ssl.SSLObject, self._allowed)
        return inner


def _checking(base: type, allowed: Callable[[str], bool]) -> type:
    """A socket class that checks the peer as part of the handshake."""

    class Checking(base):  # type: ignore[misc, valid-type]
        def do_handshake(self, *args: object, **kwargs: object) -> None:
            super().do_handshake(*args, **kwargs)
            check_peer(self.getpeercert(), allowed)

    return Checking


def load_chain(context: ssl.SSLContext, material: Material) -> None:
    """Load certificate and key without a file on disk: the ssl module takes
    paths only, so they pass through an anonymous memory file."""
    fd = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as memory:
            memory.write(material.private_key + material.certificate)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
