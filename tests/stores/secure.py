"""TLS with a certificate authority of one's own: images by https, and S3 by https.

The authority is trusted because `SSL_CERT_FILE` names it. What has a certificate of another authority, for another host or of
another time is refused with a reason that says so.
"""

import contextlib
import dataclasses
import datetime
import http.server
import ipaddress
import pathlib
import ssl
import threading

import pyarrow
import pyarrow.parquet
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
# What the sentence in quarantine says of each.
WRONG = {"stranger": "UnknownIssuer", "other-host": "not valid for name", "expired": "expired"}


@dataclasses.dataclass
class Certificate:
    """Files: the certificate of a server, its key, and the authority's own."""

    certificate: pathlib.Path
    key: pathlib.Path
    authority: pathlib.Path


class Authority:
    """Signs certificates; `file` is its own."""

    def __init__(self, folder: pathlib.Path, name: str):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        own = self.certificate(self.name, self.key, NOW + 30 * DAY, x509.BasicConstraints(ca=True, path_length=None))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def certificate(self, subject: x509.Name, key, until: datetime.datetime, *extensions) -> x509.Certificate:
        builder = x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number(), NOW - 9 * DAY, until)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def of_host(self, label: str, host: str = "127.0.0.1", until: datetime.datetime = NOW + DAY) -> Certificate:
        """A certificate for a host."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, label)])
        usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
        signed = self.certificate(subject, key, until, x509.SubjectAlternativeName([name]), usage)
        files = Certificate(self.folder / f"{label}.crt", self.folder / f"{label}.key", self.file)
        files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return files


class Images:
    """`with Images(certificate, image) as server`: a web server with a certificate, which answers every path with the image."""

    def __init__(self, files: Certificate, image: bytes):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(image)))
                self.end_headers()
                self.wfile.write(image)

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def images_by_https(milled, folder: pathlib.Path, ours: Authority, image: bytes):
    """An image of a server that is trusted is kept; the others' rows say why they have none."""
    theirs = Authority(folder, "theirs")
    servers = {
        "trusted": Images(ours.of_host("trusted"), image),
        "stranger": Images(theirs.of_host("stranger"), image),
        "other-host": Images(ours.of_host("other-host", "images.example"), image),
        "expired": Images(ours.of_host("expired", until=NOW - DAY), image),
    }
    data = folder / "urls"
    data.mkdir()
    table = {"url": [f"https://{server.host}/{key}" for key, server in servers.items()]}
    table |= {"caption": ["a red square"] * len(servers), "key": list(servers)}
    pyarrow.parquet.write_table(pyarrow.table(table), data / "0.parquet")
    allowed = ", ".join(f'"{server.host}"' for server in servers.values())
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"""
name: images by https
output: {folder}/fetched
datasets:
  - {{ name: urls, path: {data}, images: urls, capfilt: false, columns: {{ image: url, caption: caption, key: key }} }}
fetch: {{ allow_private_hosts: [{allowed}], retries: 0 }}
""")
    milled.environment["SSL_CERT_FILE"] = str(ours.file)
    with contextlib.ExitStack() as running:
        for server in servers.values():
            running.enter_context(server)
        ended = milled("run", str(recipe))
    assert ended.returncode == 0, f"{ended.stderr}\n{milled.logs()}"

    def rows(part: str) -> list[dict]:
        files = (folder / "fetched" / part).glob("*.parquet")
        return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]

    assert [row["key"] for row in rows("data")] == ["trusted"], rows("data")
    refused = {row["key"]: (row["reason"], row["detail"]) for row in rows("quarantine")}
    assert set(refused) == set(WRONG), refused
    for key, said in WRONG.items():
        reason, detail = refused[key]
        assert reason == "fetch_certificate" and said.lower() in detail.lower(), f"{key}: {reason}: {detail}"
