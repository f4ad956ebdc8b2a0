"""Prints, as JSON, what the wheels of a folder require and no wheel in it meets.

    python wheel_requirements.py FOLDER PYTHON MACHINE

Run as a file by a Python with pip, whose copy of `packaging` reads requirements.
"""

import json
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename


def missing(folder: str, release: str, machine: str) -> list:
    """Requirement strings, conditions evaluated for Linux, a Python release and a machine."""
    target = dict(default_environment(), python_version=release, python_full_version=release + ".9",
                  implementation_name="cpython", platform_python_implementation="CPython", os_name="posix",
                  sys_platform="linux", platform_system="Linux", platform_machine=machine)
    versions, required = {}, {}
    for wheel in sorted(Path(folder).glob("*.whl")):
        name, version = parse_wheel_filename(wheel.name)[:2]
        versions.setdefault(name, []).append(version)
        required[name] = _requirements(wheel)
    asked, todo = {}, [(name, "") for name in required]
    while todo:
        name, extra = todo.pop()
        for line in required.get(name, ()):
            applies = not line.marker or line.marker.evaluate(dict(target, extra=extra))
            if applies and str(line) not in asked:
                asked[str(line)] = line
                todo += [(canonicalize_name(line.name), extra) for extra in line.extras]
    return sorted({f"{line.name}{line.specifier}" for line in asked.values()
                   if not any(line.specifier.contains(version, prereleases=True)
                              for version in versions.get(canonicalize_name(line.name), ()))})


def _requirements(wheel: Path) -> list:
    with zipfile.ZipFile(str(wheel)) as archive:
        [place] = [file for file in archive.namelist()
                   if file.endswith(".dist-info/METADATA") and file.count("/") == 1]
        metadata = Parser().parsestr(archive.read(place).decode("utf-8"))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist") or ()]


if __name__ == "__main__":
    print(json.dumps(missing(*sys.argv[1:])))
