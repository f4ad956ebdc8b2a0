"""Whether OBS can be reached with what the environment says. Nothing of the credentials is sent or shown."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from research_internlm.machine.finding import Code, Finding, Topic
from research_internlm.shared.errors import ToolkitError
from research_internlm.storage.obs import KEY_VARIABLES, SERVER_VARIABLE, reach

_SECONDS = 3


class Obs(Code):
    """What can be found about OBS."""

    NO_KEYS = (
        Topic.OBS,
        "no credentials: uploads and mirrors are not possible (export {names})",
        "没有凭据：无法上传和镜像（export {names}）")
    KEY_MISSING = (
        Topic.OBS,
        "{missing} not set, but {found} is: export both",
        "设置了 {found}，但没有设置 {missing}：两者都要 export")
    NO_SERVER = (
        Topic.OBS,
        "credentials, but no endpoint: export {variable}=https://obs.REGION.myhuaweicloud.com, or pass "
        "--server",
        "有凭据，但没有 endpoint：export {variable}=https://obs.REGION.myhuaweicloud.com，或使用 --server")
    BAD_SERVER = (Topic.OBS, "{variable}: {text}", "{variable} 无效：{text}")
    UNREACHABLE = (
        Topic.OBS,
        "the endpoint of {variable} does not answer ({text}): check the network and the address",
        "{variable} 的 endpoint 没有响应（{text}）：请检查网络和地址")
    REACHED = (
        Topic.OBS,
        "{host} answers; the credentials are not tried before an upload",
        "{host} 有响应；凭据在上传时才会验证")


@dataclass(frozen=True)
class ObsFacts:
    """What was read.

    Attributes:
        keys: Names of the credential variables that are set.
        server: Whether an endpoint is set.
        host: The endpoint's host, where it answered.
        error: Why it did not, or why the endpoint is not valid.
        is_valid: Whether the endpoint is valid.
    """

    keys: tuple[str, ...]
    server: bool
    host: str | None = None
    error: str | None = None
    is_valid: bool = True


def read() -> ObsFacts:
    """Looks at the variables, and asks the endpoint for any answer where credentials are set."""
    keys = tuple(name for name in KEY_VARIABLES if os.environ.get(name))
    server = os.environ.get(SERVER_VARIABLE)
    if len(keys) < len(KEY_VARIABLES) or not server:
        return ObsFacts(keys, bool(server))
    # In a thread of its own: the look-up of a name has no time limit.
    found: list[ObsFacts] = []
    thread = threading.Thread(target=lambda: found.append(_ask(keys, server)), daemon=True)
    thread.start()
    thread.join(_SECONDS + 1)
    return found[0] if found else ObsFacts(keys, True, error=f"no answer within {_SECONDS} s")


def _ask(keys: tuple[str, ...], server: str) -> ObsFacts:
    try:
        return ObsFacts(keys, True, reach(server, _SECONDS))
    except (OSError, http.client.HTTPException) as error:
        return ObsFacts(keys, True, error=f"{type(error).__name__}: {error}")
    except ToolkitError as error:
        return ObsFacts(keys, True, error=str(error), is_valid=False)


def findings(facts: ObsFacts) -> Iterator[Finding]:
    """OBS as the doctor shows it."""
    missing = [name for name in KEY_VARIABLES if name not in facts.keys]
    if not facts.keys:
        yield Obs.NO_KEYS.ok(names=" ".join(KEY_VARIABLES))
    elif missing:
        yield Obs.KEY_MISSING.warning(missing=missing, found=facts.keys)
    elif not facts.server:
        yield Obs.NO_SERVER.warning(variable=SERVER_VARIABLE)
    elif not facts.is_valid:
        yield Obs.BAD_SERVER.problem(variable=SERVER_VARIABLE, text=facts.error)
    elif facts.error is not None:
        yield Obs.UNREACHABLE.warning(variable=SERVER_VARIABLE, text=facts.error)
    else:
        yield Obs.REACHED.ok(host=facts.host)
