"""Shared fixtures: the project root, the demo's tokenizer, and the real data where it is."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import research_internlm  # noqa: F401 (before transformers, which imports protobuf too)
from research_internlm.data.tokens import load_tokenizer
from research_internlm.inference.text_codec import TextCodec
from tests.helpers.cheap_start import sitecustomize
from tests.helpers.commands import ROOT, run_script
from tests.helpers.launches import one, start_one, whole, work  # noqa: F401 (fixtures)
from tests.helpers.real_exam import real_held_out, real_items  # noqa: F401 (fixtures)

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# For these tests and the processes they start; test_weights_parity.py finds torch nevertheless.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (
    str(Path(sitecustomize.__file__).parent), os.environ.get("PYTHONPATH"))))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Puts first what forks this process hundreds of times: later it is large, and a fork takes five times
    as long. Marks as slow what loads MindFormers, eight seconds in each process with such a test."""
    items.sort(key=lambda item: item.path.name != "test_result_set.py")
    for item in items:
        if "start_one" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real csv, SQuAD and tokenizer files; skips the test where it is absent."""
    path = Path(os.environ.get("TOOLKIT_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TOOLKIT_REAL_DATA")
    return path


@pytest.fixture(scope="session")
def codec(demo_data):
    """The codec of the demo's tokenizer."""
    path = demo_data / "tokenizer.model"
    return TextCodec(path, load_tokenizer(path).vocab_size())


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """The demo's sample data, its exam as alpaca.json, and its tokenizer as tokenizer.model."""
    folder = tmp_path_factory.mktemp("demo")
    run_script("scripts/demo/sample_data.py", "--output_dir", folder)
    run_script("preprocess/mmlu_cmmlu_csv2json.py", "--mmlu_dir", folder / "mmlu",
               "--cmmlu_dir", folder / "cmmlu", "--output", folder / "alpaca.json")
    run_script("scripts/demo/tiny_tokenizer.py", "--corpus", folder / "base_corpus.json",
               "--output", folder / "tokenizer.model")
    return folder


