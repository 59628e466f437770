"""A double of Google Cloud Storage's XML API, as much of it as `object_store` asks for; a process of its own.

The emulators that the registries have (fake-gcs-server, gcp-storage-emulator) know the JSON API, and of the XML API not what
writes. Listings come in pages of a few objects, and who shows no token is refused.
"""

import email.utils
import hashlib
import http.server
import threading
import time
import urllib.parse
import xml.etree.ElementTree as tree
from xml.sax.saxutils import escape

TOKEN = "token-of-the-test"
PAGE = 3


class Objects:
    """Objects by `/bucket/name`, and uploads in parts by their ids."""

    def __init__(self):
        self.lock, self.objects, self.uploads = threading.RLock(), {}, {}

    def put(self, path: str, content: bytes):
        generation = str(time.time_ns())
        self.objects[path] = (content, f'"{hashlib.md5(content).hexdigest()}"', generation, time.time())
        return self.objects[path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = Objects()

    def log_message(self, *_):
        pass

    def handle_one(self):
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, query = self.path.partition("?")
        path, query = urllib.parse.unquote(path), dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        with self.store.lock:
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                return self.answer(401, error("AuthenticationRequired"))
            bucket = path.strip("/").split("/")[0]
            if bucket != "quern":
                return self.answer(404, error("NoSuchBucket"))
            if self.command in ("GET", "HEAD"):
                return self.list(bucket, query) if path.strip("/") == bucket else self.get(path)
            if self.command == "POST":
                return self.begin(path) if "uploads" in query else self.complete(path, query["uploadId"], content)
            if self.command == "DELETE":
                if "uploadId" in query:
                    self.store.uploads.pop(query["uploadId"], None)
                    return self.answer(204)
                return self.answer(204 if self.store.objects.pop(path, None) else 404, b"")
            if "uploadId" in query:
                self.store.uploads[query["uploadId"]][int(query["partNumber"])] = content
                return self.answer(200, headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
            if self.headers.get("x-goog-if-generation-match") == "0" and path in self.store.objects:
                return self.answer(412, error("PreconditionFailed"))
            _, etag, generation, _ = self.store.put(path, content)
            self.answer(200, headers={"ETag": etag, "x-goog-generation": generation})

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def get(self, path: str):
        if path not in self.store.objects:
            return self.answer(404, error("NoSuchKey"))
        content, etag, generation, at = self.store.objects[path]
        headers = {"ETag": etag, "x-goog-generation": generation, "Last-Modified": email.utils.formatdate(at, usegmt=True)}
        asked = self.headers.get("range", "").removeprefix("bytes=")
        if not asked:
            return self.answer(200, content, headers)
        first, _, last = asked.partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        self.answer(206, content[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})

    def list(self, bucket: str, query: dict):
        below = f"/{bucket}/"
        names = sorted(path.removeprefix(below) for path in self.store.objects)
        names = [name for name in names if name.startswith(query.get("prefix", "")) and name > query.get("continuation-token", "")]
        page, more = names[:PAGE], names[PAGE:]
        text = f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><Name>{bucket}</Name>"
        for name in page:
            content, etag, _, at = self.store.objects[below + name]
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
            text += f"<Contents><Key>{escape(name)}</Key><LastModified>{when}</LastModified>"
            text += f"<ETag>{escape(etag)}</ETag><Size>{len(content)}</Size></Contents>"
        if more:
            text += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        self.answer(200, f"{text}<IsTruncated>{str(bool(more)).lower()}</IsTruncated></ListBucketResult>".encode())

    def begin(self, path: str):
        upload = str(time.time_ns())
        self.store.uploads[upload] = {}
        text = f"<InitiateMultipartUploadResult><Key>{escape(path)}</Key><UploadId>{upload}</UploadId>"
        self.answer(200, f"{text}</InitiateMultipartUploadResult>".encode())

    def complete(self, path: str, upload: str, content: bytes):
        parts = self.store.uploads.pop(upload, None)
        if parts is None:
            return self.answer(404, error("NoSuchUpload"))
        wanted = [int(number.text) for number in tree.fromstring(content).iter() if number.tag.endswith("PartNumber")]
        _, etag, generation, _ = self.store.put(path, b"".join(parts[number] for number in wanted))
        text = f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
        self.answer(200, text.encode(), {"x-goog-generation": generation})

    def answer(self, status: int, content: bytes = b"", headers: dict = {}):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>said by the double</Message></Error>".encode()


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
