"""Uploads a file of the shape of five GB (sparse) and reports MB/s, memory, and what a resume sends again.

    python benchmarks/upload_sparse.py --gigabytes 5

The server is part of this script and runs on 127.0.0.1: it answers as S3 does but keeps only the MD5 of
each part, so the figures are those of the client, not of a network.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import resource
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tqdm import tqdm

from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.storage import multipart, sending
from research_internlm.storage.obs import ObjectStore

FAIL = 403  # not retried, so the first attempt ends at once


class DigestServer(BaseHTTPRequestHandler):
    """Multipart uploads of one object; `server.refuse_after` parts it answers 403 once."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        state = self.server
        if state.size is None and urlsplit(self.path).path.count("/") > 1:
            return self.reply(404)
        return self.reply(200, length=state.size or 0, headers={
            "ETag": '"done"', "x-amz-meta-sha256": state.sha256 or ""})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "uploads" in self.path:
            self.server.sha256 = self.headers.get("x-amz-meta-sha256")
            return self.reply(200, "<InitiateMultipartUploadResult><UploadId>u</UploadId>"
                              "</InitiateMultipartUploadResult>")
        numbers = map(int, re.findall(rb"<PartNumber>(\d+)<", body))
        self.server.size = sum(self.server.parts[number][0] for number in numbers)
        return self.reply(200, "<CompleteMultipartUploadResult><ETag>done</ETag>"
                          "</CompleteMultipartUploadResult>")

    def do_PUT(self):
        digest, length = hashlib.md5(), int(self.headers["Content-Length"])
        for start in range(0, length, 1 << 20):
            digest.update(self.rfile.read(min(1 << 20, length - start)))
        state = self.server
        with state.lock:
            if state.refuse_after is not None and len(state.parts) >= state.refuse_after:
                return self.reply(FAIL)
            if base64.b64encode(digest.digest()).decode() != self.headers["Content-MD5"]:
                return self.reply(400)
            number = int(parse_qs(urlsplit(self.path).query)["partNumber"][0])
            state.parts[number] = length, digest.hexdigest()
        return self.reply(200, headers={"ETag": f'"{digest.hexdigest()}"'})

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "uploads" in query:
            pending = ("<Upload><Key>big.ckpt</Key><UploadId>u</UploadId><Initiated>2026-01-01T00:00:00.000Z"
                       "</Initiated></Upload>") if self.server.parts else ""
            return self.reply(200, f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{pending}"
                              "</ListMultipartUploadsResult>")
        parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{md5}</ETag><Size>{size}</Size></Part>"
                        for number, (size, md5) in sorted(self.server.parts.items()))
        return self.reply(200, f"<ListPartsResult><IsTruncated>false</IsTruncated>{parts}</ListPartsResult>")

    def reply(self, status, body="", length=None, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments):
        pass


def start_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), DigestServer)
    server.lock, server.parts = threading.Lock(), {}
    server.size = server.sha256 = server.refuse_after = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def make_file(path, size, part_size):
    """A sparse file whose parts differ, so that a resume can tell them apart."""
    with open(path, "wb") as file:
        file.truncate(size)
        for start in range(0, size, part_size):
            file.seek(start)
            file.write(start.to_bytes(8, "little"))


def attempt(store, item, part_size, parallel):
    """Uploads once; returns bytes sent and seconds."""
    start = time.perf_counter()
    with tqdm(total=item.size, unit="B", unit_scale=True, disable=None) as bar:
        _, sent = sending.upload_item(store, item, part_size, parallel, False, bar)
    return sent, time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0,
                        help="size of the file (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=4, help="parts sent at once (default: %(default)s)")
    arguments = parser.parse_args(argv)
    os.environ.update(OBS_ACCESS_KEY_ID="benchmark", OBS_SECRET_ACCESS_KEY="benchmark")
    server = start_server()
    store = ObjectStore("bucket", f"http://127.0.0.1:{server.server_port}")
    part_size = 16 * multipart.MIB
    with tempfile.TemporaryDirectory() as folder:
        make_file(Path(folder, "big.ckpt"), int(arguments.gigabytes * 1e9), part_size)
        [item], _ = sending.items_of(Path(folder, "big.ckpt"), "")
        parts = len(multipart.part_ranges(item.size, part_size))
        whole = attempt(store, item, part_size, arguments.parallel)
        server.parts.clear()
        server.size, server.refuse_after = None, parts // 2
        try:
            attempt(store, item, part_size, arguments.parallel)
        except ToolkitError as error:
            print(f"interrupted at {len(server.parts)} of {parts} parts: {error}")
        server.refuse_after = None
        resumed = attempt(store, item, part_size, arguments.parallel)
    print("| upload | size, GB | sent, GB | parts | seconds | MB/s of the file |\n|---|---|---|---|---|---|")
    for name, (sent, seconds) in (("whole", whole), ("resumed at half", resumed)):
        print(f"| {name} | {item.size / 1e9:.2f} | {sent / 1e9:.2f} | {parts} | {seconds:.1f} | "
              f"{item.size / seconds / 1e6:.0f} |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory, server included: {memory:.0f} MiB")
    return 0


if __name__ == "__main__":
    run_main(main)
