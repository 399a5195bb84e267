"""QuickStartSVID: the identity of this process, kept current."""

import asyncio
import base64
import json
import os
import ssl
import threading
import time
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.errors import ValidateJwtSvidError

from . import files
from .context import Authorize, LiveContext, Material, authorizer

DEFAULT_SOCKET = "unix:///run/spire/sockets/agent.sock"
DEFAULT_CERT_DIR = Path("/tmp/spiffe-certs")
FIRST_SVID_SECONDS = 5.0


def endpoint(socket_path: Optional[str]) -> str:
    """The Workload API address: the argument, else SPIFFE_ENDPOINT_SOCKET, else
    the default. A bare path is taken as a unix socket."""
    address = socket_path or os.environ.get("SPIFFE_ENDPOINT_SOCKET") or DEFAULT_SOCKET
    if address.startswith("/"):
        return "unix://" + address
    if address.startswith("tcp://"):
        warnings.warn(
            "a tcp:// Workload API cannot see which process is calling; use a unix socket",
            stacklevel=3,
        )
    return address


def _connect(address: str) -> Tuple[WorkloadApiClient, X509Source]:
    """A client and its first SVID. An agent that is about to start is waited for."""
    deadline = time.monotonic() + FIRST_SVID_SECONDS
    try:
        client = _open(address, deadline)
        try:
            left = max(0.1, deadline - time.monotonic())
            return client, X509Source(client, timeout_in_seconds=left)
        except BaseException:
            client.close()
            raise
    except PySpiffeError as err:
        raise RuntimeError(
            f"no SVID from {address}: {err}. Is the agent running, and is this "
            "process registered ('icp entry list')?"
        ) from err


def _open(address: str, deadline: float) -> WorkloadApiClient:
    """The library refuses a socket that is not there, so this waits for it."""
    path = address.removeprefix("unix:")
    while path.startswith("/") and not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.05)
    return WorkloadApiClient(address)


class QuickStartSVID:
    """The X509-SVID of this process, renewed by the agent and never stale here."""

    _instance: Optional["QuickStartSVID"] = None
    _lock = threading.Lock()

    def __init__(self, client: WorkloadApiClient, source: X509Source, cert_dir: Optional[str]) -> None:
        self._client = client
        self._source = source
        self._cert_dir = Path(cert_dir) if cert_dir else DEFAULT_CERT_DIR
        self._writes_files = False
        if cert_dir:
            self._keep_files()

    @classmethod
    async def initialize(
        cls, socket_path: Optional[str] = None, cert_dir: Optional[str] = None
    ) -> "QuickStartSVID":
        """Connect to the agent and wait for the first SVID, at most five
        seconds. Later calls give the same object."""
        return await asyncio.to_thread(cls._initialize, socket_path, cert_dir)

    @classmethod
    def _initialize(cls, socket_path: Optional[str], cert_dir: Optional[str]) -> "QuickStartSVID":
        with cls._lock:
            if cls._instance is None:
                client, source = _connect(endpoint(socket_path))
                cls._instance = cls(client, source, cert_dir)
            return cls._instance

    @classmethod
    async def get(cls) -> "QuickStartSVID":
        """The object that initialize made."""
        if cls._instance is None:
            raise RuntimeError("call 'await QuickStartSVID.initialize()' first")
        return cls._instance

    async def shutdown(self) -> None:
        """Stop following rotation and let go of the socket."""
        with QuickStartSVID._lock:
            if QuickStartSVID._instance is self:
                QuickStartSVID._instance = None
        await asyncio.to_thread(self._source.close)
        await asyncio.to_thread(self._client.close)

    # What this process is

    def _material(self) -> Material:
        context = self._source.get_x509_context()
        svid = context.default_svid
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        if bundle is None:
            raise RuntimeError(f"the agent sent no bundle for {svid.spiffe_id.trust_domain}")
        return Material(
            spiffe_id=str(svid.spiffe_id),
            certificate=b"".join(c.public_bytes(Encoding.PEM) for c in svid.cert_chain),
            private_key=svid.private_key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            bundle=b"".join(c.public_bytes(Encoding.PEM) for c in bundle.x509_authorities),
        )

    @property
    def spiffe_id(self) -> str:
        return self._material().spiffe_id

    @property
    def certificate(self) -> str:
        return self._material().certificate.decode()

    @property
    def private_key(self) -> str:
        return self._material().private_key.decode()

    @property
    def trust_bundle(self) -> str:
        return self._material().bundle.decode()

    @property
    def serial_number(self) -> int:
        """Serial of the current certificate; it changes with each rotation."""
        return self._source.get_x509_context().default_svid.leaf.serial_number

    # TLS

    def create_ssl_context_for_client(self, authorize: Optional[Authorize] = None) -> ssl.SSLContext:
        """A context for connecting: the server's SPIFFE ID must be authorized."""
        return LiveContext(ssl.PROTOCOL_TLS_CLIENT, self._material, authorizer(authorize))

    def create_ssl_context_for_server(self, authorize: Optional[Authorize] = None) -> ssl.SSLContext:
        """A context for serving: clients must show an authorized SPIFFE ID."""
        return LiveContext(ssl.PROTOCOL_TLS_SERVER, self._material, authorizer(authorize))

    # Files, for servers that read nothing else

    def get_ssl_paths(self) -> Tuple[str, str, str]:
        """(key, certificate, bundle) as files that are kept current."""
        self._keep_files()
        folder = self._cert_dir
        return str(folder / "key.pem"), str(folder / "cert.pem"), str(folder / "bundle.pem")

    def _keep_files(self) -> None:
        files.write(self._cert_dir, self._material())
        if not self._writes_files:
            self._writes_files = True
            self._source.subscribe_for_updates(
                lambda: files.write(self._cert_dir, self._material())
            )

    # JWT-SVIDs

    async def fetch_jwt_svid(self, audience: List[str], spiffe_id: Optional[str] = None) -> str:
        """A JWT-SVID for the audience, to send as a bearer token over TLS."""
        return (await asyncio.to_thread(self._fetch_jwt, audience, spiffe_id)).token

    def _fetch_jwt(self, audience: List[str], spiffe_id: Optional[str]) -> JwtSvid:
        subject = SpiffeId(spiffe_id) if spiffe_id else None
        return self._client.fetch_jwt_svid(audience=set(audience), subject=subject)

    async def validate_jwt_svid(self, token: str, audience: str) -> Optional[Dict[str, Any]]:
        """{'spiffe_id', 'claims'} of a valid token for the audience, else None."""
        try:
            svid = await asyncio.to_thread(self._client.validate_jwt_svid, token, audience)
        except ValidateJwtSvidError:
            return None
        return {"spiffe_id": str(svid.spiffe_id), "claims": _claims(svid.token)}


def _claims(token: str) -> Dict[str, Any]:
    """The payload of a token that was validated already."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
