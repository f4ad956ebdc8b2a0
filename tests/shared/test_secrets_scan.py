"""Credentials are found in every form people write them, and nothing else is: on our source and real logs."""

import os

import pytest

from research_internlm import recipes
from research_internlm.contest import handin_zip
from research_internlm.shared import secrets_scan

KEY = "AB3DEFGH12345678IJKL"  # shaped as an OBS access key
SECRET = "aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789abCD"

SECRETS = [
    "access_key_id = 'ABCDEFGH12345678IJKL'", "SecretAccessKey: abcdEFGH1234ijkl5678mnop",
    f"--ak {KEY}", f"--sk {SECRET}", f"upload --ak {KEY} --sk {SECRET}", f'"--ak", "{KEY}"',
    f'["--sk", "{SECRET}"]', f"obsutil config -i={KEY} -k={SECRET}", f"obsutil config -k={SECRET}",
    f"ObsClient('{KEY}', '{SECRET}', server='https://obs')", f"access key id: {KEY}", f"Access Key Id,{KEY}",
    f"access-key-id: {KEY}", f"ACCESS-KEY: {KEY}", f"secret-key: {SECRET}", f"ACCESS_KEY_ID => {KEY}",
    f"ak：{KEY}", f"sk ： {SECRET}", f'{{"ak": "{KEY}"}}', f"name,{KEY},{SECRET}", f"{KEY}\n{SECRET}",
    f"{SECRET}\n{KEY}",
    "Authorization: Bearer eyJhbGciOiJIUzI1", "jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abcdefgh",
    f"Authorization=SDK-HMAC-SHA256 Access={KEY}", "api_key = '0123456789abcdef0123456789abcdef'",
    "WANDB_API_KEY=" + "a1" * 20, "sk-proj-abcd1234EFGH5678ijkl", "glpat-abcd1234EFGH5678ijkl",
    "ghp_" + "a1" * 18, *(prefix + "A1" * 8 for prefix in ("AKIA", "ASIA", "HST3", "HPUA")),
    "password: hunter2", "--password hunter22x", "--password correcthorse --quiet", "password: correcthorse",
    "ssh_pass: hunter22", "{'password': 'correcthorse'}", "OBS_PASSWORD=correcthorse", "密码：hunter22",
    "token='abc123'", "HF token=abcdefgh12345678", "token: abcdefghijklmnop", "HF_TOKEN=abcdefgh12345678",
    "-----BEGIN RSA PRIVATE KEY-----", "https://user:secret@host/path",
    "https://host/x?X-Amz-Signature=0123456789abcdef",
]

# Lines of MindFormers, MindSpore and this toolkit's own tools that come near to a rule.
LOG = """\
'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2, 'ignore_token_id': -100,
[INFO] bos_token: <s>, eos_token='</s>', unk_token = "<unk>", pad_token: "</s>", additional_special_tokens
{ step:[5], useful_tokens_per_second: 7036.2 }
token: str, tokens: 138020, tokens=138020, max_token: 1024, tokenizer: InternLMTokenizer
tokenizer_sha256: 5ad4cae4f1b9a554720db00170d4709b3da246b5204d094577d227f8511d50fb
sha256 ebbb05e6554ac7fe049e7225767329598a5df22b4864bad89561c23b797dd7cc  1_report/report.md
task: causal_language_modelling_1, task_id: 1234567890123456789a, mask: 0123456789abcdef01234
key = os.environ["SecretAccessKey"]; password = getpass(); password: str = "", pwd=/home/ma-user/work
api_key: Optional[str] = None, access_key_id=None, secret_key: None
step_num 34504, kernel AICORE_MATMUL_FLOAT16_20 on 0000:81:00.0, commit
000b672000b672000b672000b672000b672000b6
loss:[7.001069/7.001069], per_step_time: 10593ms, lr: 5e-05, train_throughput_per_npu: 0.000T
passed: 12345678
every label token: information about this kind is in the table
https://repo.example/simple/mindspore-2.9.0-cp311-cp311-linux_x86_64.whl
"""


def scan(tmp_path, text):
    path = tmp_path / "f"
    path.write_text(text, encoding="utf-8")
    return list(secrets_scan.scan(path))


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found(tmp_path, secret):
    found = scan(tmp_path, f"fine\n{secret}\nfine\n")
    assert found and {line for line, _ in found} <= {2, 3}
    assert not any(secret in what for _, what in found)


@pytest.mark.parametrize("line", LOG.splitlines())
def test_lines_of_real_logs_are_no_secrets(tmp_path, line):
    assert scan(tmp_path, line + "\n") == []


def test_own_source_and_configs_are_no_secrets(root, tmp_path):
    parts = handin_zip.source_parts(root)
    assert len(parts) > 60
    for recipe in (root / "yaml").glob("*.yaml"):
        parts[recipe.name] = recipes.write_resolved(recipes.resolve(recipe), tmp_path / recipe.name)
    assert {name: found for name, path in parts.items() if (found := list(secrets_scan.scan(path)))} == {}


def test_key_and_secret_far_apart_are_two_words(tmp_path):
    assert scan(tmp_path, f"{KEY}\nfine\n{SECRET}\n") == []
    assert scan(tmp_path, f"{KEY}\n{'0123456789abcdef' * 4}\n{'a1' * 20}\n") == []


def test_line_numbers_across_blocks(tmp_path):
    text = "x" * 100 + "\n"
    assert scan(tmp_path, text * 5000 + f"ak={KEY}\n" + text + f"{KEY}\n{SECRET}") == [
        (5001, "an access key"), (5004, "an access key beside its secret")]


def test_value_of_a_credential_variable_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("SecretAccessKey", "plainwordsonly")
    assert scan(tmp_path, "x\nplainwordsonly\n") == [(2, "the value of the variable SecretAccessKey")]


@pytest.mark.parametrize(("name", "value"), [
    ("TOKENIZER_FILE", "plainwordsonly"), ("MAX_TOKENS", "plainwordsonly"),
    ("TOKEN_FOLDER", os.path.dirname(__file__))])
def test_settings_and_places_are_no_credentials(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert scan(tmp_path, f"x\n{value}\n") == []


def test_a_long_log_is_read_in_pieces(tmp_path):
    """The memory it takes does not grow with the log."""
    import tracemalloc

    path = tmp_path / "worker_0.log"
    dump = "a long line of an operator's dump " * 30 + "\n"
    path.write_text(LOG * 100 + dump * 4_000, encoding="utf-8")
    tracemalloc.start()
    found = list(secrets_scan.scan(path))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [] and most < path.stat().st_size / 4
