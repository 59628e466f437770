"""A proxy before a store that fails by a script: throttling, server errors, lost connections, slow and torn answers."""

import http.client
import http.server
import struct
import socket
import threading
import time

# What becomes of the first times that the same is asked; then it is answered.
ANY = ["slow down", "error", "unanswered", "slow"]
FAULTS = {"GET": ["broken body", *ANY], "PUT": ["torn upload", *ANY]}
TIMES = 2
SLOW_S = 0.2


class Faulty:
    """`with Faulty(store.url) as proxy`: `proxy.url` is the store's, but that every request fails twice at first."""

    def __init__(self, upstream: str):
        self.upstream = upstream.removeprefix("http://")
        self.lock, self.asked, self.done = threading.Lock(), {}, set()

    def __enter__(self):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = lambda self: proxy.handle(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fault(self, request) -> str | None:
        """For everything that is asked two faults; which ones goes by turns."""
        what, faults = (request.path, request.headers.get("range")), FAULTS.get(request.command, ANY)
        with self.lock:
            asked = self.asked.setdefault(request.command, {})
            turn, times = asked.get(what, (len(asked), 0))
            asked[what] = turn, times + 1
            fault = faults[(turn + times) % len(faults)] if times < TIMES else None
            self.done.add(fault)
        return fault

    def handle(self, request):
        sent = request.rfile.read(int(request.headers.get("content-length") or 0))
        fault = self.fault(request)
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault in ("slow down", "error"):
            code, word = (503, "SlowDown") if fault == "slow down" else (500, "InternalError")
            body = f"<Error><Code>{word}</Code><Message>by the script</Message></Error>".encode()
            return self.answer(request, code, {"content-type": "application/xml"}, body)
        if fault == "torn upload":
            # What had arrived of it is of no use to anybody.
            return self.reset(request)
        status, headers, body = self.ask(request, sent)
        if fault == "unanswered":
            return self.reset(request)
        if fault == "broken body" and len(body) > 1:
            self.answer(request, status, headers, body, len(body) // 2)
            return self.reset(request)
        self.answer(request, status, headers, body)

    def ask(self, request, sent: bytes) -> tuple[int, dict, bytes]:
        upstream = http.client.HTTPConnection(self.upstream, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        upstream.request(request.command, request.path, body=sent, headers=headers | {"Connection": "close"})
        reply = upstream.getresponse()
        body = reply.read()
        kept = {name: value for name, value in reply.getheaders() if name.lower() not in ("transfer-encoding", "connection")}
        return reply.status, kept, body

    def answer(self, request, status: int, headers: dict, body: bytes, sent_bytes: int | None = None):
        request.send_response_only(status)
        if request.command != "HEAD":
            headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body[:sent_bytes])
            request.wfile.flush()

    def reset(self, request):
        """The connection is lost, not closed."""
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close_connection = True
        request.connection.close()
