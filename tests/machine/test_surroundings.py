"""Variables of job systems, HCCL's settings and links, and OBS by its variables."""

import http.server
import os
import threading
from dataclasses import replace

import pytest

from research_internlm.machine import surroundings, uploads
from research_internlm.machine.finding import OK, PROBLEM, WARNING
from research_internlm.machine.surroundings import Around, SurroundingFacts
from research_internlm.machine.uploads import Obs
from research_internlm.shared.process_role import JOB_VARIABLES

NOTHING = SurroundingFacts({}, {}, {}, False, ("lo", "eth0"), None, {})


def wrong(**changes):
    return [(finding.level, finding.code) for finding in surroundings.findings(replace(NOTHING, **changes))
            if finding.level != OK]


def test_variables_of_a_job_are_named_with_what_to_unset():
    assert not wrong()
    found = list(surroundings.findings(replace(NOTHING, job={"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "8"})))
    assert found[0].level == WARNING and "MS_ROLE=MS_SCHED MS_WORKER_NUM=8: " in found[0].text()
    assert found[0].text().endswith("unset MS_ROLE MS_WORKER_NUM")
    job = {"RANK_TABLE_FILE": "/nowhere.json"}
    assert (WARNING, Around.NO_RANK_TABLE) in wrong(job=job)
    assert (WARNING, Around.NO_RANK_TABLE) not in wrong(job=job, has_rank_table=True)
    assert not wrong(choice={"DEVICE_ID": "3"})


@pytest.mark.parametrize(("value", "is_valid"), [
    ("120", True), ("7200", True), ("119", False), ("7201", False), ("30min", False), ("", False),
    ("9" * 5000, False)])
def test_the_connection_s_time_limit_has_a_range(value, is_valid):
    expected = [] if is_valid else [(PROBLEM, Around.TIMEOUT)]
    assert wrong(hccl={"HCCL_CONNECT_TIMEOUT": value}) == expected


@pytest.mark.parametrize(("value", "is_known"), [
    ("eth", True), ("eth0", True), ("=eth0", True), ("=eth", False), ("bond,eth", True), ("ib", False),
    ("^docker", True), ("", True)])
def test_the_interface_must_be_there(value, is_known):
    assert wrong(hccl={"HCCL_SOCKET_IFNAME": value}) == ([] if is_known else [(PROBLEM, Around.INTERFACE)])


def test_variables_and_links_are_read(tmp_path, monkeypatch):
    hccl = [name for name in os.environ if name.startswith("HCCL_")]  # MindSpore sets some when imported
    for name in (*JOB_VARIABLES, "DEVICE_ID", "ASCEND_RT_VISIBLE_DEVICES", *hccl):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("RANK_ID", "1"), ("DEVICE_ID", "2"), ("HCCL_BUFFSIZE", "100")):
        monkeypatch.setenv(name, value)
    tool = tmp_path / "hccn_tool"
    tool.write_text('#!/bin/sh\n[ "$2" = 2 ] && exit 1\n[ "$2" = 1 ] && echo "link status: DOWN" || '
                    'echo "link status: UP"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "hccn.conf").write_text("address_0=192.0.2.1\nnetmask_0=255.255.255.0\naddress_1=192.0.2.2\n")
    facts = surroundings.read(3, tmp_path / "hccn.conf")
    assert (facts.job, facts.choice, facts.hccl) == (
        {"RANK_ID": "1"}, {"DEVICE_ID": "2"}, {"HCCL_BUFFSIZE": "100"})
    assert facts.addresses == 2 and facts.links == {0: True, 1: False}
    [down] = [finding for finding in surroundings.findings(facts) if finding.code is Around.LINKS_DOWN]
    assert "NPU 1 down" in down.text()


@pytest.fixture
def variables(monkeypatch):
    def set_all(access="AKTEST", secret="hunter2secret", server=None):
        for name, value in (("OBS_ACCESS_KEY_ID", access), ("OBS_SECRET_ACCESS_KEY", secret),
                            ("OBS_SERVER", server)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    return set_all


def obs():
    [finding] = uploads.findings(uploads.read())
    assert "AKTEST" not in finding.text() and "hunter2secret" not in finding.text()
    return finding


def test_credentials_are_looked_at_before_anything_is_asked(variables):
    variables(None, None)
    assert (obs().level, obs().code) == (OK, Obs.NO_KEYS)
    variables(secret=None)
    assert obs().code is Obs.KEY_MISSING and "OBS_SECRET_ACCESS_KEY not set" in obs().text()
    variables()
    assert obs().code is Obs.NO_SERVER
    variables(server="https://name:pass@obs.example.com")
    assert (obs().level, obs().code) == (PROBLEM, Obs.BAD_SERVER) and "pass@" not in obs().text()
    variables(server="http://127.0.0.1:9")
    assert (obs().level, obs().code) == (WARNING, Obs.UNREACHABLE)


def test_any_answer_counts_and_no_credential_is_sent(variables):
    asked = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(str(self.headers))
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables(server=f"http://127.0.0.1:{server.server_port}")
        found = obs()
        server.shutdown()
    assert (found.level, found.code) == (OK, Obs.REACHED)
    assert len(asked) == 1 and "AKTEST" not in asked[0] and "uthorization" not in asked[0]
