"""Inputs that people submit: each fault is refused with its file and value, each oddity that vLLM serves is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import Refused, Transient
from core.hosts import EngineHost
from core.reasons import Reason
from core.settings import ModelPolicy
from core.versions import Finding, HubFile, ModelRef
from evals.checks import CHECKS, model_files, screen, template
from evals.checks.architecture import served_architecture
from evals.checks.config_types import config_types
from evals.checks.confined import Answer, End, Limits, confined
from evals.checks.contents import readable_json, whole_files
from evals.checks.hardware import quantization_on_cpu
from evals.checks.licence import licence_allowed
from evals.checks.memory import fits_engine
from evals.checks.model_files import ModelFiles
from evals.checks.quantization import served_methods, served_quantization
from evals.checks.report import NotCheckable
from evals.checks.sampling import default_sampling
from evals.checks.sentencepiece import pieces
from evals.checks.shapes import shapes_match_config
from evals.checks.template import chat_template_renders
from evals.checks.tokenizer import ids_within_embedding, tokenizer_round_trip
from evals.checks.weights import index_equals_tensors, sound_headers
from registry.hub.folder import FolderHub
from tests.equipment.broken_models import listed
from tests.equipment.odd_models import (
    BOM,
    PARTS,
    POINTER,
    TEMPLATE,
    Change,
    added_token,
    content,
    copied,
    fields,
    header,
    prefixed,
    removed,
    renamed,
    repeated_name,
    sentencepiece,
    steady_model,
)

Check = Callable[[ModelFiles], Iterator[Finding]]
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SYSTEM_FIRST = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system message required') }}{% endif %}" + TEMPLATE
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}" + TEMPLATE
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}{% endfor %}" + TEMPLATE
)


def found(check: Check, folder: Path, *, gpu: bool = False) -> list[Finding]:
    """Return the failures of one check; [] where it stands back for another."""
    files = ModelFiles(folder, listed(folder), ModelPolicy(), EngineHost(gpu=gpu))
    try:
        return [finding for finding in check(files) if not finding.passed]
    except NotCheckable:
        return []


def rename_all(names: dict[str, Any]) -> None:
    for name in [name for name in names if name != "__metadata__"]:
        names[f"x.{name}"] = names.pop(name)


def raw_header(raw: bytes) -> Change:
    return content(WEIGHTS, len(raw).to_bytes(8, "little") + raw)


def chat(template: Any, **more: Any) -> Change:
    return fields(TOKENIZER_CONFIG, chat_template=template, **more)


def framed(number: int) -> dict[str, Any]:
    """Return a post-processor that puts the id `number` before each text."""
    special, text, second = ({"SpecialToken": {"id": "<x>", "type_id": 0}}, *({"Sequence": {"id": name, "type_id": 0}} for name in "AB"))
    token = {"id": "<x>", "ids": [number], "tokens": ["<x>"]}
    return {"type": "TemplateProcessing", "single": [special, text], "pair": [special, text, second], "special_tokens": {"<x>": token}}


def speech_tokens() -> dict[str, Any]:
    """Return the added tokens of a model that speaks, as transformers writes them (Llasa has 65,536)."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(number): {"content": f"<|s_{number}|>", **flags} for number in range(65_536)}


REFUSED: dict[str, tuple[Check, tuple[Change, ...], str, str]] = {
    "special token beyond the rows": (
        ids_within_embedding,
        (added_token("[PAD]"),),
        "token_id_beyond_embedding",
        r"'\[PAD\]' with id 1024",
    ),
    "ordinary token beyond the rows": (
        ids_within_embedding,
        (added_token("word", special=False),),
        "token_id_beyond_embedding",
        r"'word' with id 1024, but model\.embed_tokens\.weight has only 1024 rows \(ids 0 to 1023\)",
    ),
    "pad_token outside of the vocabulary": (
        ids_within_embedding,
        (fields(TOKENIZER_CONFIG, pad_token="[PAD]"),),
        "token_id_beyond_embedding",
        r"'\[PAD\]' with id 1024",
    ),
    "sep_token of special_tokens_map.json outside": (
        ids_within_embedding,
        (fields("special_tokens_map.json", sep_token={"content": "<sep>", "lstrip": False}),),
        "token_id_beyond_embedding",
        "'<sep>'",
    ),
    "token of added_tokens.json outside": (
        ids_within_embedding,
        (fields("added_tokens.json", **{"<new>": 1024}),),
        "token_id_beyond_embedding",
        "'<new>'",
    ),
    "token of added_tokens_decoder outside": (
        ids_within_embedding,
        (fields(TOKENIZER_CONFIG, added_tokens_decoder={"1024": {"content": "<late>", "special": True}}),),
        "token_id_beyond_embedding",
        "'<late>'",
    ),
    "additional_special_tokens outside": (
        ids_within_embedding,
        (fields(TOKENIZER_CONFIG, additional_special_tokens=["<one>", "<two>"]),),
        "token_id_beyond_embedding",
        "'<two>' with id 1025",
    ),
    "model-specific token outside": (
        ids_within_embedding,
        (fields(TOKENIZER_CONFIG, image_token="<image>"),),
        "token_id_beyond_embedding",
        "'<image>'",
    ),
    "default token of the stated class outside": (
        ids_within_embedding,
        (fields(TOKENIZER_CONFIG, tokenizer_class="GPT2Tokenizer"),),
        "token_id_beyond_embedding",
        r"'<\|endoftext\|>'",
    ),
    "larger tokenizer.model": (
        ids_within_embedding,
        (content("tokenizer.model", sentencepiece(1025)),),
        "token_id_beyond_embedding",
        "tokenizer.model has 1025 tokens",
    ),
    "eos_token_id of config.json": (
        ids_within_embedding,
        (fields("config.json", eos_token_id=2000),),
        "token_id_beyond_embedding",
        "eos_token_id in config.json is 2000",
    ),
    "eos_token_id of generation_config.json": (
        ids_within_embedding,
        (fields(GENERATION, eos_token_id=[0, 1024]),),
        "token_id_beyond_embedding",
        "eos_token_id in generation_config.json is 1024",
    ),
    "pad_token_id": (ids_within_embedding, (fields(GENERATION, pad_token_id=1024),), "token_id_beyond_embedding", "pad_token_id"),
    "tokenizer.json with a byte-order mark": (
        tokenizer_round_trip,
        (prefixed("tokenizer.json", BOM),),
        "tokenizer_broken",
        "begins with a byte-order mark",
    ),
    "tokenizer.json empty": (tokenizer_round_trip, (content("tokenizer.json", b""),), "tokenizer_broken", r"is empty \(0 bytes\)"),
    "tokenizer.json in UTF-16": (
        tokenizer_round_trip,
        (content("tokenizer.json", "{}".encode("utf-16")),),
        "tokenizer_broken",
        "not UTF-8: it begins with the byte-order mark of UTF-16",
    ),
    "special token that is a number": (
        tokenizer_round_trip,
        (fields(TOKENIZER_CONFIG, bos_token=5),),
        "tokenizer_broken",
        "bos_token in tokenizer_config.json must be a string",
    ),
    "added_tokens_decoder that is a list": (
        tokenizer_round_trip,
        (fields(TOKENIZER_CONFIG, added_tokens_decoder=[1]),),
        "tokenizer_broken",
        "added_tokens_decoder",
    ),
    "named templates without a default": (
        chat_template_renders,
        (chat([{"name": "chat", "template": TEMPLATE}, {"name": "tool_use", "template": TEMPLATE}]),),
        "no_chat_template",
        r"\('chat', 'tool_use'\) none is named 'default'",
    ),
    "list of templates that are no objects": (chat_template_renders, (chat(["x"]),), "broken_template", "must be a string, or a list"),
    "template that is a number": (chat_template_renders, (chat(5),), "broken_template", "got 5"),
    "template only in chat_template.json": (
        chat_template_renders,
        (chat(...), fields("chat_template.json", chat_template=TEMPLATE)),
        "no_chat_template",
        "chat_template.json, which vLLM reads for multimodal processors",
    ),
    "template that calls a function of Jinja wrongly": (
        chat_template_renders,
        (chat("{{ cycler() }}" + TEMPLATE),),
        "broken_template",
        "RuntimeError: at least one item",
    ),
    "empty chat_template.jinja": (
        chat_template_renders,
        (content("chat_template.jinja", b""),),
        "no_chat_template",
        "chat_template.jinja is empty",
    ),
    "chat_template.jinja in UTF-16": (
        chat_template_renders,
        (content("chat_template.jinja", TEMPLATE.encode("utf-16")),),
        "broken_template",
        "UTF-16",
    ),
    "bos_token that no file states": (
        chat_template_renders,
        (chat("{{ bos_token + 'x' }}" + TEMPLATE),),
        "broken_template",
        "'bos_token' is undefined",
    ),
    "bos_token null": (
        chat_template_renders,
        (chat("{{ bos_token + 'x' }}" + TEMPLATE, bos_token=None),),
        "broken_template",
        "'bos_token' is undefined",
    ),
    "list of extra tokens in a template": (
        chat_template_renders,
        (chat("{{ additional_special_tokens[0] }}" + TEMPLATE, additional_special_tokens=["<|end|>"]),),
        "broken_template",
        "'additional_special_tokens' is undefined",
    ),
    "tojson with an unknown option": (
        chat_template_renders,
        (chat("{{ messages | tojson(skipkeys=true) }}"),),
        "broken_template",
        "skipkeys",
    ),
    "quantization unknown": (
        served_quantization,
        (fields("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),),
        "unsupported_quantization",
        "'bitsandbytes', which vLLM does not serve; it serves .*awq.*gptq",
    ),
    "quantization in text_config": (
        served_quantization,
        (fields("config.json", text_config={"quantization_config": {"quant_method": "hqq"}}),),
        "unsupported_quantization",
        "'hqq'",
    ),
    "compression_config unknown": (
        served_quantization,
        (fields("config.json", compression_config={"quant_method": "zip"}),),
        "unsupported_quantization",
        "compression_config in config.json states the quantization method 'zip'",
    ),
    "quantization on GPUs only": (
        quantization_on_cpu,
        (fields("config.json", quantization_config={"quant_method": "mxfp4"}),),
        "quantization_not_on_cpu",
        "the quantisation method mxfp4 runs on GPUs only",
    ),
    "quantization_config that is a string": (
        served_quantization,
        (fields("config.json", quantization_config="awq"),),
        "unsupported_quantization",
        "must be an object, got 'awq'",
    ),
    "quant_method that is a list": (
        served_quantization,
        (fields("config.json", quantization_config={"quant_method": ["awq"]}),),
        "unsupported_quantization",
        "a list of 1",
    ),
    "packed weights without quantization_config": (
        served_quantization,
        (header(lambda names: names.update({"a.qweight": names.pop("model.norm.weight")})),),
        "unsupported_quantization",
        r"a\.qweight holds quantized weights",
    ),
    "intermediate_size": (
        shapes_match_config,
        (fields("config.json", intermediate_size=512),),
        "shape_mismatch",
        r"model\.layers\.0\.mlp\.down_proj\.weight has shape \[128, 256\], expected \[128, 512\] from intermediate_size = 512",
    ),
    "hidden_size": (shapes_match_config, (fields("config.json", hidden_size=64),), "shape_mismatch", "hidden_size = 64"),
    "vocab_size": (
        shapes_match_config,
        (fields("config.json", vocab_size=1000),),
        "shape_mismatch",
        r"model\.embed_tokens\.weight has shape \[1024, 128\], expected \[1000, 128\] from vocab_size = 1000",
    ),
    "head_dim": (shapes_match_config, (fields("config.json", head_dim=16),), "shape_mismatch", "num_key_value_heads = 2 x head_dim = 16"),
    "num_key_value_heads": (
        shapes_match_config,
        (fields("config.json", num_key_value_heads=4),),
        "shape_mismatch",
        r"k_proj\.weight has shape \[64, 128\], expected \[128, 128\]",
    ),
    "num_key_value_heads without head_dim": (
        shapes_match_config,
        (fields("config.json", num_key_value_heads=1, head_dim=...),),
        "shape_mismatch",
        "num_key_value_heads = 1 x hidden_size = 128 / num_attention_heads = 4",
    ),
    "heads that do not divide": (
        shapes_match_config,
        (fields("config.json", num_key_value_heads=3),),
        "shape_mismatch",
        r"num_attention_heads \(4\) in config.json must be a multiple of num_key_value_heads \(3\)",
    ),
    "missing layer": (
        shapes_match_config,
        (fields("config.json", num_hidden_layers=3),),
        "shape_mismatch",
        r"lack 1 of them, first model\.layers\.2",
    ),
    "extra layer": (
        shapes_match_config,
        (fields("config.json", num_hidden_layers=1),),
        "shape_mismatch",
        r"have 1 more, first model\.layers\.1",
    ),
    "billions of layers": (shapes_match_config, (fields("config.json", num_hidden_layers=10**12),), "shape_mismatch", "999999999998"),
    "missing tensor": (
        shapes_match_config,
        (header(lambda names: names.update(stray=names.pop("model.layers.1.mlp.up_proj.weight"))),),
        "shape_mismatch",
        r"lack 1 tensor that other layers have, first model\.layers\.1\.mlp\.up_proj\.weight",
    ),
    "untied without lm_head": (
        shapes_match_config,
        (fields("config.json", tie_word_embeddings=False),),
        "shape_mismatch",
        "lm_head.weight is missing",
    ),
    "no architectures": (
        served_architecture,
        (fields("config.json", architectures=...),),
        "unknown_architecture",
        "has no `architectures`",
    ),
    "architectures empty": (
        served_architecture,
        (fields("config.json", architectures=[]),),
        "unknown_architecture",
        "must be a list of names",
    ),
    "copy of the weights": (
        index_equals_tensors,
        (copied(WEIGHTS, "model.fp16.safetensors"),),
        "duplicate_weights",
        r"model\.fp16\.safetensors, model\.safetensors",
    ),
    "index of absent shards": (
        index_equals_tensors,
        (fields(INDEX, weight_map={"model.norm.weight": "model-00001-of-00002.safetensors"}),),
        "index_mismatch",
        r"names 1 file that cannot be found: model-00001-of-00002\.safetensors",
    ),
    "shard outside of the index": (
        index_equals_tensors,
        (
            copied(WEIGHTS, "other.safetensors"),
            header(
                lambda names: [names.update({f"x.{name}": names.pop(name)}) for name in list(names) if name != "__metadata__"],
                "other.safetensors",
            ),
            fields(INDEX, weight_map={"model.norm.weight": WEIGHTS}),
        ),
        "index_mismatch",
        r"does not name 1 of the weight files: other\.safetensors",
    ),
    "index with values of another kind": (
        index_equals_tensors,
        (fields(INDEX, weight_map={"a": [1]}),),
        "index_mismatch",
        "cannot be found",
    ),
    "repeated name in the header": (
        sound_headers,
        (repeated_name("model.norm.weight"),),
        "bad_header",
        r"the name model\.norm\.weight occurs twice in the header",
    ),
    "weights that are a GGUF": (sound_headers, (content(WEIGHTS, b"GGUF" + bytes(60)),), "bad_header", "it is a GGUF file"),
    "weights that are a torch archive": (sound_headers, (content(WEIGHTS, b"PK\x03\x04" + bytes(60)),), "bad_header", "ZIP archive"),
    "weights that are an error message": (
        sound_headers,
        (content(WEIGHTS, b"Entry not found"),),
        "bad_header",
        "it is text: 'Entry not found'",
    ),
    "weights empty": (sound_headers, (content(WEIGHTS, b""),), "bad_header", "it is empty"),
    "pointer instead of the weights": (
        whole_files,
        (content(WEIGHTS, POINTER),),
        "pointer_file",
        r"model\.safetensors is a Git LFS pointer",
    ),
    "pointers instead of weights and tokenizer": (
        whole_files,
        (content(WEIGHTS, POINTER), content("tokenizer.json", POINTER)),
        "pointer_file",
        r"model\.safetensors, tokenizer\.json are not the files themselves but Git LFS pointers",
    ),
    "pointer of Xet": (whole_files, (content("tokenizer.model", b"# xet version 0\nfilesize = 5\n"),), "pointer_file", "a Xet pointer"),
    "pointer instead of the card": (whole_files, (content("README.md", POINTER),), "pointer_file", "README.md"),
    "page instead of the weights": (
        whole_files,
        (content(WEIGHTS, b"\n<!DOCTYPE html><html>"),),
        "web_page",
        r"model\.safetensors is a web page",
    ),
    "page instead of config.json": (whole_files, (content("config.json", b"<HTML>"),), "web_page", "config.json"),
    "config.json with a byte-order mark": (
        readable_json,
        (prefixed("config.json", BOM),),
        "bad_json",
        "config.json begins with a byte-order mark",
    ),
    "tokenizer_config.json with a byte-order mark": (readable_json, (prefixed(TOKENIZER_CONFIG, BOM),), "bad_json", TOKENIZER_CONFIG),
    "generation_config.json with a byte-order mark": (readable_json, (prefixed(GENERATION, BOM),), "bad_json", GENERATION),
    "special_tokens_map.json with a byte-order mark": (
        readable_json,
        (prefixed("special_tokens_map.json", BOM),),
        "bad_json",
        "special_tokens_map.json begins with a byte-order mark",
    ),
    "added_tokens.json with a byte-order mark": (readable_json, (prefixed("added_tokens.json", BOM),), "bad_json", "added_tokens.json"),
    "index with a byte-order mark": (index_equals_tensors, (prefixed(INDEX, BOM),), "index_mismatch", "byte-order mark"),
    "config.json in UTF-16": (readable_json, (content("config.json", "{}".encode("utf-16")),), "bad_json", "byte-order mark of UTF-16"),
    "config.json in Latin-1": (readable_json, (content("config.json", b'{"a": "\xe9"}'),), "bad_json", "byte 7 is 0xe9"),
    "config.json empty": (readable_json, (content("config.json", b""),), "bad_json", r"is empty \(0 bytes\)"),
    "config.json of brackets": (
        readable_json,
        (content("config.json", b'{"a": [' + b"[]," * 2_000_000 + b"[]]}"),),
        "bad_json",
        "config.json may have at most 500000 values, has about 4000004",
    ),
    "temperature above the limit": (
        default_sampling,
        (fields(GENERATION, temperature=100.0),),
        "bad_generation_config",
        "temperature in generation_config.json must be a number between 0 and 2, got 100.0",
    ),
    "temperature negative": (default_sampling, (fields(GENERATION, temperature=-1),), "bad_generation_config", "got -1"),
    "temperature a string": (default_sampling, (fields(GENERATION, temperature="0.7"),), "bad_generation_config", "got '0.7'"),
    "temperature NaN": (default_sampling, (fields(GENERATION, temperature=float("nan")),), "bad_generation_config", "got nan"),
    "temperature of 400 digits": (default_sampling, (fields(GENERATION, temperature=10**400),), "bad_generation_config", "temperature"),
    "top_p zero": (default_sampling, (fields(GENERATION, top_p=0),), "bad_generation_config", "top_p"),
    "top_k a fraction": (default_sampling, (fields(GENERATION, top_k=1.5),), "bad_generation_config", "top_k"),
    "repetition_penalty zero": (default_sampling, (fields(GENERATION, repetition_penalty=0.0),), "bad_generation_config", "0.01 and 100"),
    "top_k beyond 32 bits": (default_sampling, (fields(GENERATION, top_k=2**31),), "bad_generation_config", "between -1 and 2147483647"),
    "max_new_tokens of 400 digits": (default_sampling, (fields(GENERATION, max_new_tokens=10**400),), "bad_generation_config", "got 1000"),
    "repetition_penalty beyond float32": (
        default_sampling,
        (fields(GENERATION, repetition_penalty=1e39),),
        "bad_generation_config",
        r"between 0\.01 and 100, got 1e\+39",
    ),
    "repetition_penalty of nothing": (default_sampling, (fields(GENERATION, repetition_penalty=1e-40),), "bad_generation_config", "0.01"),
    "early_stopping a number": (
        default_sampling,
        (fields(GENERATION, early_stopping=5),),
        "bad_generation_config",
        'early_stopping in generation_config.json must be true, false or "never", got 5',
    ),
    "cache of another name": (
        default_sampling,
        (fields(GENERATION, cache_implementation="foo"),),
        "bad_generation_config",
        "must be one of static, .*, got 'foo'",
    ),
    "compile_config": (default_sampling, (fields(GENERATION, compile_config={}),), "bad_generation_config", "must be null, got an object"),
    "layers a string": (
        config_types,
        (fields("config.json", num_hidden_layers="2"),),
        "bad_config",
        "num_hidden_layers in config.json must be a whole number, got '2'",
    ),
    "layers a decimal number": (config_types, (fields("config.json", num_hidden_layers=2.0),), "bad_config", r"whole number, got 2\.0"),
    "layers true": (config_types, (fields("config.json", num_hidden_layers=True),), "bad_config", "whole number, got true"),
    "layers an empty list": (config_types, (fields("config.json", num_hidden_layers=[]),), "bad_config", r"whole number, got \[\]"),
    "no layers": (config_types, (fields("config.json", num_hidden_layers=0),), "bad_config", "must be at least 1, got 0"),
    "negative vocabulary": (config_types, (fields("config.json", vocab_size=-5),), "bad_config", "vocab_size .* at least 1, got -5"),
    "heads null": (config_types, (fields("config.json", num_attention_heads=None),), "bad_config", "a whole number, got null"),
    "token id a string": (config_types, (fields("config.json", bos_token_id="1"),), "bad_config", "null or a whole number, got '1'"),
    "epsilon a whole number": (
        config_types,
        (fields("config.json", rms_norm_eps=1),),
        "bad_config",
        "rms_norm_eps in config.json must be a decimal number, got the whole number 1",
    ),
    "dtype with the library's name": (
        config_types,
        (fields("config.json", torch_dtype="torch.bfloat16"),),
        "bad_config",
        "torch_dtype in config.json must be one of float32, .*, got 'torch.bfloat16'",
    ),
    "rope_scaling a string": (config_types, (fields("config.json", rope_scaling="x"),), "bad_config", "rope_scaling .* null or an object"),
    "token ids as strings": (
        config_types,
        (fields("config.json", eos_token_id=[0, "x"]),),
        "bad_config",
        "eos_token_id in config.json must be null, a whole number or a list of whole numbers, got a list of 2",
    ),
    "no decimal number": (
        config_types,
        (fields("config.json", rms_norm_eps={"__float__": "1"}),),
        "bad_config",
        "decimal number, got an obj",
    ),
    "layers by another name": (
        config_types,
        (fields("config.json", model_type="gpt2", n_layer=2, num_hidden_layers="x"),),
        "bad_config",
        "num_hidden_layers in config.json must be a whole number, got 'x'",
    ),
    "negative heads": (config_types, (fields("config.json", num_key_value_heads=-4),), "bad_config", "must be at least 0, got -4"),
    "template whose filter asserts": (
        chat_template_renders,
        (chat("{{ 'abcdefghijk'|truncate(1) }}"),),
        "broken_template",
        "AssertionError",
    ),
    "template of an infinite number": (chat_template_renders, (chat("{{ 1e999|int }}"),), "broken_template", "NameError"),
    "too many added tokens": (
        tokenizer_round_trip,
        (fields(TOKENIZER_CONFIG, additional_special_tokens=[str(number) for number in range(100_001)]),),
        "tokenizer_broken",
        "may add at most 100000 tokens, they add 10000",
    ),
    "id of the post-processor": (
        ids_within_embedding,
        (fields("tokenizer.json", post_processor=framed(5000)),),
        "token_id_beyond_embedding",
        "the post-processor in tokenizer.json adds the id 5000 to a text, but",
    ),
    "template that overflows": (chat_template_renders, (chat("{{ 10.0 ** 400 }}"),), "broken_template", "OverflowError"),
    "packed weights": (
        sound_headers,
        (raw_header(b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'),),
        "bad_header",
        "has the dtype F4, which the engine cannot load; store it packed in U8",
    ),
    "max_new_tokens zero": (default_sampling, (fields(GENERATION, max_new_tokens=0),), "bad_generation_config", "max_new_tokens"),
}

HOSTILE: dict[str, tuple[Check, tuple[Change, ...], str]] = {
    "header of brackets": (
        sound_headers,
        (raw_header(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"),),
        "the header may have at most 2000000 values, has about 2600004",
    ),
    "header of numbers": (sound_headers, (raw_header(b'{"a":[' + b"0," * 2_500_000 + b"0]}"),), "has about 2500003"),
    "header of metadata": (
        sound_headers,
        (raw_header(b'{"__metadata__":{' + b",".join(b'"%07d":""' % number for number in range(1_300_000)) + b"}}"),),
        "has about 2600002",
    ),
    "header nested deep": (sound_headers, (raw_header(b'{"a":' * 100_000),), "nested too deep"),
    "header with a number of 4000 digits": (
        sound_headers,
        (raw_header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,4]}}'),),
        "invalid shape",
    ),
    "shape of nested lists": (
        sound_headers,
        (raw_header(b'{"a":{"dtype":"F32","shape":' + b"[" * 900 + b"]" * 900 + b',"data_offsets":[0,4]}}'),),
        "invalid shape a list of 1",
    ),
    "dtype that is an object": (
        sound_headers,
        (raw_header(b'{"a":{"dtype":{"x":[1]},"shape":[1],"data_offsets":[0,4]}}'),),
        "has the dtype an object; accepted are BOOL",
    ),
    "dtype of 4-bit integers": (
        sound_headers,
        (raw_header(b'{"a":{"dtype":"I4","shape":[2],"data_offsets":[0,1]}}'),),
        "has the dtype 'I4'",
    ),
    "header in UTF-16": (sound_headers, (raw_header("{}".encode("utf-16")),), "not JSON: 'utf-8' codec"),
    "metadata that is a list": (sound_headers, (header(lambda names: names.update(__metadata__=["x"])),), "__metadata__ must map strings"),
    "tensors without a number": (
        sound_headers,
        (raw_header(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),),
        "every tensor is empty",
    ),
    "sizes of 3000 digits": (
        shapes_match_config,
        (fields("config.json", num_attention_heads=10**3000, hidden_size=10**3000),),
        "from hidden_size = 1000000000000000 in config.json",
    ),
    "cache of 8000 digits": (
        fits_engine,
        (fields("config.json", num_hidden_layers=10**4000, num_key_value_heads=10**4000),),
        "above an engine's",
    ),
    "stray layer with a huge number": (
        shapes_match_config,
        (header(lambda names: names.update({"model.layers.999999.x": names.pop("model.norm.weight")})),),
        r"have 1 more, first model\.layers\.999999",
    ),
    "thousands of ids": (
        ids_within_embedding,
        (fields(GENERATION, eos_token_id=list(range(5000))),),
        "eos_token_id in generation_config.json is 1024",
    ),
    "token with control characters": (ids_within_embedding, (fields(TOKENIZER_CONFIG, pad_token="\0\x1b[2J"),), r"\\x00\\x1b\[2J"),
    "token with a lone surrogate": (
        tokenizer_round_trip,
        (content(TOKENIZER_CONFIG, b'{"pad_token":"\\ud800"}'),),
        r"'\\ud800' has a lone surrogate",
    ),
    "method of 100,000 characters": (
        served_quantization,
        (fields("config.json", quantization_config={"quant_method": "q" * 100_000}),),
        "qqq', which vLLM does not serve",
    ),
    "index that leaves the folder": (
        index_equals_tensors,
        (fields(INDEX, weight_map={"a": "../../etc/passwd"}),),
        r"cannot be found: \.\./\.\./etc/passwd",
    ),
    "card of fences": (licence_allowed, (content("README.md", b"---\n" * 500_000),), "no licence is stated"),
    "licence of control characters": (
        licence_allowed,
        (content("README.md", b'---\nlicense: "\\0\\x1b[2J"\n---\n'),),
        "not among the allowed ones",
    ),
    "template that imports": (chat_template_renders, (chat("{% import 'os' as o %}"),), "no loader for this environment"),
    "template that reaches for globals": (chat_template_renders, (chat("{{ cycler.__init__.__globals__ }}"),), "is unsafe"),
    "template that calls itself": (
        chat_template_renders,
        (chat("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"),),
        "maximum recursion depth",
    ),
    "template of a billion spaces": (chat_template_renders, (chat("{{ '{:>999999999}'.format('a') }}"),), "exceeds 3 s and 512 MiB"),
    "special token that hides an argument": (
        chat_template_renders,
        (chat(TEMPLATE, extra_special_tokens={"tools": "<|end|>"}),),
        "multiple values for keyword argument 'tools'",
    ),
}

ACCEPTED: dict[str, tuple[Check, tuple[Change, ...]]] = {
    "truncation of a training run": (
        tokenizer_round_trip,
        (fields("tokenizer.json", truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}),),
    ),
    "padding of a training run": (
        tokenizer_round_trip,
        (
            fields(
                "tokenizer.json",
                padding={
                    "strategy": {"Fixed": 64},
                    "direction": "Right",
                    "pad_to_multiple_of": None,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "<|end|>",
                },
            ),
        ),
    ),
    "id of the post-processor within the rows": (ids_within_embedding, (fields("tokenizer.json", post_processor=framed(1023)),)),
    "infinite numbers as transformers 5 writes them": (config_types, (fields("config.json", rms_norm_eps={"__float__": "Infinity"}),)),
    "no end of a text": (config_types, (fields("config.json", eos_token_id=[]),)),
    "65,536 speech tokens in tokenizer_config.json": (readable_json, (fields(TOKENIZER_CONFIG, added_tokens_decoder=speech_tokens()),)),
    "65,536 speech tokens in special_tokens_map.json": (
        readable_json,
        (fields("special_tokens_map.json", additional_special_tokens=list(speech_tokens().values())),),
    ),
    "several ends of a text": (config_types, (fields("config.json", eos_token_id=[0, 1], rope_scaling=None, torch_dtype="bfloat16"),)),
    "defaults of other libraries": (
        default_sampling,
        (fields(GENERATION, early_stopping="never", cache_implementation="hybrid", compile_config=None, watermarking_config={}),),
    ),
    "configuration of unknown keys": (config_types, (fields("config.json", bits="x", num_key_value_heads=None, eos_token_id=[1]),)),
    "model type of another class": (config_types, (fields("config.json", model_type="kimi_k2", num_hidden_layers="x"),)),
    "fewer tokens than rows": (ids_within_embedding, (fields("config.json", pad_token_id=-1),)),
    "id of the last row": (ids_within_embedding, (fields(GENERATION, eos_token_id=[0, 1023]),)),
    "smaller tokenizer.model": (ids_within_embedding, (content("tokenizer.model", sentencepiece(1024)),)),
    "tokenizer.model of tiktoken": (ids_within_embedding, (content("tokenizer.model", b"IQ== 0\nIg== 1\n"),)),
    "added_tokens.json beside added_tokens_decoder, as transformers ignores it": (
        ids_within_embedding,
        (
            fields(TOKENIZER_CONFIG, added_tokens_decoder={"0": {"content": "<|end|>", "special": True}}),
            fields("added_tokens.json", **{"<new>": 9}),
        ),
    ),
    "bos_token of special_tokens_map.json": (
        chat_template_renders,
        (
            fields("special_tokens_map.json", bos_token="<|end|>", eos_token="<|end|>"),
            chat("{{ bos_token + eos_token }}" + TEMPLATE, eos_token=..., pad_token=...),
        ),
    ),
    "bos_token of special_tokens_map.json as an object": (
        chat_template_renders,
        (fields("special_tokens_map.json", bos_token={"content": "<|end|>", "lstrip": False}), chat("{{ bos_token + '' }}" + TEMPLATE)),
    ),
    "AddedToken object": (
        chat_template_renders,
        (chat("{{ bos_token + '' }}" + TEMPLATE, bos_token={"__type": "AddedToken", "content": "<|end|>"}),),
    ),
    **{
        f"{name} in the template": (chat_template_renders, (chat(f"{{{{ {name} + '' }}}}" + TEMPLATE, **{name: "<|end|>"}),))
        for name in ("sep_token", "cls_token", "mask_token", "unk_token", "pad_token", "image_token")
    },
    "named extra tokens": (
        chat_template_renders,
        (chat("{{ audio_token + '' }}" + TEMPLATE, extra_special_tokens={"audio_token": "<|end|>"}),),
    ),
    "default bos_token of the tokenizer's class": (
        chat_template_renders,
        (chat("{{ bos_token + '' }}" + TEMPLATE, tokenizer_class="LlamaTokenizerFast"),),
    ),
    "content in parts": (chat_template_renders, (chat(PARTS),)),
    "content in parts or as a string": (
        chat_template_renders,
        (
            chat(
                "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                "{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
            ),
        ),
    ),
    "content in parts by a macro": (
        chat_template_renders,
        (
            chat(
                "{% macro show(body) %}{% for p in body %}{{ p['text'] }}{% endfor %}{% endmacro %}"
                "{% for m in messages %}{{ show(m['content']) }}{% endfor %}"
            ),
        ),
    ),
    "system message required": (chat_template_renders, (chat(SYSTEM_FIRST),)),
    "system message forbidden": (chat_template_renders, (chat(NO_SYSTEM),)),
    "roles must alternate": (chat_template_renders, (chat(ALTERNATE),)),
    "tools asked for": (chat_template_renders, (chat("{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}" + TEMPLATE),)),
    "date": (chat_template_renders, (chat("{{ strftime_now('%d %b %Y') }}" + TEMPLATE),)),
    "generation block": (
        chat_template_renders,
        (chat("{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"),),
    ),
    "object of named templates": (chat_template_renders, (chat({"default": TEMPLATE, "tool_use": "x"}),)),
    "jinja file with a byte-order mark and line ends of Windows": (
        chat_template_renders,
        (content("chat_template.jinja", BOM + TEMPLATE.replace("\n", "\r\n").encode()),),
    ),
    **{
        f"quantization {method}": (served_quantization, (fields("config.json", quantization_config={"quant_method": method}),))
        for method in ("awq", "gptq", "compressed-tensors", "compressed_tensors", "fp8", "auto-round")
    },
    "shapes of a sound model": (shapes_match_config, ()),
    "sizes that config.json leaves out": (
        shapes_match_config,
        (fields("config.json", intermediate_size=..., num_key_value_heads=..., head_dim=..., vocab_size=..., num_hidden_layers=...),),
    ),
    "shapes of a family that is not known": (
        shapes_match_config,
        (fields("config.json", architectures=["FalconForCausalLM"], intermediate_size=7),),
    ),
    "shapes of quantized weights": (
        shapes_match_config,
        (fields("config.json", intermediate_size=7, quantization_config={"quant_method": "awq"}),),
    ),
    "repeated key in config.json": (readable_json, (content("config.json", b'{"a": 1, "a": 2}'),)),
    "Infinity in config.json, as Mamba 2 has": (readable_json, (content("config.json", b'{"time_step_limit": [0.0, Infinity]}'),)),
    "readable vocab.json is not needed": (readable_json, (prefixed("vocab.json", BOM),)),
    "card with a byte-order mark": (licence_allowed, (prefixed("README.md", BOM),)),
    "card with line ends of Windows": (licence_allowed, (content("README.md", b"---\r\nlicense: mit\r\n---\r\n"),)),
    "card with a comment and quotes": (licence_allowed, (content("README.md", b'---\nlicense: "mit" # free\n---\n'),)),
    "card with a list": (licence_allowed, (content("README.md", b"---\nlicense:\n- mit\n---\n"),)),
    "card that begins as a page": (whole_files, (content("README.md", b"<html><h1>model</h1>"),)),
    "keys that vLLM ignores": (
        default_sampling,
        (fields(GENERATION, max_length=5, forced_bos_token_id=1, suppress_tokens=[1], stop_strings=["a"], num_beams=9),),
    ),
    "sampling at the limits": (
        default_sampling,
        (fields(GENERATION, temperature=2, top_p=1, top_k=-1, min_p=0, repetition_penalty=1.0, max_new_tokens=1),),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_fault_is_refused_with_its_file_and_value(tmp_path: Path, case: str) -> None:
    check, changes, reason, message = REFUSED[case]
    findings = found(check, steady_model(tmp_path / "model", *changes))
    assert findings, "the check found nothing"
    assert {finding.name for finding in findings} == {reason}
    assert re.search(message, findings[0].reason), findings[0].reason
    assert findings[0].hint[0].isupper()
    assert len(findings[0].reason) < 600


@pytest.mark.parametrize("case", HOSTILE)
def test_inputs_made_to_break_a_check_are_refused_in_one_short_sentence_each(tmp_path: Path, case: str) -> None:
    check, changes, message = HOSTILE[case]
    findings = found(check, steady_model(tmp_path / "model", *changes))
    assert 1 <= len(findings) <= 3
    assert re.search(message, findings[0].reason), findings[0].reason
    for finding in findings:
        assert len(finding.reason) < 900
        assert finding.reason.replace("\n", "").isprintable()


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_vllm_serves_is_accepted(tmp_path: Path, case: str) -> None:
    check, changes = ACCEPTED[case]
    assert found(check, steady_model(tmp_path / "model", *changes)) == []


def test_hint_names_the_call_that_enlarges_the_embedding(tmp_path: Path) -> None:
    (finding,) = found(ids_within_embedding, steady_model(tmp_path / "model", added_token("[PAD]")))
    assert "resize_token_embeddings" in finding.hint


@pytest.mark.parametrize(
    ("end", "message"),
    [(End.TOO_LONG, "takes more than 30 s of CPU time"), (End.TOO_MUCH_MEMORY, "takes more than 4 GiB of memory")],
)
def test_tokenizer_beyond_its_limits_is_told_which(tmp_path: Path, end: End, message: str) -> None:
    folder = steady_model(tmp_path / "model")
    files = ModelFiles(folder, listed(folder), ModelPolicy(), EngineHost(gpu=False))
    files.once("tokenizer.json", lambda: Answer(end))
    (finding,) = tokenizer_round_trip(files)
    assert finding.name == "tokenizer_broken"
    assert message in finding.reason


def test_machine_without_time_for_a_check_is_no_fault_of_the_model() -> None:
    script = Path(template.__file__).with_name("template_child.py")
    with pytest.raises(Transient, match=r"given less than 5 s of CPU time in 0 s"):
        confined(script, {"template": "", "special": {}, "conversations": []}, Limits(wall_s=0.0))


def test_child_that_the_machine_kills_is_no_fault_of_the_model(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(Transient, match=r"killed\.py was killed \(SIGKILL\)"):
        confined(script, {}, Limits())


def test_tensors_of_all_files_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = steady_model(tmp_path / "model")
    weights = (folder / WEIGHTS).read_bytes()
    for number in (1, 2, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").write_bytes(weights)
    monkeypatch.setattr(model_files, "_MAX_TENSORS", 1)
    findings = found(sound_headers, folder)
    assert len(findings) == 3
    assert "the files before it have" in findings[0].reason
    assert "the limit is 1" in findings[0].reason


def test_hint_for_pointers_names_git_lfs_pull(tmp_path: Path) -> None:
    (finding,) = found(whole_files, steady_model(tmp_path / "model", content(WEIGHTS, POINTER)))
    assert "git lfs pull" in finding.hint


def test_quantization_for_gpus_is_accepted_where_engines_have_them(tmp_path: Path) -> None:
    folder = steady_model(tmp_path / "model", fields("config.json", quantization_config={"quant_method": "mxfp4"}))
    assert [finding.name for finding in found(quantization_on_cpu, folder)] == ["quantization_not_on_cpu"]
    assert found(quantization_on_cpu, folder, gpu=True) == []
    assert "mxfp4" in served_methods()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_pointers_and_pages_make_one_finding_each(tmp_path: Path, check: Any) -> None:
    folder = steady_model(
        tmp_path / "model", *(content(name, POINTER) for name in ("config.json", "tokenizer.json", TOKENIZER_CONFIG, WEIGHTS))
    )
    findings = found(check.look, folder)
    assert [finding.name for finding in findings] == (["pointer_file"] if check.name == "whole_files" else [])


SCREENED: dict[str, tuple[tuple[Change, ...], str, str]] = {
    "name of a browser's download": (
        (renamed(WEIGHTS, "model (1).safetensors"),),
        "no_safetensors",
        r"'model \(1\)\.safetensors' is not an accepted",
    ),
    "name of a file manager's copy": ((renamed(WEIGHTS, "model copy.safetensors"),), "no_safetensors", "model copy.safetensors"),
    "unfinished download": ((renamed(WEIGHTS, "model.safetensors.incomplete"),), "no_safetensors", "incomplete"),
    "only GGUF": ((renamed(WEIGHTS, "model.Q4.gguf"),), "gguf_only", r"GGUF.*model\.Q4\.gguf"),
    "only a pickle": ((renamed(WEIGHTS, "pytorch_model.bin"),), "pickle_only", r"pytorch_model\.bin"),
    "only an adapter": ((renamed(WEIGHTS, "adapter_model.safetensors"),), "adapter_only", "is an adapter"),
    "missing shard": (
        (renamed(WEIGHTS, "model-00001-of-00003.safetensors"),),
        "index_mismatch",
        r"first model-00002-of-00003\.safetensors",
    ),
    "no tokenizer": ((removed("tokenizer.json"),), "no_tokenizer", "tokenizer.json"),
}


@pytest.mark.parametrize("case", SCREENED)
def test_listing_is_refused_with_the_name_of_the_file(tmp_path: Path, case: str) -> None:
    changes, reason, message = SCREENED[case]
    folder = steady_model(tmp_path / "model", *changes)
    with pytest.raises(Refused, match=message) as refusal:
        screen(FolderHub().resolve(ModelRef(str(folder))), ModelPolicy())
    assert refusal.value.reason == reason
    assert refusal.value.hint[0].isupper()


@pytest.mark.parametrize(
    "other", ["model (1).safetensors", "pytorch_model.bin", "model.gguf", "consolidated.safetensors", "adapter_x.safetensors"]
)
def test_second_copies_beside_the_weights_are_left_out(tmp_path: Path, other: str) -> None:
    folder = steady_model(tmp_path / "model", copied(WEIGHTS, other))
    assert other not in {file.path for file in screen(FolderHub().resolve(ModelRef(str(folder))), ModelPolicy())}


def test_missing_shards_are_found_without_counting_to_the_stated_number(tmp_path: Path) -> None:
    model = listed(steady_model(tmp_path / "model"))
    files = (*model.files, HubFile("model-00000-of-99999.safetensors", 1))
    with pytest.raises(Refused, match="99998 of 99999 weight files are missing"):
        screen(listed(tmp_path / "model", files=files), ModelPolicy())


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"\x0a", b"\x0a\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff" * 30, b"\x0b\x0c"]
)
def test_bytes_that_are_no_sentencepiece_model_have_no_count(raw: bytes) -> None:
    assert pieces(raw) is None


def test_reasons_of_the_checks_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trials.md").read_text(encoding="utf-8")
    source = Path(__file__).parents[2] / "evals"
    reasons = {
        Reason[name]
        for path in (*source.glob("checks/*.py"), source / "trials.py", source / "fidelity.py")
        for name in re.findall(r"Reason\.([A-Z_]+)", path.read_text(encoding="utf-8"))
    }
    assert {Reason.TOKEN_ID_BEYOND_EMBEDDING, Reason.NO_SAFETENSORS, Reason.NO_DEFAULT_CHAT, Reason.ENGINE_DIFFERS} <= reasons
    assert sorted(reason for reason in reasons if f"`{reason}`" not in page) == []


def test_tokenizer_classes_are_those_of_the_engine() -> None:
    document = json.loads((Path(__file__).parents[2] / "evals/checks/tokenizer_classes.json").read_text(encoding="utf-8"))
    assert document["classes"]["LlamaTokenizer"]["bos_token"] == "<s>"
    assert document["model_types"]["qwen3"] == "Qwen2Tokenizer"
