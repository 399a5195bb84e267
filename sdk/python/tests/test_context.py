"""Real TLS connections between LiveContexts. Run with
python -m unittest discover -s tests, in the folder of pyproject.toml."""

import asyncio
import datetime
import socket
import ssl
import threading
import unittest

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from authsec_sdk.context import LiveContext, Material, PeerRefused, any_in_trust_domain

SERVER, CLIENT, INTRUDER = ("spiffe://td.test/" + name for name in ("server", "client", "intruder"))


class Authority:
    """One self-signed anchor; issue() takes whatever ID it is told."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anchor")])
        self.certificate = (
            self._builder(self.name, self.key, 3600)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, seconds: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
        )

    def issue(self, spiffe_id: str, seconds: float = 3600) -> Material:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key, seconds)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), True)
            .sign(self.key, hashes.SHA256())
        )
        return Material(
            spiffe_id,
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            self.certificate.public_bytes(Encoding.PEM),
        )


class Listener:
    """A server that answers "seen" to whatever it reads, on its own thread."""

    def __init__(self, context: ssl.SSLContext, **wrap: object) -> None:
        self.read: list = []
        self.failed: list = []
        plain = socket.create_server(("127.0.0.1", 0))
        plain.settimeout(20)
        self.socket = context.wrap_socket(plain, server_side=True, **wrap)
        self.address = plain.getsockname() if plain.fileno() >= 0 else self.socket.getsockname()

    def serve_one(self) -> None:
        try:
            connection, _ = self.socket.accept()
            with connection:
                connection.settimeout(20)
                self.read.append(connection.recv(100))
                connection.sendall(b"seen")
        except OSError as err:
            self.failed.append(err)


def context(protocol: int, material, allowed) -> LiveContext:
    return LiveContext(protocol, material if callable(material) else lambda: material, allowed)


class Sockets(unittest.TestCase):
    def setUp(self) -> None:
        self.ca = Authority()

    def listen(self, material, allowed, **wrap: object) -> Listener:
        listener = Listener(context(ssl.PROTOCOL_TLS_SERVER, material, allowed), **wrap)
        self.addCleanup(listener.socket.close)
        return listener

    def ask(self, listener: Listener, material: Material, allowed=any_in_trust_domain, **wrap: object):
        """The answer, or the error, that a client gets; and the certificate it saw."""
        thread = threading.Thread(target=listener.serve_one)
        thread.start()
        try:
            with socket.create_connection(listener.address, 20) as plain:
                client = context(ssl.PROTOCOL_TLS_CLIENT, material, allowed)
                with client.wrap_socket(plain, **wrap) as secure:
                    secure.sendall(b"hello")
                    seen = secure.getpeercert()  # not to be had once the server has left
                    return secure.recv(100), seen
        except OSError as err:
            return err, None
        finally:
            thread.join()

    def test_authorize(self) -> None:
        for how, wrap in {"eager": {}, "lazy": {"do_handshake_on_connect": False}}.items():
            for who, read in {INTRUDER: [], CLIENT: [b"hello"]}.items():
                with self.subTest(handshake=how, caller=who):
                    listener = self.listen(self.ca.issue(SERVER), lambda peer: peer == CLIENT, **wrap)
                    self.ask(listener, self.ca.issue(who))
                    self.assertEqual(listener.read, read)
                    if not read:
                        self.assertIsInstance(listener.failed[0], PeerRefused)

    def test_client_sends_nothing_to_another_server(self) -> None:
        for how, wrap in {"eager": {}, "lazy": {"do_handshake_on_connect": False}}.items():
            for who, read in {INTRUDER: [], SERVER: [b"hello"]}.items():
                with self.subTest(handshake=how, server=who):
                    listener = self.listen(self.ca.issue(who), any_in_trust_domain)
                    answer, _ = self.ask(listener, self.ca.issue(CLIENT), lambda peer: peer == SERVER, **wrap)
                    self.assertEqual([text for text in listener.read if text], read)
                    self.assertIsInstance(answer, bytes if read else PeerRefused)

    def test_trust_domain_of_the_bundle(self) -> None:
        for who, read in {"spiffe://other.test/client": [], CLIENT: [b"hello"]}.items():
            with self.subTest(caller=who):
                listener = self.listen(self.ca.issue(SERVER), any_in_trust_domain)
                self.ask(listener, self.ca.issue(who))
                self.assertEqual(listener.read, read)

    def test_listener_follows_rotation(self) -> None:
        material = [self.ca.issue(SERVER)]
        listener = self.listen(lambda: material[-1], any_in_trust_domain)
        serials = []
        for _ in range(2):
            _, seen = self.ask(listener, self.ca.issue(CLIENT))
            serials.append(seen["serialNumber"])
            material.append(self.ca.issue(SERVER))
        self.assertNotEqual(serials[0], serials[1])

    def test_resumed_session_expires(self) -> None:
        for seconds, reads in {2: 1, 3600: 2}.items():
            with self.subTest(seconds=seconds):
                listener = self.listen(self.ca.issue(SERVER), any_in_trust_domain)
                self.resume(listener, self.ca.issue(CLIENT, seconds))
                self.assertEqual(len([text for text in listener.read if text]), reads)

    def resume(self, listener: Listener, material: Material) -> None:
        """Ask twice on one session, the second time after the shorter SVID's end."""
        inner = context(ssl.PROTOCOL_TLS_CLIENT, material, any_in_trust_domain)._current()
        session = None
        for pause in (0, 2.5):
            threading.Event().wait(pause)
            thread = threading.Thread(target=listener.serve_one)
            thread.start()
            try:
                with socket.create_connection(listener.address, 20) as plain:
                    with inner.wrap_socket(plain, session=session) as secure:
                        secure.sendall(b"hello")
                        secure.recv(100)
                        session = secure.session
                        self.assertEqual(secure.session_reused, pause > 0)
            except OSError:
                pass
            finally:
                thread.join()


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def test_authorize(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # refusals are not news
        ca = Authority()
        read: list = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            read.append(await reader.read(100))
            writer.write(b"seen")
            writer.close()

        server = await asyncio.start_server(
            serve, "127.0.0.1", 0,
            ssl=context(ssl.PROTOCOL_TLS_SERVER, ca.issue(SERVER), lambda peer: peer == CLIENT),
        )
        async with server:
            for who, expected in ((INTRUDER, []), (CLIENT, [b"hello"])):
                with self.subTest(caller=who):
                    await self.ask(server.sockets[0].getsockname(), ca.issue(who))
                    self.assertEqual(read, expected)

    async def ask(self, address: tuple, material: Material) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                *address, ssl=context(ssl.PROTOCOL_TLS_CLIENT, material, any_in_trust_domain), server_hostname=""
            )
            writer.write(b"hello")
            await reader.read(100)
            writer.close()
        except OSError:
            pass  # refused


if __name__ == "__main__":
    unittest.main()
