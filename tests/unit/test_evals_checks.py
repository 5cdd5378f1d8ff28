"""Each bad input makes exactly its reason; the sound one makes none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import Refused
from core.hosts import EngineHost, cpu_host
from core.settings import ModelPolicy
from core.versions import HubFile
from evals.checks import CHECKS, Examination, examine, screen
from evals.checks.architecture import known_architectures
from evals.checks.memory import kv_bytes_per_token
from tests.equipment.broken_models import (
    CONFIG,
    SHARDS,
    change_json,
    cut,
    listed,
    poison,
    rewrite_shard,
    save_weights,
    sound_model,
    write_json,
)

POLICY = ModelPolicy()
FIRST, LAST = SHARDS
Break = Callable[[Path], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return sound_model(tmp_path / "model")


def examined(folder: Path, policy: ModelPolicy = POLICY, **fields: Any) -> Examination:
    return examine(folder, listed(folder, **fields), policy)


def failures(examination: Examination) -> list[str]:
    return [finding.name for finding in examination.findings if not finding.passed]


def test_sound_model_passes_every_check(model: Path) -> None:
    examination = examined(model)
    assert examination.passed
    assert [finding.name for finding in examination.findings] == [check.name for check in CHECKS]
    assert examination.licence == "apache-2.0"
    assert examination.chat_template is not None
    assert examination.needs is not None
    assert (examination.needs.architecture, examination.needs.dtype) == ("LlamaForCausalLM", "float32")
    assert examination.needs.weights_bytes == 3 * 16 * 8 * 4
    assert (examination.needs.max_model_len, examination.needs.attention_heads) == (256, 2)


@pytest.mark.parametrize("name", ["steady", "clumsy", "parrot"])
def test_our_own_models_pass_every_check(name: str) -> None:
    folder = Path(__file__).parents[1] / "equipment" / "models" / name
    assert screen(listed(folder), POLICY)
    assert failures(examined(folder)) == []


def put(name: str, text: str) -> Break:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def header(name: str, **fields: Any) -> Break:
    return rewrite_shard(lambda document: document[name].update(fields))


def template(text: str | None) -> Break:
    return change_json("tokenizer_config.json", chat_template=text)


def quantised(dtype: str = "float32", more: dict[str, Any] | None = None, **described: Any) -> Break:
    return change_json("config.json", dtype=dtype, quantization_config=described, **(more or {}))


def index(change: Callable[[dict[str, str]], object]) -> Break:
    def apply(folder: Path) -> None:
        names = {name: path for path, held in SHARDS.items() for name in held}
        change(names)
        write_json(folder / "model.safetensors.index.json", {"weight_map": names})

    return apply


def file_in_a_folder(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").touch()


BROKEN: dict[str, tuple[str, Break]] = {
    "python file": ("unexpected_file", put("modeling_tiny.py", "print()")),
    "pickle beside": ("unexpected_file", put("pytorch_model.bin", "x")),
    "file in a folder": ("unexpected_file", file_in_a_folder),
    "link": ("link_in_model", lambda folder: (folder / "LICENSE").symlink_to("/etc/passwd")),
    "fifo": ("link_in_model", lambda folder: os.mkfifo(folder / "vocab.txt")),
    "config no JSON": ("bad_json", put("config.json", "{")),
    "config too deep": ("bad_json", put("config.json", "[" * 100_000)),
    "tokenizer configuration no JSON": ("bad_json", put("tokenizer_config.json", "{")),
    "config a list": ("bad_json", put("config.json", "[]")),
    "config too long": ("bad_json", put("config.json", " " * (17 * 1024**2))),
    "no config": ("no_config", lambda folder: (folder / "config.json").unlink()),
    "auto_map": ("remote_code", change_json("config.json", auto_map={"AutoModel": "x.Y"})),
    "nested auto_map": ("remote_code", change_json("config.json", vision_config={"auto_map": {}})),
    "auto_map of the tokenizer": ("remote_code", change_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]})),
    "unknown architecture": ("unknown_architecture", change_json("config.json", architectures=["LlamaForRegression"])),
    "no architecture": ("unknown_architecture", change_json("config.json", architectures=None)),
    "architecture no list": ("unknown_architecture", change_json("config.json", architectures="LlamaForCausalLM")),
    "architecture of the past": ("architecture_removed", change_json("config.json", architectures=["MPTForCausalLM"])),
    "multimodal": ("not_a_text_model", change_json("config.json", architectures=["Qwen2VLForConditionalGeneration"])),
    "encoder": ("not_a_text_model", change_json("config.json", architectures=["BertModel"])),
    "classifier": ("not_a_text_model", change_json("config.json", architectures=["LlamaForSequenceClassification"])),
    "encoder and decoder": ("not_a_text_model", change_json("config.json", architectures=["T5ForConditionalGeneration"])),
    "draft model": ("not_a_text_model", change_json("config.json", architectures=["EagleLlamaForCausalLM"])),
    "no model type": ("no_model_type", change_json("config.json", model_type=None)),
    "model type of its own code": ("model_type_needs_code", change_json("config.json", model_type="internlm2")),
    "architecture of GPUs": ("architecture_needs_gpu", change_json("config.json", architectures=["MambaForCausalLM"], model_type="mamba")),
    "bitsandbytes": ("unsupported_quantization", quantised(quant_method="bitsandbytes", load_in_4bit=True)),
    "AWQ in float32": ("unsupported_quantization", quantised(quant_method="awq", bits=4)),
    "GPTQ of 8 bits": ("quantization_not_on_cpu", quantised("float16", quant_method="gptq", bits=8)),
    "MXFP4": ("quantization_not_on_cpu", quantised(quant_method="mxfp4")),
    "quantised experts": ("quantization_not_on_cpu", quantised("float16", {"num_local_experts": 8}, quant_method="awq", bits=4)),
    "small heads": ("heads_not_on_cpu", change_json("config.json", head_dim=16)),
    "cut weights": ("truncated_weights", cut),
    "cut header": ("truncated_weights", lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:40])),
    "empty weights": ("bad_header", lambda folder: (folder / FIRST).write_bytes(b"")),
    "header of 2 GB": ("bad_header", lambda folder: (folder / FIRST).write_bytes((2 * 10**9).to_bytes(8, "little") + b"{}")),
    "pointer as weights": ("pointer_file", put(FIRST, "version https://git-lfs.github.com/spec/v1\n")),
    "text as weights": ("bad_header", put(FIRST, "Entry not found")),
    "bytes of no tensor": ("bad_header", lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes() + b"more")),
    "unknown dtype": ("bad_header", header("embed", dtype="F42")),
    "shape too large": ("bad_header", header("embed", shape=[16, 9])),
    "negative shape": ("bad_header", header("embed", shape=[-16, -8])),
    "overlap": ("bad_header", header("layer", data_offsets=[0, 512])),
    "hole": ("bad_header", header("layer", data_offsets=[600, 1112])),
    "no tensors": ("bad_header", rewrite_shard(lambda document: document.clear())),
    "index names more": ("index_mismatch", index(lambda names: names.update(ghost=FIRST))),
    "index names fewer": ("index_mismatch", index(lambda names: names.pop("head"))),
    "index moves one": ("index_mismatch", index(lambda names: names.update(head=FIRST))),
    "index names no file": ("index_mismatch", index(lambda names: names.update(head="other.safetensors"))),
    "index without map": ("index_mismatch", put("model.safetensors.index.json", "{}")),
    "index no JSON": ("index_mismatch", put("model.safetensors.index.json", "{")),
    "shards without index": ("index_mismatch", lambda folder: (folder / "model.safetensors.index.json").unlink()),
    "tensor twice": ("duplicate_weights", lambda folder: (folder / LAST).write_bytes((folder / FIRST).read_bytes())),
    "no tokenizer": ("no_tokenizer", lambda folder: (folder / "tokenizer.json").unlink()),
    "tokenizer no JSON": ("tokenizer_broken", put("tokenizer.json", "{")),
    "tokenizer of no words": ("tokenizer_broken", change_json("tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []})),
    "no template": ("no_chat_template", template(None)),
    "empty template": ("no_chat_template", template("")),
    "endless template": ("endless_template", template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")),
    "huge template output": ("endless_template", template("{{ 'a' * 10 ** 10 }}{{ messages[-1]['content'] }}")),
    "long template output": ("endless_template", template("{% for a in range(99999) %}{{ messages[-1]['content'] * 99 }}{% endfor %}")),
    "template syntax": ("broken_template", template("{% for %}")),
    "template raises": ("broken_template", template("{{ raise_exception('no') }}")),
    "template reaches out": ("broken_template", template("{{ messages.__class__.__mro__[1].__subclasses__() }}")),
    "template writes": ("broken_template", template("{% set _ = messages.append(1) %}{{ messages }}")),
    "template is deaf": ("broken_template", template("Hello.")),
    "template no UTF-8": ("broken_template", lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{")),
    "no licence": ("licence_not_stated", put("README.md", "# tiny\nlicense: mit\n")),
    "licence not allowed": ("licence_not_allowed", put("README.md", "---\nlicense: cc-by-nc-4.0\n---\n")),
    "NaN": ("nan_in_weights", poison(np.uint32, 0x7FC0_0000)),
    "another NaN": ("nan_in_weights", poison(np.uint32, 0xFF80_0001)),
    "infinite": ("nan_in_weights", poison(np.uint32, 0x7F80_0000)),
    "minus infinite": ("nan_in_weights", poison(np.uint32, 0xFF80_0000, at=-128)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_fault_makes_exactly_its_reason(model: Path, case: str) -> None:
    reason, breaks = BROKEN[case]
    breaks(model)
    examination = examined(model)
    assert failures(examination) == [reason], examination.findings
    (finding,) = (finding for finding in examination.findings if not finding.passed)
    assert finding.reason.startswith("org/tiny@1a2b3c4d: ")
    assert finding.hint
    assert len(finding.reason) < 600


def test_all_faults_are_collected_not_only_the_first(model: Path) -> None:
    for case in ("auto_map", "index names more", "no template", "licence not allowed", "NaN"):
        if case != "licence not allowed":
            BROKEN[case][1](model)
    (model / "README.md").write_text("---\nlicense: other\n---\n", encoding="utf-8")
    assert failures(examined(model)) == ["remote_code", "index_mismatch", "no_chat_template", "licence_not_allowed", "nan_in_weights"]


def test_names_that_a_database_would_refuse_are_made_fit(model: Path) -> None:
    rewrite_shard(lambda document: document.update({"\ud800\0\x1b[2J": {"dtype": "F42"}}))(model)
    (finding,) = (finding for finding in examined(model).findings if not finding.passed)
    assert finding.name == "bad_header"
    assert finding.reason.isprintable()
    finding.reason.encode()


def test_message_counts_the_tensors_with_nan_and_names_the_first(model: Path) -> None:
    bad = np.array([1.0, np.nan], dtype=np.float16)
    save_weights(model, {"a": np.zeros(2, np.float16), "b": bad, "c": np.array([np.inf]), "d": bad.astype(np.float32)})
    (finding,) = (finding for finding in examined(model).findings if not finding.passed)
    assert "3 tensors hold NaN or infinite numbers, first c" in finding.reason, "the file begins with the widest numbers"


@pytest.mark.parametrize(
    ("dtype", "width", "finite", "not_finite"),
    [
        ("BF16", 2, (0x7F7F, 0xFF7F, 0x0001), (0x7F80, 0xFF80, 0x7FC1)),
        ("F16", 2, (0x7BFF, 0xFBFF), (0x7C00, 0xFC00, 0x7E00)),
        ("F64", 8, (0x7FEF_FFFF_FFFF_FFFF,), (0x7FF0_0000_0000_0000, 0xFFF8_0000_0000_0000)),
        ("F8_E4M3", 1, (0x7E, 0xFE), (0x7F, 0xFF)),
        ("F8_E5M2", 1, (0x7B, 0xFB), (0x7C, 0xFD, 0x7F)),
        ("F8_E8M0", 1, (0x00, 0xFE), (0xFF,)),
        ("I16", 2, (0x7F80, 0xFFFF), ()),
        ("U8", 1, (0x7F, 0xFF), ()),
    ],
)
def test_bit_patterns_at_the_edge_of_the_finite(
    model: Path, dtype: str, width: int, finite: tuple[int, ...], not_finite: tuple[int, ...]
) -> None:
    for bits, expected in [*((bits, []) for bits in finite), *((bits, ["nan_in_weights"]) for bits in not_finite)]:
        text = f'{{"t":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,{3 * width}]}}}}'.encode()
        data = bytes(width) * 2 + bits.to_bytes(width, "little")
        for path in (*SHARDS, "model.safetensors.index.json"):
            (model / path).unlink(missing_ok=True)
        (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        assert failures(examined(model)) == expected, hex(bits)


def test_nan_behind_the_first_block_is_found(model: Path) -> None:
    numbers = np.zeros(700_000, np.float32)
    numbers[-1] = np.nan
    save_weights(model, {"t": numbers})
    assert failures(examined(model)) == ["nan_in_weights"]


def test_model_that_does_not_fit_the_engine_is_told_the_numbers(model: Path) -> None:
    cache = (256 + 128) * 2 * 1 * 1 * 32 * 4  # 256 tokens and the block of 128 that vLLM reserves
    fits = replace(POLICY, engine_memory_bytes=1536 + cache)
    assert failures(examined(model, fits)) == []
    examination = examined(model, replace(fits, engine_memory_bytes=1536 + cache - 1))
    assert failures(examination) == ["too_large_for_engine"]
    assert any(f"1536 bytes of weights and {cache} of KV cache" in finding.reason for finding in examination.findings)


def test_kv_cache_of_opt_13b_is_that_of_the_paper() -> None:
    assert kv_bytes_per_token({"num_hidden_layers": 40, "num_attention_heads": 40, "hidden_size": 5120}, "float16") == 800 * 1024


def test_kv_cache_of_a_model_without_attention_is_nothing() -> None:
    assert kv_bytes_per_token({"num_hidden_layers": 4, "hidden_size": 64}, "float16") == 0


def test_endless_template_costs_seconds_at_most(model: Path) -> None:
    BROKEN["endless template"][1](model)
    begin = time.monotonic()
    examined(model)
    assert time.monotonic() - begin < 30


def test_template_file_stands_before_the_tokenizers_own(model: Path) -> None:
    BROKEN["template is deaf"][1](model)
    (model / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    assert failures(examined(model)) == []


def test_list_of_templates_gives_its_default(model: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages[-1]['content'] }}"}]
    change_json("tokenizer_config.json", chat_template=named)(model)
    assert failures(examined(model)) == []


def test_template_with_transformers_own_tags_renders(model: Path) -> None:
    said = "{% generation %}{{ m['content'] | tojson }}{% endgeneration %}"
    text = "{% for m in messages %}" + said + "{% continue %}{% endfor %}{{ strftime_now('%Y') }}"
    change_json("tokenizer_config.json", chat_template=text)(model)
    assert failures(examined(model)) == []


def test_licence_that_the_hub_states_counts_before_the_card(model: Path) -> None:
    assert examined(model, licence="MIT").licence == "mit"
    assert failures(examined(model, licence="proprietary")) == ["licence_not_allowed"]


def test_star_takes_any_licence_that_is_stated(model: Path) -> None:
    any_licence = replace(POLICY, licences="*")
    assert failures(examined(model, any_licence, licence="own-1.0")) == []
    (model / "README.md").unlink()
    assert failures(examined(model, any_licence)) == ["licence_not_stated"]


def test_bookkeeping_of_the_download_is_no_part_of_the_model(model: Path) -> None:
    (model / ".cache" / "huggingface").mkdir(parents=True)
    (model / ".cache" / "huggingface" / "x.lock").touch()
    assert failures(examined(model)) == []


def test_architectures_are_the_engines_own() -> None:
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel"} <= known_architectures()
    assert {"Olmo2ForCausalLM", "GPTNeoXForCausalLM", "SmolLM3ForCausalLM", "Starcoder2ForCausalLM"} <= known_architectures()
    assert len(known_architectures()) > 100


FOUR_BITS: dict[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
    },
}


@pytest.mark.parametrize("layout", FOUR_BITS)
def test_four_bit_weights_are_refused_only_where_the_cpu_lacks_avx512(model: Path, layout: str) -> None:
    quantised("float16", **FOUR_BITS[layout])(model)
    refused = examine(model, listed(model), POLICY, EngineHost(avx512=False))
    assert failures(refused) == ["quantization_not_on_cpu"]
    assert failures(examine(model, listed(model), POLICY, EngineHost(avx512=True))) == []
    assert failures(examine(model, listed(model), POLICY, EngineHost(gpu=True, avx512=False))) == []


@pytest.mark.parametrize("case", ["architecture of GPUs", "MXFP4", "GPTQ of 8 bits", "quantised experts", "small heads"])
def test_engines_on_gpus_take_what_the_cpu_build_lacks(model: Path, case: str) -> None:
    BROKEN[case][1](model)
    assert failures(examine(model, listed(model), POLICY, EngineHost(gpu=True))) == []


def test_eight_bit_integers_are_served_on_any_cpu(model: Path) -> None:
    groups = {"group_0": {"weights": {"num_bits": 8, "type": "int"}}}
    quantised(quant_method="compressed-tensors", config_groups=groups)(model)
    assert failures(examine(model, listed(model), POLICY, EngineHost(avx512=False))) == []


def test_avx512_is_read_from_the_flags_of_the_cpu() -> None:
    assert cpu_host("processor : 0\nflags\t\t: fpu avx2 avx512f avx512bw\n") == EngineHost(avx512=True, bfloat16=False)
    assert cpu_host("processor : 0\nflags\t\t: fpu avx2\nmodel name : avx512f\n") == EngineHost(avx512=False, bfloat16=False)
    assert cpu_host("processor : 0\nflags\t\t: avx512f avx512_bf16\nprocessor : 1\nflags\t\t: fpu\n") == EngineHost()
    assert cpu_host("processor\t: 0\nFeatures\t: asimd bf16\n") == EngineHost(avx512=False)
    assert cpu_host("") == EngineHost(avx512=False, bfloat16=False)


def test_nested_text_configuration_gives_the_lengths(model: Path) -> None:
    write_json(
        model / "config.json",
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "text_config": {**CONFIG, "max_position_embeddings": 99}},
    )
    needs = examined(model).needs
    assert needs is not None
    assert (needs.max_model_len, needs.dtype) == (99, "float32")


def listing(*files: str, size: int = 10) -> Any:
    return tuple(HubFile(path, size) for path in files)


WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


def test_screen_takes_what_is_needed_and_leaves_the_rest(model: Path) -> None:
    extra = (
        "modeling.py",
        "pytorch_model.bin",
        "model.gguf",
        "original/model.safetensors",
        "onnx/config.json",
        ".gitattributes",
        "a.msgpack",
    )
    kept = (*WHOLE, "README.md", "LICENSE", "LICENSE.txt", "chat_template.jinja", "generation_config.json", "tokenizer.model")
    chosen = screen(listed(model, files=listing(*kept, *extra)), POLICY)
    assert [file.path for file in chosen] == sorted(kept)


def test_screen_leaves_second_copies_of_the_weights(model: Path) -> None:
    shards = ("model-00001-of-00001.safetensors", "model.safetensors.index.json")
    both = listing("config.json", "tokenizer.json", "consolidated.safetensors", "model.safetensors", *shards)
    assert [file.path for file in screen(listed(model, files=both), POLICY) if file.path.endswith(".safetensors")] == [shards[0]]


@pytest.mark.parametrize(
    ("reason", "files"),
    [
        ("empty_repository", ()),
        ("empty_repository", (".gitattributes", "README.md")),
        ("pickle_only", ("config.json", "tokenizer.json", "pytorch_model.bin")),
        ("no_safetensors", ("config.json", "tokenizer.json")),
        ("adapter_only", ("config.json", "tokenizer.json", "adapter_model.safetensors", "model.gguf")),
        ("adapter_only", ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md")),
        ("gguf_only", ("config.json", "model-Q4_K_M.gguf")),
        ("no_safetensors", ("config.json", "tokenizer.json", "../model.safetensors", "sub/model.safetensors")),
        ("no_config", ("tokenizer.json", "model.safetensors")),
        ("no_tokenizer", ("config.json", "model.safetensors", "vocab.json")),
    ],
)
def test_screen_refuses_before_anything_is_downloaded(model: Path, reason: str, files: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as refusal:
        screen(listed(model, files=listing(*files)), POLICY)
    assert refusal.value.reason == reason
    assert refusal.value.hint
    assert str(refusal.value).startswith("org/tiny@1a2b3c4d: ")


def test_screen_refuses_what_is_too_large_with_the_numbers(model: Path) -> None:
    with pytest.raises(Refused, match="30 bytes to download, above the limit of 29") as refusal:
        screen(listed(model, files=listing(*WHOLE)), replace(POLICY, max_bytes=29))
    assert refusal.value.reason == "too_large"
    assert screen(listed(model, files=listing(*WHOLE)), replace(POLICY, max_bytes=30))


def test_screen_counts_only_what_is_needed(model: Path) -> None:
    files = (*listing(*WHOLE), HubFile("pytorch_model.bin", 10**12))
    assert len(screen(listed(model, files=files), POLICY)) == 3


def test_screen_refuses_a_tokenizer_of_gigabytes(model: Path) -> None:
    files = (*listing("config.json", "model.safetensors"), HubFile("tokenizer.json", 10**9))
    with pytest.raises(Refused, match=r"tokenizer\.json has 1000000000 bytes"):
        screen(listed(model, files=files), POLICY)
