"""Whatever bytes a stranger puts into a model's files: the checks end with findings, and with no error of their own."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.hosts import EngineHost
from core.model_card import base_models, front_matter, licence
from core.settings import ModelPolicy
from evals.checks import CHECKS, examine
from evals.checks.model_files import ModelFiles
from evals.checks.report import NotCheckable
from evals.checks.sentencepiece import pieces
from evals.checks.template_child import takes_parts
from evals.checks.tokens import read_tokens
from tests.equipment.broken_models import listed
from tests.equipment.odd_models import BOM, POINTER, STEADY

SMALL = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "README.md")
FILES = (
    *SMALL,
    "tokenizer.json",
    "chat_template.jinja",
    "tokenizer.model",
    "model.safetensors",
    "model.safetensors.index.json",
    "quant_config.json",
)
STARTS_A_CHILD = {"tokenizer_round_trip", "ids_within_embedding", "chat_template_renders"}
KEYS = st.sampled_from(
    [
        *("architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *(
            "head_dim",
            "vocab_size",
            "quantization_config",
            "quant_method",
            "text_config",
            "eos_token_id",
            "dtype",
            "auto_map",
            "model_type",
        ),
        *("bos_token", "pad_token", "image_token", "chat_template", "added_tokens_decoder", "extra_special_tokens", "tokenizer_class"),
        *("additional_special_tokens", "content", "__type", "name", "template", "default", "weight_map", "temperature", "top_k", "1024"),
        *("max_new_tokens", "max_position_embeddings", "tie_word_embeddings", "compression_config", "license"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.integers(0, 2000)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["LlamaForCausalLM", "AddedToken", "awq", "mxfp4", "LlamaTokenizer", "llama", "model.safetensors", "{{ messages }}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=6)
BYTES = (
    st.binary(max_size=300)
    | st.sampled_from([b"", BOM, BOM + b"{}", POINTER, b"{" * 5000, b'{"a":' * 3000, b"[]", b"9" * 5000, b"\xff\xfe{\x00}\x00", b"<html>"])
    | DOCUMENTS.map(lambda document: json.dumps(document).encode())
)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def model() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(STEADY, Path(folder) / "model")
        yield Path(folder) / "model"


def with_files(model: Path, files: dict[str, bytes], look: Callable[[Path], None]) -> None:
    """Put the files in place, look, and put the sound ones back."""
    for name, raw in files.items():
        (model / name).write_bytes(raw)
    try:
        look(model)
    finally:
        for name in files:
            sound = STEADY / name
            (model / name).unlink()
            if sound.exists():
                shutil.copy(sound, model / name)


def look_without_children(model: Path) -> None:
    files = ModelFiles(model, listed(model), ModelPolicy(), EngineHost())
    for check in CHECKS:
        if check.name not in STARTS_A_CHILD:
            look(files, check.look)


def look_at_everything(model: Path) -> None:
    assert examine(model, listed(model), ModelPolicy()).findings


def look(files: ModelFiles, check: Callable[[ModelFiles], Any]) -> None:
    try:
        findings = list(check(files))
    except NotCheckable:
        return
    for finding in findings:
        assert len(finding.reason) < 1000
        assert finding.reason.encode()
        assert finding.passed or finding.hint


@QUICK
@given(st.dictionaries(st.sampled_from(FILES), BYTES, min_size=1, max_size=3))
def test_any_bytes_in_any_file_are_findings(model: Path, files: dict[str, bytes]) -> None:
    with_files(model, files, look_without_children)


@QUICK
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"), DOCUMENTS)
    )
)
def test_any_tokens_are_read(files: dict[str, dict[str, Any]]) -> None:
    found = read_tokens(files.get)
    assert all(isinstance(text, str) for text in (*found.named.values(), *found.added, *found.faults))


@QUICK
@given(st.binary(max_size=400) | st.lists(st.sampled_from([b"\x0a\x02ab", b"\x12\x00", b"\x0d1234", b"\x10\x01"])).map(b"".join))
def test_any_bytes_have_a_count_of_pieces_or_none(raw: bytes) -> None:
    count = pieces(raw)
    assert count is None or 0 < count <= len(raw)


@QUICK
@given(st.text(max_size=200).map(lambda text: f"---\n{text}\n---\n") | st.text(max_size=100))
def test_any_card_states_a_licence_or_none(text: str) -> None:
    card = front_matter(text)
    assert licence(card) is None or isinstance(licence(card), str)
    assert all(isinstance(name, str) for name in base_models(card))


@pytest.mark.parametrize(
    "tag",
    ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary '*'", "!!set [a]", "!!omap x", "{[a]: b}", "=", "9" + "0" * 5000],
)
def test_a_card_with_a_value_that_is_not_of_its_tag_states_nothing(tag: str) -> None:
    assert licence(front_matter(f"---\nlicense: {tag}\n---\n")) is None


@QUICK
@given(
    st.lists(
        st.sampled_from(
            [
                *("{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{% set x = messages %}", "{% set x, y = messages %}"),
                *(
                    "{% for a, b in messages %}",
                    "{% macro f(c, d=1) %}",
                    "{% endmacro %}",
                    "{{ f(m.content, d=m.content) }}",
                    "{{ f(*messages) }}",
                ),
                *(
                    "{% set ns.x = messages %}",
                    "{% for p in m['content'][0:1] | list %}",
                    "{% for p in x is defined %}",
                    "{% generation %}",
                ),
            ]
        ),
        max_size=8,
    ).map("".join)
)
def test_the_content_format_of_any_template_is_known_or_it_is_no_template(template: str) -> None:
    from jinja2 import TemplateError  # noqa: PLC0415 - as the child does

    try:
        assert takes_parts(template) in {True, False}
    except TemplateError:
        return


@pytest.mark.release
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FILES), BYTES, min_size=1, max_size=4))
def test_any_bytes_in_any_file_are_findings_at_length(model: Path, files: dict[str, bytes]) -> None:
    with_files(model, files, look_without_children)


@pytest.mark.release
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FILES), BYTES, min_size=1, max_size=3))
def test_a_whole_examination_of_any_bytes_ends_with_findings(model: Path, files: dict[str, bytes]) -> None:
    with_files(model, files, look_at_everything)
