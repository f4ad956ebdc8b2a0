"""Publishing through the hubs' real packages, against stand-ins on 127.0.0.1 that break and refuse."""

import hashlib
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.helpers import hub_server
from tests.helpers.commands import ROOT, assert_user_error
from tests.helpers.hub_server import TOKEN

REPO = "user/model"
OPENXLAB = os.environ.get("TOOLKIT_OPENXLAB")  # a Python with the package openxlab
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A model folder of 0.3 MB."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.arange(75_000, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def needs(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the package {module} is not installed: pip install -e '.[modelscope]' or '.[modelers]'")


@pytest.fixture(params=["modelscope", "modelers", "openxlab"])
def hub(request, tmp_path):
    """A stand-in, with the environment in which `internlm publish` finds it."""
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"],
                   "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
                   "HUB_WHITE_LIST_PATHS": str(tmp_path)}
    (tmp_path / "home").mkdir()
    certificate = None
    if request.param == "modelscope":
        needs("modelscope_hub")
        hub, variable = hub_server.ModelScopeHub(), "MODELSCOPE_API_TOKEN"
        hub.broken_point, hub.send_point = "PUT /blob", "PUT /blob"
    elif request.param == "modelers":
        needs("openmind_hub")
        certificate = hub_server.make_certificate(tmp_path / "pem")
        hub, variable = hub_server.ModelersHub(), "MODELERS_TOKEN"
        hub.broken_point, hub.send_point = "POST .*/lfs/objects/batch", "PUT /part"
    else:
        if not OPENXLAB:
            pytest.skip("set TOOLKIT_OPENXLAB to a Python that has openxlab==0.1.3")
        hub, variable = hub_server.OpenXLabHub(), "OPENXLAB_SK"
        hub.broken_point, hub.send_point = "PUT /bucket/model/model.safetensors", "PUT /bucket"
    with hub_server.served(hub, certificate):
        environment |= {"MODELSCOPE_ENDPOINT": hub.address, "OPENMIND_HUB_ENDPOINT": hub.address,
                        "REQUESTS_CA_BUNDLE": str(certificate or ""), variable: TOKEN}
        if request.param == "openxlab":
            program = tmp_path / "openxlab"
            program.write_text(hub_server.OPENXLAB_WRAPPER.format(python=OPENXLAB, address=hub.address))
            program.chmod(0o755)
            environment |= {"OPENXLAB_PROGRAM": str(program), "OPENXLAB_AK": TOKEN}
        hub.name, hub.environment, hub.variable = request.param, environment, variable
        hub.repo = "model" if request.param == "openxlab" else REPO
        yield hub


def publish(hub, folder, *options, **environment):
    line = [folder, "--to", hub.name, "--repo", REPO, "--license", "apache-2.0", *options]
    return subprocess.run([sys.executable, "-m", "research_internlm", "publish", *map(str, line)], cwd=ROOT,
                          env={**hub.environment, **environment}, text=True, capture_output=True, timeout=120,
                          stdin=subprocess.DEVNULL, check=False)


def local(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_there_afterwards_is_the_folder_and_its_card(hub, folder):
    done = publish(hub, folder, "--private")
    assert done.returncode == 0, done.stdout + done.stderr
    there = dict(hub.files(hub.repo))
    card = there.pop("README.md").decode()
    assert there == local(folder) and sorted(local(folder)) == ["config.json", "model.safetensors"]
    assert hub.repos[hub.repo]["private"] and hub.repos[hub.repo]["license"] == "apache-2.0"
    assert hashlib.sha256(there["model.safetensors"]).hexdigest() in card
    assert "published: 3 file(s)" in done.stdout and TOKEN not in done.stdout + done.stderr
    sent, requests = hub.sent, len(hub.requests)
    again = publish(hub, folder, "--private")
    assert again.returncode == 0, again.stderr
    assert "3 of 3 files are there already" in again.stdout
    assert hub.sent == sent and len(hub.requests) > requests


def test_a_broken_connection_ends_with_one_line_and_the_same_command_goes_on(hub, folder):
    hub.broken = hub.broken_point
    done = publish(hub, folder)
    assert_user_error(done, "run the same command again")
    hub.broken, small = None, hub.sent
    done = publish(hub, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 3 files are there already, 1 (" in done.stdout
    assert hub.sent - small == (folder / "model.safetensors").stat().st_size
    assert hub.files(hub.repo)["model.safetensors"] == local(folder)["model.safetensors"]


def test_a_wrong_token_is_told_and_never_printed(hub, folder):
    done = publish(hub, folder, **{hub.variable: "wrong-token-987654", "OPENXLAB_AK": "wrong-token-987654"})
    assert_user_error(done, "check")
    assert "wrong-token-987654" not in done.stdout + done.stderr
    assert hub.repos == {}


def test_no_token_and_a_dry_run_connect_to_nothing(hub, folder):
    done = publish(hub, folder, **{hub.variable: ""})
    assert_user_error(done, f"export {hub.variable}=")
    dry = publish(hub, folder, "--dry_run", **{hub.variable: ""})
    assert dry.returncode == 0, dry.stderr
    assert f"model.safetensors ({(folder / 'model.safetensors').stat().st_size:,} bytes" in dry.stdout
    assert hub.requests == [] and sorted(local(folder)) == ["config.json", "model.safetensors"]


def test_a_public_repository_is_not_taken_for_a_private_one(hub, folder):
    assert publish(hub, folder).returncode == 0
    (folder / "config.json").write_text("{}")
    assert_user_error(publish(hub, folder, "--private"), "--private was given")
    assert hub.files(hub.repo)["config.json"] != b"{}"


def test_what_the_hub_holds_instead_is_found_by_its_listing(hub, folder):
    if hub.name == "openxlab":
        pytest.skip("OpenXLab's listing tells names only")
    hub.spoil["config.json"] = b"{"
    assert_user_error(publish(hub, folder), "config.json is listed as 1 bytes", "1 file(s)")


@pytest.mark.parametrize("hub", ["openxlab"], indirect=True)
@pytest.mark.parametrize("is_changed", [False, True])
def test_a_file_of_which_parts_were_sent_is_whole_afterwards(hub, folder, is_changed):
    """openxlab 0.1.3 would send the parts that lack from the file's first byte on."""
    hub.broken, hub.spared = hub.broken_point, 1
    assert_user_error(publish(hub, folder), "2 of 3 files were sent")
    hub.broken, before = None, hub.sent
    if is_changed:
        save_file({"w": np.arange(75_000, dtype=np.float32)[::-1].copy()}, folder / "model.safetensors")
    assert publish(hub, folder).returncode == 0
    content = local(folder)["model.safetensors"]
    assert hub.files(hub.repo)["model.safetensors"] == content
    assert hub.sent - before >= len(content)
