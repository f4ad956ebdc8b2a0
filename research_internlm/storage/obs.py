"""One bucket of Huawei OBS (or of an S3-compatible server) through Huawei's own SDK, esdk-obs-python.

Credentials come only from the SDK's own variables OBS_ACCESS_KEY_ID, OBS_SECRET_ACCESS_KEY and
OBS_SECURITY_TOKEN (temporary keys); they are handed to the SDK and nowhere else. The SDK retries dropped
connections and 5xx answers; what it gives up on, and every 4xx, becomes a ToolkitError with the status
and the server's error code, never with the request's headers.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm.shared.errors import ToolkitError

KEY_VARIABLES = ("OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY")
TOKEN_VARIABLE = "OBS_SECURITY_TOKEN"
SERVER_VARIABLE = "OBS_SERVER"
RETRIES = 5  # the SDK waits 0.2, 0.4, ... seconds between them
TIMEOUT_SECONDS = 60
_IMPATIENT_SECONDS = 10
_READ_BYTES = 1 << 20
_SHA256_HEADERS = ("sha256", "x-obs-meta-sha256", "x-amz-meta-sha256")  # the SDK strips the prefix it knows
_URL = re.compile(r"obs://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
_HINTS = {
    403: f"check {', '.join(KEY_VARIABLES)} and the bucket's permissions",
    404: "check the bucket's name and that the endpoint is that of its region",
}


def parse_url(url: str) -> tuple[str, str]:
    """Splits obs://bucket/prefix into bucket and prefix (without slashes at its ends).

    Raises:
        ToolkitError: It is not of that form.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ToolkitError(f"{url!r} is not of the form obs://bucket/prefix")
    return match["bucket"], (match["prefix"] or "").strip("/")


def parse_endpoint(server: str, bucket: str) -> urllib.parse.SplitResult:
    """Checks the address of a region's OBS.

    Args:
        server: As the user gave it; https where it names no scheme.
        bucket: The bucket, which must not be part of it: the SDK puts it in front.

    Raises:
        ToolkitError: Not an http(s) address, or it holds credentials, a path, or the bucket's name.
    """
    try:
        parts = urllib.parse.urlsplit(server if "://" in server else f"https://{server}")
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, named = urllib.parse.urlsplit(""), False
    if "@" in server:
        raise ToolkitError("the endpoint holds a user name or password before '@': give the address alone; "
                           f"credentials come from {', '.join(KEY_VARIABLES)} only")
    if parts.scheme not in ("http", "https") or not named:
        raise ToolkitError(f"the endpoint {server!r} is not an address such as "
                           "https://obs.cn-north-4.myhuaweicloud.com")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ToolkitError(f"the endpoint {server!r} has more than a host: give {parts.scheme}://"
                           f"{parts.netloc}, and the path as obs://{bucket}/PREFIX")
    label, _, region = parts.netloc.partition(".")
    if label == bucket != "obs" and region:
        raise ToolkitError(f"the endpoint {server!r} begins with the bucket's name: give {parts.scheme}://"
                           f"{region}")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        print(f"warning: the endpoint {server} is not encrypted: file contents, names and the temporary "
              "token of the request travel in clear; use https", file=sys.stderr)
    return parts._replace(path="")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def reach(server: str, seconds: float) -> str:
    """Asks an endpoint for any answer, with no credentials.

    Args:
        server: As `parse_endpoint` takes it.
        seconds: Time limit of each step.

    Returns:
        Its host.

    Raises:
        ToolkitError: The endpoint is not valid.
        OSError: It does not answer.
        http.client.HTTPException: Its answer is not HTTP.
    """
    parts = parse_endpoint(server, "BUCKET")
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=_authorities())
        connection = http.client.HTTPSConnection(parts.netloc, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=seconds)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    finally:
        connection.close()
    return parts.netloc


class UnreachableError(ToolkitError):
    """No answer, or one that may change on another try (5xx); not a fault of the request."""


@dataclass(frozen=True)
class StoredObject:
    """An object in the bucket: its size in bytes, and the sha256 it was uploaded with."""

    size: int
    sha256: str | None


class ObjectStore:
    """Access to one bucket; may be used from several threads.

    Args:
        bucket: Its name.
        server: Endpoint of its region, e.g. https://obs.cn-north-4.myhuaweicloud.com.
        patient: Retry for minutes what fails; otherwise give up within seconds.

    Raises:
        ToolkitError: The SDK is not installed, a credential variable is missing, or the URL is invalid.
    """

    def __init__(self, bucket: str, server: str, patient: bool = True) -> None:
        try:
            import obs
        except ImportError:
            raise ToolkitError("Huawei's SDK is not installed: pip install -e .[obs]") from None
        if missing := [name for name in KEY_VARIABLES if not os.environ.get(name)]:
            raise ToolkitError(f"{' and '.join(missing)} not set: export the access key there (never on the "
                               "command line)")
        parts = parse_endpoint(server, bucket)
        self.bucket = bucket
        self._parts = parts
        self._retries = RETRIES if patient else 0
        access, secret = (os.environ[name] for name in KEY_VARIABLES)
        self._sdk = obs
        self._client = obs.ObsClient(
            access_key_id=access, secret_access_key=secret, security_token=os.environ.get(TOKEN_VARIABLE),
            server=parts.geturl(), ssl_verify=_authorities() if parts.scheme == "https" else False,
            max_retry_count=self._retries, timeout=TIMEOUT_SECONDS if patient else _IMPATIENT_SECONDS)

    def url(self, key: str) -> str:
        """Address under which anyone may read a public object."""
        folder = f"/{self.bucket}" if self._client.path_style else ""
        return f"{self._parts.scheme}://{self.host}{folder}/{urllib.parse.quote(key)}"

    @property
    def host(self) -> str:
        """The host that is asked, as the SDK has it: the bucket's, but an IP address has none below it."""
        return self._parts.netloc if self._client.path_style else f"{self.bucket}.{self._parts.netloc}"

    def _call(self, what: str, method: Callable[..., Any], *arguments: Any, may_lack: bool = False,
              **options: Any) -> Any:
        """Makes one request; None for a 404 that `may_lack` expects."""
        try:
            answer = method(self.bucket, *arguments, **options)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"{what}: no answer from {self.host} after {self._retries} retries "
                f"({type(error).__name__}: {error}); run the same command again to continue") from None
        if answer.status == 404 and may_lack:
            return None
        if answer.status >= 300:
            hint = _HINTS.get(answer.status, "run the same command again to continue")
            kind = UnreachableError if answer.status >= 500 else ToolkitError
            raise kind(f"{what}: {self.host} answered {answer.status} "
                       f"{answer.errorCode or answer.reason or ''}; {hint}")
        return answer

    def head(self, key: str) -> StoredObject | None:
        """What is stored under a key, or None."""
        answer = self._call(f"look-up of {key}", self._client.getObjectMetadata, key, may_lack=True)
        if answer is None:
            self._require_bucket()
            return None
        headers = {name.lower(): value for name, value in answer.header}
        sha256 = next((headers[name] for name in _SHA256_HEADERS if name in headers), None)
        return StoredObject(int(answer.body.contentLength), sha256)

    def _require_bucket(self) -> None:
        """A missing bucket answers 404 as a missing object does, and must not look like an empty one."""
        self._call(f"bucket {self.bucket}", self._client.headBucket)

    def put(self, key: str, content: bytes, sha256: str) -> str:
        """Stores a small object in one request, MD5 checked. Returns the ETag.

        Raises:
            ToolkitError: The server received something else, or refuses.
        """
        digest = hashlib.md5(content)
        answer = self._call(f"upload of {key}", self._client.putContent, key, content,
                            metadata={"sha256": sha256},
                            headers=self._sdk.PutObjectHeader(md5=_content_md5(digest)))
        return _checked_etag(answer, digest.hexdigest(), key)

    def get(self, key: str) -> bytes | None:
        """Content of a small object, or None where there is none."""
        answer = self._call(f"download of {key}", self._client.getObject, key, may_lack=True)
        if answer is None:
            self._require_bucket()
            return None
        try:
            return b"".join(_blocks(answer.body.response))
        except http.client.HTTPException as error:
            raise ToolkitError(f"download of {key} was interrupted ({error}); run the same command "
                               "again") from None

    def download(self, key: str, path: Path, size: int) -> None:
        """Appends to a file what it lacks of an object; after a dropped connection it continues there.

        Args:
            key: The object.
            path: The partial file; made where it is missing.
            size: Bytes the object has.

        Raises:
            ToolkitError: The server refuses, or bytes are missing after all retries; what came is kept.
        """
        problem = "the server sent too few bytes"
        for attempt in range(RETRIES + 1):
            with open(path, "ab") as file:
                if file.tell() >= size:
                    return
                try:
                    self._append(key, file)
                except http.client.HTTPException as error:
                    problem = str(error)
                if file.tell() >= size:
                    return
            time.sleep(0.2 * 2**attempt)
        raise ToolkitError(f"download of {key}: {path.stat().st_size:,} of {size:,} bytes came ({problem}); "
                           "run the same command again to continue")

    def _append(self, key: str, file: Any) -> None:
        start = file.tell()
        wanted = self._sdk.GetObjectHeader(range=f"{start}-") if start else None
        answer = self._call(f"download of {key}", self._client.getObject, key, headers=wanted)
        for block in _blocks(answer.body.response):
            file.write(block)

    def delete(self, key: str) -> None:
        """Removes an object."""
        self._call(f"removal of {key}", self._client.deleteObject, key, may_lack=True)

    def pending_upload(self, key: str) -> str | None:
        """Id of the newest unfinished multipart upload of a key, or None."""
        newest = max((upload for upload in self._uploads(key) if upload.key == key), default=None,
                     key=lambda upload: upload.initiated)
        return newest and newest.uploadId

    def abort_uploads(self, key: str) -> None:
        """Drops all unfinished multipart uploads of a key."""
        for upload in [upload for upload in self._uploads(key) if upload.key == key]:
            self.abort_upload(key, upload.uploadId)

    def _uploads(self, prefix: str) -> Iterator[Any]:
        """Unfinished multipart uploads of keys that begin with `prefix`."""
        marker = upload_marker = None
        while True:
            request = self._sdk.ListMultipartUploadsRequest(
                prefix=prefix, key_marker=marker, upload_id_marker=upload_marker)
            body = self._call(f"look-up of unfinished uploads of {prefix}",
                              self._client.listMultipartUploads, request).body
            yield from body.upload
            if not body.isTruncated:
                return
            marker, upload_marker = body.nextKeyMarker, body.nextUploadIdMarker

    def start_upload(self, key: str, sha256: str) -> str:
        """Begins a multipart upload and returns its id."""
        return self._call(f"upload of {key}", self._client.initiateMultipartUpload, key,
                          metadata={"sha256": sha256}).body.uploadId

    def stored_parts(self, key: str, upload_id: str) -> dict[int, tuple[int, str]]:
        """Parts the server holds of an unfinished upload: number -> (size in bytes, ETag)."""
        found: dict[int, tuple[int, str]] = {}
        marker = None
        while True:
            body = self._call(f"look-up of the parts of {key}", self._client.listParts, key, upload_id,
                              partNumberMarker=marker).body
            found |= {int(part.partNumber): (int(part.size), part.etag.strip('"')) for part in body.parts}
            if not body.isTruncated:
                return found
            marker = body.nextPartNumberMarker

    def put_part(self, key: str, upload_id: str, number: int, content: bytes) -> str:
        """Uploads one part, MD5 checked. Returns the ETag.

        Raises:
            ToolkitError: The server received something else, or refuses.
        """
        digest = hashlib.md5(content)
        answer = self._call(f"upload of {key}, part {number}", self._client.uploadPart, key, number,
                            upload_id, content=content, md5=_content_md5(digest))
        return _checked_etag(answer, digest.hexdigest(), f"{key}, part {number}")

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drops an unfinished upload; its parts would be kept, and paid for, otherwise."""
        self._call(f"removal of an unfinished upload of {key}", self._client.abortMultipartUpload, key,
                   upload_id, may_lack=True)

    def finish_upload(self, key: str, upload_id: str, etags: dict[int, str]) -> None:
        """Joins the parts into the object."""
        parts = [self._sdk.CompletePart(number, etag) for number, etag in sorted(etags.items())]
        self._call(f"completion of {key}", self._client.completeMultipartUpload, key, upload_id,
                   self._sdk.CompleteMultipartUploadRequest(parts))

    def make_public(self, key: str) -> None:
        """Lets anyone read one object."""
        self._call(f"public-read of {key}", self._client.setObjectAcl, key, aclControl="public-read")

    def anonymous_size(self, key: str) -> int:
        """Size of an object as someone without credentials sees it.

        Raises:
            ToolkitError: It cannot be read anonymously.
        """
        try:
            # The body stays unread: opening it is the proof.
            with urllib.request.urlopen(self.url(key), timeout=TIMEOUT_SECONDS) as answer:
                return int(answer.headers["Content-Length"])
        except urllib.error.HTTPError as error:
            raise ToolkitError(f"{self.url(key)} cannot be read without credentials ({error.code}); let the "
                               "bucket's policy allow public objects, then run the same command again"
                               ) from None
        except OSError as error:
            raise ToolkitError(f"{self.url(key)} cannot be reached anonymously: {error}") from None


def _blocks(stream: Any) -> Iterator[bytes]:
    """A body's bytes; where it breaks off, an HTTPException (the SDK raises a bare Exception)."""
    try:
        while True:
            try:
                block = stream.read(_READ_BYTES)
            except Exception as error:
                raise http.client.HTTPException(f"{type(error).__name__}: {error}") from None
            if not block:
                return
            yield block
    finally:
        stream.close()


def _content_md5(digest: hashlib._Hash) -> str:
    """The Content-MD5 header, by which OBS refuses a body that was damaged on its way."""
    return base64.b64encode(digest.digest()).decode()


def _checked_etag(answer: Any, md5: str, what: str) -> str:
    """The ETag of stored content, which is its MD5 unless the bucket encrypts."""
    etag = answer.body.etag.strip('"')
    encrypted = any("server-side-encryption" in name.lower() for name, _ in answer.header)
    if etag != md5 and not encrypted:
        raise ToolkitError(f"{what}: the server received other content (ETag {etag}, MD5 {md5}); run the "
                           "same command again")
    return etag


def _authorities() -> str:
    """Path of the trusted certificates; the SDK checks none unless it is given a file."""
    path = ssl.get_default_verify_paths().cafile
    if path is None:
        import certifi

        path = certifi.where()
    return path


def connect(bucket: str, server: str | None, patient: bool = True) -> ObjectStore:
    """Access to a bucket at the given endpoint, else at the environment's; `patient` as `ObjectStore` has it.

    Raises:
        ToolkitError: No endpoint, or as `ObjectStore`.
    """
    server = server or os.environ.get(SERVER_VARIABLE)
    if not server:
        raise ToolkitError(f"no endpoint: set {SERVER_VARIABLE} or pass --server, e.g. "
                           "https://obs.cn-north-4.myhuaweicloud.com")
    return ObjectStore(bucket, server, patient)
