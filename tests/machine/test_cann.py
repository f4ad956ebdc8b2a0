"""CANN, its environment and the driver, from folders as CANN's installer makes them."""

import platform

import pytest

from research_internlm.machine import cann
from research_internlm.machine.cann import Cann
from research_internlm.machine.finding import OK, PROBLEM, WARNING


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs CANN 9.0.0 in a folder and sources it; returns the folder."""
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "ascend-toolkit/latest"
    for folder in ("compiler", "opp", "lib64", f"{platform.machine()}-linux"):
        (home / folder).mkdir(parents=True)
    (home / "compiler/version.info").write_text("Version=9.0.0\nrequired=1\n")
    (home / f"{platform.machine()}-linux/ascend_toolkit_install.info").write_text(
        f"package_name=toolkit\narch={platform.machine()}\n")
    (tmp_path / "ascend-toolkit/set_env.sh").touch()
    for name, version in (("driver", "24.1.0"), ("firmware", "7.5.0.3.220")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "version.info").write_text(f"Version={version}\npackage_version=24.1.0\n")
    for name, value in (("HOME_PATH", home), ("TOOLKIT_HOME", home), ("OPP_PATH", home / "opp")):
        monkeypatch.setenv(f"ASCEND_{name}", str(value))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/usr/lib:{home}/lib64")
    return tmp_path


def find(root, mindspore="2.9.0", has_npu=True, smi="24.1.0"):
    return list(cann.findings(cann.read([str(root)]), mindspore, has_npu, smi))


def codes(findings):
    return [(finding.level, finding.code) for finding in findings]


def test_a_sourced_cann_is_right(installed):
    found = find(installed)
    assert codes(found) == [(OK, Cann.SET), (OK, Cann.DRIVER)]
    assert found[0].text().startswith("9.0.0, environment set (")
    assert found[1].text() == "driver 24.1.0, firmware 7.5.0.3.220"


def test_without_an_npu_nothing_is_wrong(installed, monkeypatch):
    monkeypatch.setenv("ASCEND_OPP_PATH", "/nowhere")
    assert codes(find(installed, has_npu=False)) == [(OK, Cann.INSTALLED)]
    monkeypatch.setenv("ASCEND_HOME_PATH", "/nowhere")
    assert codes(find(installed, has_npu=False)) == [(OK, Cann.NOT_NEEDED)]


@pytest.mark.parametrize(("name", "value", "level", "code"), [
    ("ASCEND_HOME_PATH", "/nowhere", PROBLEM, Cann.NO_HOME),
    ("ASCEND_OPP_PATH", None, PROBLEM, Cann.NO_OPERATORS),
    ("LD_LIBRARY_PATH", "/usr/lib", PROBLEM, Cann.NO_LIBRARIES),
    ("ASCEND_TOOLKIT_HOME", "/usr/local/Ascend/ascend-toolkit/8.0.0", WARNING, Cann.TWO)])
def test_each_part_of_the_environment_is_looked_at(installed, monkeypatch, name, value, level, code):
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert (level, code) in codes(find(installed))


def test_a_second_cann_in_front_of_the_first_is_named(installed, monkeypatch):
    home = installed / "ascend-toolkit/latest"
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/opt/cann-8.5.0/lib64:{home}/lib64")
    found = [finding for finding in find(installed) if finding.code is Cann.TWO]
    assert found[0].values["other"] == "/opt/cann-8.5.0" and found[0].values["variable"] == "LD_LIBRARY_PATH"


def test_an_environment_that_was_not_sourced_names_the_script(installed, monkeypatch):
    monkeypatch.delenv("ASCEND_HOME_PATH")
    [problem] = [finding for finding in find(installed, mindspore=None) if finding.level == PROBLEM]
    assert f"source {installed}/ascend-toolkit/set_env.sh" in problem.text()


def test_a_cann_for_another_machine_is_refused(installed):
    home = installed / "ascend-toolkit/latest"
    [file] = home.glob("*-linux/ascend_toolkit_install.info")
    file.write_text("arch=riscv64\n")
    assert (PROBLEM, Cann.OTHER_MACHINE) in codes(find(installed))


def test_versions_are_held_against_the_table(installed):
    assert codes(cann.version_findings("2.9.0", "8.0.RC1")) == [(PROBLEM, Cann.OTHER_VERSION)]
    assert codes(cann.version_findings("2.9.0", None)) == [(PROBLEM, Cann.MISSING)]
    assert not list(cann.version_findings("2.9.0", "8.5.1"))
    assert not list(cann.version_findings(None, None)) and not list(cann.version_findings("9.9.9", None))


def test_two_drivers_disagree(installed):
    assert codes(find(installed, smi="25.2.0"))[-1] == (WARNING, Cann.TWO_DRIVERS)
    (installed / "driver/version.info").unlink()
    assert codes(find(installed))[-1] == (OK, Cann.DRIVER)
    assert codes(find(installed, smi=None))[-1] == (WARNING, Cann.NO_DRIVER)
