"""A workload in Python. Each function below is one story, run by name; what it
prints is one line of JSON, and a story that does not hold ends with an error."""

import asyncio
import hashlib
import json
import logging
import os
import ssl
import stat
import sys
import time
import warnings

import httpx

from authsec_sdk import PeerRefused, QuickStartSVID


def tell(**what):
    print(json.dumps(what), flush=True)


def refusal(error):
    """The PeerRefused among the causes of an error, or None."""
    while error is not None and not isinstance(error, PeerRefused):
        error = error.__cause__ or error.__context__
    return error


async def initialize(*socket_path):
    svid = await QuickStartSVID.initialize(*socket_path)
    assert svid is await QuickStartSVID.initialize() is await QuickStartSVID.get()
    tell(spiffe_id=svid.spiffe_id, certificate=svid.certificate, bundle=svid.trust_bundle)
    await svid.shutdown()


async def nobody(socket_path):
    """No agent, or no entry: an error in time, which says where it looked."""
    began = time.monotonic()
    try:
        await QuickStartSVID.initialize(socket_path=socket_path)
    except RuntimeError as err:
        tell(error=str(err), seconds=time.monotonic() - began)
        return
    raise SystemExit("initialize gave an identity")


async def tcp():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            await QuickStartSVID.initialize(socket_path="tcp://127.0.0.1:1")
        except RuntimeError:
            pass
    tell(warnings=[str(w.message) for w in seen])


async def get(url, authorize):
    """The caller's side, with or without refusal."""
    svid = await QuickStartSVID.initialize()
    context = svid.create_ssl_context_for_client(authorize=authorize)
    async with httpx.AsyncClient(verify=context) as client:
        try:
            response = await client.post(url, json={"secret": "must not reach a stranger"})
        except httpx.TransportError as err:
            tell(refused=str(refusal(err) or ""), error=repr(err))
            return
    leaf = svid.certificate.partition("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(leaf[0] + leaf[1])
    tell(status=response.status_code, body=response.json(), hash=hashlib.sha256(der).hexdigest())


async def authorizers(url, proxy_id):
    """Every way to say who may be talked to."""
    svid = await QuickStartSVID.initialize()

    async def reach(authorize):
        context = svid.create_ssl_context_for_client(authorize=authorize)
        async with httpx.AsyncClient(verify=context) as client:
            try:
                return (await client.get(url)).status_code
            except httpx.ConnectError as err:
                assert refusal(err), err
                return 0

    other = proxy_id + "-other"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        anybody = await reach(None)
    tell(
        list=await reach([other, proxy_id]),
        set=await reach({proxy_id}),
        function=await reach(lambda peer: peer.endswith("/agentauth-proxy")),
        other_list=await reach([other]),
        empty=await reach([]),
        no_function=await reach(lambda peer: False),
        prefix=await reach(proxy_id[:-1]),
        anybody=anybody,
        warned=[str(w.message) for w in seen if "authorize=" in str(w.message)],
    )


async def rotation(url, proxy_id):
    """One client, new connections, three certificates, no failed request."""
    svid = await QuickStartSVID.initialize()
    context = svid.create_ssl_context_for_client(authorize=proxy_id)
    limits = httpx.Limits(max_keepalive_connections=0)
    hashes, serials, requests, deadline = [], [], 0, time.monotonic() + 60
    async with httpx.AsyncClient(verify=context, limits=limits) as client:
        while len(hashes) < 3 and time.monotonic() < deadline:
            response = await client.get(url)
            assert response.status_code == 200, response
            requests += 1
            shown = response.json()["header"]["X-Forwarded-Client-Cert"][0]
            digest = dict(part.split("=", 1) for part in shown.split(";"))["Hash"]
            if digest not in hashes:
                hashes.append(digest)
                serials.append(str(svid.serial_number))
    tell(hashes=hashes, serials=serials, requests=requests)


async def serve(authorize):
    """The callee's side, until standard input ends."""
    svid = await QuickStartSVID.initialize()
    logging.basicConfig(level=logging.DEBUG)  # asyncio tells why a handshake failed
    asyncio.get_running_loop().set_debug(True)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    context = svid.create_ssl_context_for_server(authorize=authorize)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        tell(port=server.sockets[0].getsockname()[1])
        await asyncio.to_thread(sys.stdin.read)


async def jwt():
    svid = await QuickStartSVID.initialize()
    token = await svid.fetch_jwt_svid(["ledger", "payments"])
    assert await svid.validate_jwt_svid(token, "other") is None
    head, payload, signature = token.split(".")
    forged = ".".join([head, payload, signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]])
    assert await svid.validate_jwt_svid(forged, "ledger") is None
    assert await svid.validate_jwt_svid("no token", "ledger") is None
    tell(**await svid.validate_jwt_svid(token, "payments"))


async def files(*cert_dir):
    svid = await QuickStartSVID.initialize(cert_dir=cert_dir[0] if cert_dir else None)
    paths = svid.get_ssl_paths()
    folder = os.path.dirname(paths[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile=paths[1], keyfile=paths[0])  # they belong together
    context.load_verify_locations(cafile=paths[2])
    before = open(paths[1]).read()
    deadline = time.monotonic() + 30
    names = {"key.pem", "cert.pem", "bundle.pem", "svid.key", "svid.crt", "ca.crt"}
    # Renewed, and not just being renewed.
    while (open(paths[1]).read() == before or set(os.listdir(folder)) != names) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    tell(
        paths=paths,
        modes={name: oct(stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode)) for name in sorted(os.listdir(folder))},
        folder=oct(stat.S_IMODE(os.stat(folder).st_mode)),
        renewed=open(paths[1]).read() != before,
    )


async def memory_only(url, proxy_id):
    """Everything but get_ssl_paths, with an eye on every file opened to write."""
    written = []

    def look(event, args):
        if event != "open" or not isinstance(args[0], (str, bytes)):
            return
        path, mode, flags = args
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            written.append(str(path))

    sys.addaudithook(look)
    svid = await QuickStartSVID.initialize()
    async with httpx.AsyncClient(verify=svid.create_ssl_context_for_client(authorize=proxy_id)) as client:
        assert (await client.get(url)).status_code == 200
    svid.create_ssl_context_for_server(authorize=proxy_id)._current()
    await svid.fetch_jwt_svid(["ledger"])
    assert svid.private_key.startswith("-----BEGIN PRIVATE KEY-----")
    before = list(written)
    open(os.path.join(os.getcwd(), "twin"), "w").close()  # the eye sees
    tell(written=before, twin=written[len(before):], fds=[os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")])


async def sample(text, url):
    """Lines of a document, in an async function as its reader has one."""
    scope = {}
    exec("async def run():\n" + "".join("    " + line + "\n" for line in text.splitlines()) + "    return context", scope)
    async with httpx.AsyncClient(verify=await scope["run"]()) as client:
        tell(status=(await client.get(url)).status_code)


async def reconnect(url, proxy_id):
    """Says hello, lets the agent be killed and started again, and goes on."""
    svid = await QuickStartSVID.initialize()
    before = svid.serial_number
    tell(serial=str(before))
    await asyncio.to_thread(sys.stdin.readline)
    deadline = time.monotonic() + 60
    while svid.serial_number == before and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    async with httpx.AsyncClient(verify=svid.create_ssl_context_for_client(authorize=proxy_id)) as client:
        tell(serial=str(svid.serial_number), status=(await client.get(url)).status_code)


asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
