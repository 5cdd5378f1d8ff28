"""The platform's checks restate rules of transformers and vLLM: here they are held against the libraries themselves."""

import importlib.util
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "evals" / "checks"
STEADY = ROOT / "tests" / "equipment" / "models" / "steady"
LOOP = "{% for m in messages %}"
PARTS = "{% for p in m.content %}{{ p.text }}{% endfor %}"
END = "{% endfor %}"
MACRO = "{% macro show(body) %}{% for p in body %}{{ p.text }}{% endfor %}{% endmacro %}"
TEMPLATES = {
    "string": LOOP + "{{ m['content'] }}" + END,
    "item": LOOP + PARTS.replace("m.content", "m['content']") + END,
    "attribute": LOOP + PARTS + END,
    "guarded": LOOP + "{% if m.content is string %}{{ m.content }}{% else %}" + PARTS + "{% endif %}" + END,
    "filtered": LOOP + PARTS.replace("m.content", "m.content | selectattr('type', 'equalto', 'text')") + END,
    "alias of messages": "{% set all = messages %}{% for m in all %}" + PARTS + END,
    "slice of messages": "{% set all = messages[1:] %}{% for m in all %}" + PARTS + END,
    "set content": LOOP + "{% set content = m.content %}" + PARTS.replace("m.content", "content") + END,
    "set other name": LOOP + "{% set body = m.content %}" + PARTS.replace("m.content", "body") + END,
    "macro": MACRO + LOOP + "{{ show(m.content) }}" + END,
    "macro by keyword": MACRO + LOOP + "{{ show(body=m.content) }}" + END,
    "macro over content": MACRO.replace("body", "content") + LOOP + "{{ m.content }}" + END,
    "tools": LOOP + "{{ m.content }}{% for t in tools or [] %}{{ t }}{% endfor %}" + END,
    "first message": PARTS.replace("m.content", "messages[0].content"),
    "namespace": "{% set ns = namespace(x='') %}" + LOOP + "{% set ns.x = m.content %}{{ ns.x }}" + END,
}
FILES: dict[str, dict[str, dict[str, Any]]] = {
    "sound": {},
    "pad outside": {"tokenizer_config.json": {"pad_token": "[PAD]"}},
    "extra list": {"tokenizer_config.json": {"additional_special_tokens": ["<x>", "<y>"]}},
    "extra object": {"tokenizer_config.json": {"extra_special_tokens": {"image_token": "<image>"}}},
    "own token": {"tokenizer_config.json": {"image_token": "<image>"}},
    "null": {"tokenizer_config.json": {"bos_token": None}},
    "map": {"special_tokens_map.json": {"bos_token": "<|end|>", "sep_token": {"content": "<sep>", "lstrip": False}}},
    "map beside decoder": {
        "tokenizer_config.json": {"added_tokens_decoder": {"0": {"content": "<|end|>", "special": True}}},
        "special_tokens_map.json": {"bos_token": "<zz>"},
    },
    "decoder": {"tokenizer_config.json": {"added_tokens_decoder": {"5000": {"content": "<new>", "special": True}}}},
    "added_tokens.json": {"added_tokens.json": {"<new>": 5000}},
    "class of Llama": {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast"}},
    "class of GPT-2": {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
    "class of Qwen2": {"tokenizer_config.json": {"tokenizer_class": "Qwen2TokenizerFast"}},
    "class unknown": {"tokenizer_config.json": {"tokenizer_class": "FooTokenizer"}},
}


@pytest.fixture(scope="module")
def child() -> ModuleType:
    spec = importlib.util.spec_from_file_location("template_child", CHECKS / "template_child.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", TEMPLATES)
def test_content_format_is_the_one_that_vllm_detects(child: ModuleType, name: str) -> None:
    hf = pytest.importorskip("vllm.renderers.hf", reason="the engine's environment has vLLM")
    detected = hf._detect_content_format(TEMPLATES[name], default="string")
    assert child.takes_parts(TEMPLATES[name]) == (detected == "openai")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, files in FILES.items():
        folder = made[name] = tmp_path_factory.mktemp("tokens") / "model"
        shutil.copytree(STEADY, folder)
        for file, fields in files.items():
            path = folder / file
            document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps(document | fields), encoding="utf-8")
    return made


def test_tokens_are_those_of_transformers(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    sys.path.insert(0, str(ROOT))
    try:
        from evals.checks.tokens import read_tokens  # noqa: PLC0415 - the platform is not installed here
    finally:
        sys.path.remove(str(ROOT))
    for name, folder in folders.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
        ours = read_tokens(files.get)
        assert dict(ours.named) == tokenizer.special_tokens_map, name
        known = set(files["tokenizer.json"]["model"]["vocab"]) | {token["content"] for token in files["tokenizer.json"]["added_tokens"]}
        assert 1023 + len(set(ours.added) - known) == max(tokenizer.get_vocab().values()), name


@pytest.fixture(scope="module")
def renew() -> ModuleType:
    spec = importlib.util.spec_from_file_location("renew", CHECKS / "renew.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def types_of_configs() -> Any:
    return json.loads((CHECKS / "config_types.json").read_text(encoding="utf-8"))


def test_types_of_some_configurations_are_current(renew: ModuleType) -> None:
    some = ("gpt2", "llama", "qwen3")
    assert renew.configs(some) == {name: types_of_configs()[name] for name in some}


@pytest.mark.release
def test_types_of_all_configurations_are_current(renew: ModuleType) -> None:
    assert renew.configs() == types_of_configs()


@pytest.mark.parametrize(("changes", "refused"), [({}, False), ({"num_hidden_layers": "2"}, True), ({"rms_norm_eps": 1}, True)])
def test_transformers_refuses_a_configuration_of_another_type(tmp_path: Path, changes: dict[str, Any], refused: bool) -> None:
    from huggingface_hub.errors import StrictDataclassFieldValidationError  # noqa: PLC0415 - slow to import
    from transformers import AutoConfig  # noqa: PLC0415

    config = json.loads((STEADY / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(StrictDataclassFieldValidationError) if refused else nullcontext():
        AutoConfig.from_pretrained(tmp_path)


def test_table_of_tokenizer_classes_is_current(renew: ModuleType) -> None:
    assert renew.tokenizers() == json.loads((CHECKS / "tokenizer_classes.json").read_text(encoding="utf-8"))


def test_every_listed_quantization_is_vllms() -> None:
    from vllm.model_executor.layers import quantization  # noqa: PLC0415 - slow to import

    listed = set((CHECKS / "quantizations.txt").read_text(encoding="ascii").split())
    assert listed - set(quantization.QUANTIZATION_METHODS) == {"auto-round"}
    assert not listed & set(quantization.DEPRECATED_QUANTIZATION_METHODS)
