"""Stand-ins for the HTTP interfaces of ModelScope, Modelers and OpenXLab on 127.0.0.1, as far as uploads go.

Each keeps repositories in memory, wants the token `right`, and breaks connections on request.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import ssl
import subprocess
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "right-token-0123456789"



class Hub:
    """State and knobs of a stand-in.

    Attributes:
        repos: Name -> {"private": bool, "files": {name: bytes}}.
        broken: Requests (METHOD and path) that match this expression lose their connection.
        spared: So many of them do not, the first ones.
        spoil: Name -> bytes that the hub holds in place of what it was sent.
        requests: METHOD and path of every request.
        sent: Bytes of the bodies that held files.
    """

    def __init__(self):
        self.repos, self.blobs, self.requests, self.spoil = {}, {}, [], {}
        self.broken, self.spared, self.sent = None, 0, 0

    def files(self, repo):
        return self.repos[repo]["files"]

    def store(self, repo, name, content):
        self.files(repo)[name] = self.spoil.get(name, content)

    def answer(self, method, path, query, headers, body):
        """Status, body (bytes, or what becomes JSON), headers."""
        raise NotImplementedError

    def is_in(self, headers):
        return headers.get("Authorization") == f"Bearer {TOKEN}"


class ModelScopeHub(Hub):
    def answer(self, method, path, query, headers, body):
        if method == "PUT" and (found := re.fullmatch(r"/blob/(\w+)", path)):
            self.blobs[found[1]] = body
            self.sent += len(body)
            return 200, {"Code": 200}, {}
        if not self.is_in(headers):
            message = f"{headers.get('Authorization')} is not valid"  # a server that repeats it
            return 401, {"Code": 10010205001, "Message": message, "Success": False}, {}
        if found := re.fullmatch(r"/(?:openapi|api)/v1/models/(\w+/\w+)", path):
            repo = self.repos.get(found[1])
            return (200, {"data": {"id": found[1], "private": repo["private"]}}, {}) if repo else (
                404, {"Code": 404, "Message": "no such model"}, {})
        data = json.loads(body or b"{}")
        if path == "/api/v1/models":
            name = f"{data['Path']}/{data['Name']}"
            if name in self.repos:
                return 400, {"Code": 400, "Message": "exists", "Success": False}, {}
            self.repos[name] = {"private": data["Visibility"] == 1, "files": {}, "license": data["License"]}
            return 200, {"Code": 200, "Data": {}, "Success": True}, {}
        if found := re.fullmatch(r"/api/v1/models/(\w+/\w+)/repo/files", path):
            return 200, {"Code": 200, "Data": {"Files": [
                {"Path": name, "Size": len(content), "Type": "blob",
                 "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in self.files(found[1]).items()]}}, {}
        repo = re.match(r"/api/v1/repos/models/(\w+/\w+)/", path)[1]
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"Code": 200, "Data": {"objects": [
                {"oid": row["oid"], "actions": {"upload": {"href": f"{self.address}/blob/{row['oid']}"}}}
                for row in data["objects"] if row["oid"] not in self.blobs]}}, {}
        for row in data["actions"]:
            content = self.blobs[row["sha256"]] if row["type"] == "lfs" else base64.b64decode(row["content"])
            self.sent += 0 if row["type"] == "lfs" else len(content)
            self.store(repo, row["path"], content)
        return 200, {"Code": 200, "Success": True, "Data": {}}, {}


class ModelersHub(Hub):
    def answer(self, method, path, query, headers, body):
        if method == "PUT":
            self.blobs[path.split("/")[2]] = body
            self.sent += len(body)
            return 200, {}, {"ETag": '"e"'}
        data = json.loads(body or b"{}")
        if path == "/api/v1/file/license_check":
            return 200, {"data": True}, {}
        if path.startswith("/verify/"):
            return 200, {}, {}
        if not self.is_in(headers):
            return 401, {"code": f"{headers.get('Authorization')} is not valid"}, {}
        if path == "/api/v1/model":
            self.repos[f"{data['owner']}/{data['name']}"] = {"private": data["visibility"] == "private",
                                                             "files": {}, "license": data["license"]}
            return 201, {"data": {}}, {}
        repo = re.match(r"/api/v1/(?:model|file)/(\w+/\w+)", path)[1]
        if repo not in self.repos:
            return 404, {"code": "repo_not_found"}, {}
        if path.startswith("/api/v1/model/"):
            state = "private" if self.repos[repo]["private"] else "public"
            return 200, {"data": {"id": repo, "visibility": state}}, {}
        if method == "GET":
            return 200, {"data": {"tree": [self.entry(*pair) for pair in self.files(repo).items()]}}, {}
        if path.endswith("/pre_upload"):
            return 200, {"data": {"files": [
                {"path": row["path"], "type": "lfs" if row["path"].endswith(".safetensors") else "regular"}
                for row in data["files"]]}}, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"data": {"objects": [
                {"oid": row["oid"], "size": row["size"], "actions": {
                    "parts": [{"index": 1, "size": row["size"], "href": f"{self.address}/part/{row['oid']}"}],
                    "verify": {"href": f"{self.address}/verify/x", "params": {"upload_id": "u"}}}}
                for row in data["objects"]]}}, {}
        for row in data["files"]:
            content = base64.b64decode(row["content"])
            is_pointer = content.startswith(b"version https")
            pointer = re.search(rb"oid sha256:(\w+)", content) if is_pointer else None
            self.sent += 0 if pointer else len(content)
            self.store(repo, row["path"], self.blobs[pointer[1].decode()] if pointer else content)
        return 200, {"data": [{"commit_url": "u", "commit_oid": "o"}]}, {}

    @staticmethod
    def entry(name, content):
        is_lfs = name.endswith(".safetensors")
        return {"type": "file", "path": name, "size": len(content), "is_lfs": is_lfs,
                "etag": hashlib.sha256(content).hexdigest() if is_lfs else "0" * 40}


class OpenXLabHub(Hub):
    """Its keys are TOKEN's twice; it lists a file as soon as it is announced, as the real one does."""

    def __init__(self):
        super().__init__()
        self.parts, self.uploads = {}, 0

    def answer(self, method, path, query, headers, body):
        if path.startswith("/bucket/"):
            return self.object(method, path.removeprefix("/bucket/"), query, body)
        data = json.loads(body or b"{}")
        if path == "/auth":
            return self.good({"nonce": "n", "algorithm": "HmacSHA256"}) if data["ak"] == TOKEN else self.bad()
        if path == "/getJwt":
            late = "2999-01-01 00:00:00"
            return self.good({"jwt": "j", "expiration": late, "sso_uid": "u", "refresh_token": "r",
                              "refresh_expiration": late})
        if path.endswith("/collect"):
            return self.good({})
        if headers.get("Authorization") != "j":
            return self.bad()
        name = data.get("repoName") or data.get("name")
        if path.endswith("/createModelRepository"):
            self.repos[name] = {"private": not data["publicStatus"], "files": {}, "license": data["license"],
                                "models": {row["name"]: row["weightName"] for row in data["models"]}}
        elif path.endswith("/getUploadSignature"):
            return self.good({"accessKeyId": "a", "accessKeySecret": "b", "stsToken": "c", "bucket": "bucket",
                              "object": data["fileName"], "callback": "", "callbackVar": ""})
        elif name not in self.repos:
            return self.bad()
        models = self.repos[name]["models"]
        for row in data.get("models") or ():
            models[row["name"]] = row["weightName"]
        return self.good({"models": [{"name": key, "weightName": value} for key, value in models.items()],
                          "repositoryId": 1, "uid": "u", "objects": [
                              {"modelName": key, "modelId": 1, "weightName": value,
                               "objectName": f"{name}/{value}"} for key, value in models.items()]})

    def object(self, method, key, query, body):
        repo, _, name = key.partition("/")
        if method == "POST" and "uploads" in query:
            self.uploads += 1
            return 200, (f"<R><Bucket>bucket</Bucket><Key>{key}</Key><UploadId>{self.uploads}</UploadId></R>"
                         ).encode(), {}
        parts = self.parts.setdefault(query["uploadId"][0], {})
        if method == "PUT":
            parts[int(query["partNumber"][0])] = body
            self.sent += len(body)
            return 200, b"", {"ETag": '"e"'}
        if method == "GET":
            rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>e</ETag><Size>{len(part)}</Size>"
                           "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Part>"
                           for number, part in parts.items())
            return 200, (f"<R><NextPartNumberMarker>0</NextPartNumberMarker>"
                         f"<MaxParts>1000</MaxParts><IsTruncated>false</IsTruncated>{rows}</R>").encode(), {}
        self.store(repo, name, b"".join(parts[number] for number in sorted(parts)))
        return 200, b"<R/>", {"ETag": '"e"'}

    @staticmethod
    def good(data):
        inner = {"msgCode": "10000", "msg": "ok", "traceId": "t", "data": data}
        return 200, {"msgCode": "10000", "msg": "ok", "data": inner}, {}

    @staticmethod
    def bad():
        inner = {"msgCode": "A1", "msg": "no such thing", "traceId": "t", "data": None}
        return 200, {"msgCode": "10000", "msg": "ok", "data": inner}, {}


@contextlib.contextmanager
def served(hub, certificate=None):
    """Serves a hub and sets its address; encrypted with a certificate file that holds the key too."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self):
            address = urllib.parse.urlsplit(self.path)
            path = urllib.parse.unquote(address.path)
            hub.requests.append(f"{self.command} {path}")
            is_hit = hub.broken and re.search(hub.broken, hub.requests[-1])
            hub.spared -= bool(is_hit)
            if is_hit and hub.spared < 0:
                self.close_connection = True
                self.connection.close()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content, headers = hub.answer(
                self.command, path, urllib.parse.parse_qs(address.query, keep_blank_values=True),
                self.headers, body)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(content)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = respond

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hub.address = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def make_certificate(path):
    """A certificate for 127.0.0.1 with its key, in one file."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                    path.with_suffix(".k"), "-out", path.with_suffix(".c")], check=True, capture_output=True)
    path.write_bytes(path.with_suffix(".k").read_bytes() + path.with_suffix(".c").read_bytes())
    return path


# Runs the real package with the addresses of a stand-in: it has them as constants, copied into its modules.
OPENXLAB_WRAPPER = """#!{python}
import sys
from openxlab.cli import main
from openxlab.model.common import constants
from openxlab.xlab.handler import user_token
old = {{constants.endpoint: "{address}", constants.oss_endpoint: "{address}"}}
old[constants.oss_bucket_domain] = old[constants.oss_endpoint_domain] = "127.0.0.1"
for module in [module for name, module in sys.modules.items() if name.startswith("openxlab")]:
    for name, value in list(vars(module).items()):
        if isinstance(value, str) and value in old:
            setattr(module, name, old[value])
user_token.AUTH_CLIENT.endpoint = "{address}/"
sys.exit(main())
"""
