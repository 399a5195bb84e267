"""TLS contexts that follow rotation and check who the peer is.

An SSLContext can be told about a new certificate, but not to forget an old
trust anchor. So a LiveContext is a thin front: each handshake is made by an
inner context that holds exactly the newest certificate and bundle.
"""

import os
import socket
import ssl
import threading
import time
import warnings
from typing import Callable, Iterable, List, NamedTuple, Optional, Tuple, Union

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
    """Authorize every identity of the own trust domain. (Those of others never
    get as far: the own bundle vouches for the own trust domain only.)"""
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


def trust_domain(spiffe_id: str) -> str:
    """spiffe://td/path gives td."""
    return spiffe_id[len("spiffe://"):].split("/", 1)[0]


def check_peer(certificate: Optional[dict], own: str, allowed: Callable[[str], bool]) -> None:
    """Raise PeerRefused unless the certificate is current, holds exactly one URI,
    of the trust domain that the bundle is of, and it is allowed. A resumed
    session is verified by nobody else, so its age counts here."""
    certificate = certificate or {}
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise PeerRefused(f"the peer's certificate is not an X509-SVID: it has {len(uris)} URI names")
    if ssl.cert_time_to_seconds(certificate["notAfter"]) <= time.time():
        raise PeerRefused(f"the certificate of {uris[0]} has expired")
    if trust_domain(uris[0]) != own:
        raise PeerRefused(f"the peer is {uris[0]}, for which the bundle of {own} does not vouch")
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
        own = trust_domain(material.spiffe_id)
        inner.sslsocket_class = _live(_checking(ssl.SSLSocket, own, self._allowed), self)
        inner.sslobject_class = _checking(ssl.SSLObject, own, self._allowed)
        return inner


def _checking(base: type, own: str, allowed: Callable[[str], bool]) -> type:
    """A class that checks the peer as part of the handshake. OpenSSL would shake
    hands by itself at the first read or write of whoever did not, and nobody
    would look at the peer: so these do it first."""

    class Checking(base):  # type: ignore[misc, valid-type]
        _checked = False

        def do_handshake(self, *args: object, **kwargs: object) -> None:
            super().do_handshake(*args, **kwargs)
            check_peer(self.getpeercert(), own, allowed)
            self._checked = True

        def _check_first(self) -> None:
            if not self._checked and self._sslobj is not None:
                self.do_handshake()

        def read(self, *args: object, **kwargs: object) -> object:
            self._check_first()
            return super().read(*args, **kwargs)

        def write(self, *args: object, **kwargs: object) -> object:
            self._check_first()
            return super().write(*args, **kwargs)

        def send(self, *args: object, **kwargs: object) -> object:  # of sockets alone
            self._check_first()
            return super().send(*args, **kwargs)

    return Checking


def _live(base: type, context: "LiveContext") -> type:
    """A socket class whose listener accepts with the newest material, not with
    what was newest when it began to listen."""

    class Live(base):  # type: ignore[misc, valid-type]
        def accept(self) -> Tuple[ssl.SSLSocket, object]:
            connection, address = socket.socket.accept(self)
            wrapped = context.wrap_socket(
                connection,
                server_side=True,
                do_handshake_on_connect=self.do_handshake_on_connect,
                suppress_ragged_eofs=self.suppress_ragged_eofs,
            )
            return wrapped, address

    return Live


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
