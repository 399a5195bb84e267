"""Verifies clients' chains with pyca/cryptography: PORT ANCHORS. A connection
sends a chain, PEM, leaf first, and gets the verdict."""

import socket
import sys

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

port, anchors = sys.argv[1:]
with open(anchors, "rb") as file:
    store = Store(x509.load_pem_x509_certificates(file.read()))


def decide(chain):
    if not chain:
        return "refused: no certificate"
    try:
        leaf, *others = x509.load_pem_x509_certificates(chain)
        PolicyBuilder().store(store).build_client_verifier().verify(leaf, others)
    except (VerificationError, ValueError) as refusal:
        return f"refused: {refusal}".replace("\n", " ")
    return "accepted"


def serve(connection):
    connection.settimeout(10)
    with connection.makefile("rb") as chain:
        verdict = decide(chain.read())
    connection.sendall(verdict.encode() + b"\n")


with socket.create_server(("127.0.0.1", int(port))) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                serve(connection)
            except OSError as gone:
                print("a client went away:", gone, flush=True)
