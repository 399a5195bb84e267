"""Serves TLS 1.3 and demands client certificates: PORT CERTIFICATE KEY ANCHORS."""

import socket
import ssl
import sys

port, certificate, key, anchors = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(certificate, key)
context.load_verify_locations(anchors)


def serve(connection, peer):
    connection.settimeout(10)
    try:
        tls = context.wrap_socket(connection, server_side=True)
    except ssl.SSLError as refusal:
        print(peer, "refused:", refusal, flush=True)
        return
    with tls:
        tls.recv(4096)
        tls.sendall(b"accepted\n")


with socket.create_server(("127.0.0.1", int(port))) as listener:
    while True:
        connection, (_, peer) = listener.accept()
        with connection:
            try:
                serve(connection, peer)
            except OSError as gone:
                print("a client went away:", gone, flush=True)
