"""A local S3 server (moto) behind a proxy that misbehaves on request, for all tests of the object store."""

import base64
import hashlib
import http.client
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("obs", reason="no esdk-obs-python: pip install -e .[obs]")
moto_server = pytest.importorskip("moto.server", reason="no moto: pip install -e .[dev]")
s3_models = pytest.importorskip("moto.s3.models")
boto3 = pytest.importorskip("boto3")

ACCOUNT = "123456789012"  # moto's own
ACCESS, SECRET = "AKFORTESTSONLY1", "SKFORTESTSONLYSKFORTESTSONLY1"


class FaultyProxy(BaseHTTPRequestHandler):
    """Forwards to moto; `server.faults` (drop or a status) meet the next part uploads first.

    `put_faults` (statuses) meet other uploads, and the next `cuts` downloads end after `cut_beyond` bytes.
    """

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state = self.server
        # Three rules of a real server that moto does not keep.
        if not self.allowed():
            return self.refuse(403, "AccessDenied")
        if "partNumber" in self.path and state.damage:
            body = body[:-1] + bytes([body[-1] ^ 1])
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        if state.checks_md5 and self.headers.get("Content-MD5", md5) != md5:
            return self.refuse(400, "BadDigest")
        if "partNumber" in self.path:
            time.sleep(state.delay)
            with state.lock:
                fault = state.faults.pop(0) if state.faults else None
                state.parts += fault is None
            if fault == "drop":
                self.connection.close()
                return None
            if fault:
                return self.refuse(fault, "Injected")
        if self.command == "PUT" and "partNumber" not in self.path and state.put_faults:
            return self.refuse(state.put_faults.pop(0), "Injected")
        backend = http.client.HTTPConnection(*state.backend)
        backend.request(self.command, self.path, body, dict(self.headers))
        answer = backend.getresponse()
        content = answer.read()
        if self.command == "GET" and len(content) > state.cut_beyond and state.cuts > 0:
            state.cuts -= 1
            self.answer(answer.status, content, answer.getheaders(), cut=state.cut_beyond)
            self.connection.close()
            return None
        self.answer(answer.status, content, answer.getheaders())
        return None

    def allowed(self):
        authorization = self.headers.get("Authorization")
        if authorization is not None:
            return ACCESS in authorization
        if "apiversion" in self.path:  # the SDK asks without credentials what the server speaks
            return True
        bucket, _, key = urllib.parse.unquote(self.path).lstrip("/").partition("/")
        acl = s3_models.s3_backends[ACCOUNT]["aws"].get_object(bucket, key).acl
        return acl is not None and acl.public_read

    def refuse(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def answer(self, status, body, headers=(), cut=None):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, *arguments):
        pass

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any


@pytest.fixture(scope="module")
def proxy():
    moto = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), FaultyProxy)
    server.backend, server.lock = moto.get_host_and_port(), threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    moto.stop()


@pytest.fixture
def bucket(proxy, monkeypatch, request, tmp_path_factory):
    """A new bucket, the environment of a user, and a proxy without faults."""
    proxy.faults, proxy.parts, proxy.delay, proxy.damage, proxy.checks_md5 = [], 0, 0.0, False, True
    proxy.put_faults, proxy.cuts, proxy.cut_beyond = [], 0, 0
    name = "b" + hashlib.md5(request.node.name.encode()).hexdigest()
    host, port = proxy.backend
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
                          aws_access_key_id="a", aws_secret_access_key="b")
    client.create_bucket(Bucket=name)
    monkeypatch.setenv("OBS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("OBS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("OBS_SERVER", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    client.name = name
    return client
