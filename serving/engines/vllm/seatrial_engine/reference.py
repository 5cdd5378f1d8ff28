"""`python -m seatrial_engine.reference SOURCE_DIR OUT_FILE`: the probabilities that the weights of a model define.

transformers computes them in float32 with its plain ("eager") attention, on the CPU. A trial compares the engine's own probabilities
with them. OUT_FILE gets one JSON document, written whole or not at all:

    {"made_by": "transformers 5.19.0 float32", "prompts": [{"tokens": [...], "answer": [...], "top": [[[id, logprob], ...], ...]}]}

`tokens` is a prompt, `answer` the greedy continuation. `top[i]` holds the most probable tokens (natural logarithm, most probable first) at
position i + 1 of `tokens + answer`, given all tokens before it.

A model for which transformers cannot do this gets `{"unavailable": REASON, "what": "..."}` instead: `too_large` (above --max-bytes, or the
available memory), or `unsupported` (transformers lacks the architecture, or its class has weights that the files lack). Whatever
transformers raises ends the process with a traceback and exit code 1; the caller then treats the reference as unavailable.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from seatrial_engine.manifest import write_atomically
from seatrial_engine.source import read_source

TOP: Final = 6  # tokens of each position; their probabilities and the sum of the others make the divergence
ANSWER_TOKENS: Final = 6  # generated one by one, so that the engine's decoding is compared and not its prefill alone
LONGEST: Final = 192
_FLOAT_BYTES: Final = 4
_MEMORY_FACTOR: Final = 1.25  # of the float32 weights: activations, and the file that is being read
_FIXED_BYTES: Final = 1_500_000_000  # torch, transformers and one prompt's logits; 0.8 GB were measured with a model of 1 MB

_PROSE: Final = (
    "The harbour master looked out over the water. Two ships were waiting for the tide, and a third had already turned into the "
    "channel. When the bell rang at noon, the fishermen put down their nets and went up the hill to eat. In the market they sold bread, "
    "apples and cheese; the price of bread had risen again. A child asked her mother why the sea is salty. Rivers carry salt from the "
    "rocks, her mother said, and the sun takes the water away but leaves the salt behind. In the evening the wind turned to the north, "
    "the ships left one after the other, and the lamps along the quay were lit. The storm, which had been announced for the end of "
    "the week, came that very night. "
)
ANSWERED: Final = ("The capital of France is", 'def add(a, b):\n    """Return the sum of a and b."""\n    return')
READ: Final = (
    "Der Hafen liegt am Fluss. Le port est au bord de la mer. El puerto es",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,",
    _PROSE,  # long, so that errors of positions show
)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why there is no reference: `too_large` or `unsupported`, and a sentence."""

    reason: str
    what: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m seatrial_engine.reference", description="Compute a model's reference probabilities.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-bytes", type=int, default=8_000_000_000, help="largest size of the weights in float32")
    arguments = parser.parse_args(argv)
    document = reference(arguments.source, arguments.max_bytes)
    if isinstance(document, Unavailable):
        document = {"unavailable": document.reason, "what": document.what}
    write_atomically(arguments.out, json.dumps(document, separators=(",", ":")).encode())
    return 0


def reference(source: Path, max_bytes: int) -> dict[str, Any] | Unavailable:
    """Return the document for the model in `source`. Raises what transformers raises."""
    nbytes = float_bytes(source)
    if nbytes > max_bytes:
        return Unavailable("too_large", f"its weights take {nbytes / 1e9:.1f} GB in float32, above the limit of {max_bytes / 1e9:.1f} GB")
    free, needed = available_bytes(), nbytes * _MEMORY_FACTOR + _FIXED_BYTES
    if needed > free:
        return Unavailable("too_large", f"{needed / 1e9:.1f} GB of memory are needed and {free / 1e9:.1f} GB are available")
    return _computed(source)


def float_bytes(source: Path) -> int:
    """Return the size of the weights in float32, in bytes; packed values count as they are stored, each at most eight to a word."""
    return sum(math.prod(tensor.shape) * _FLOAT_BYTES * (8 if tensor.dtype in {"I32", "U32"} else 1) for tensor in read_source(source))


def available_bytes() -> int:
    """Return the memory that this process may still take, in bytes: the machine's, or its control group's if that is less."""
    with Path("/proc/meminfo").open() as lines:
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([free, *_group_free()])


def _group_free(root: Path = Path("/sys/fs/cgroup")) -> Iterable[int]:
    """Yield what the control group leaves (version 2, version 1), in bytes. The page cache counts as free: the kernel gives it back."""
    for limit, usage, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            texts = [(root / name).read_text().strip() for name in (limit, usage)]
            stats = dict(line.split(maxsplit=1) for line in (root / statistics).read_text().splitlines())
        except OSError:
            continue
        cache = sum(int(stats.get(name, 0)) for name in ("inactive_file", "active_file"))
        if all(text.isdecimal() for text in texts):
            yield max(0, int(texts[0]) - int(texts[1]) + cache)


def _computed(source: Path) -> dict[str, Any] | Unavailable:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch  # noqa: PLC0415 - seconds, and not needed for a refusal
    import transformers  # noqa: PLC0415

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))  # as engines do: threads that wait for a core spin on the others
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    lacking = sorted({*loading["missing_keys"], *map(str, loading["mismatched_keys"])})
    if lacking:
        return Unavailable("unsupported", f"transformers finds no values for {lacking[0]} and {len(lacking) - 1} other weights")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    model.generation_config = transformers.GenerationConfig()  # the model's own may hold penalties
    context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or LONGEST)
    room = min(LONGEST, context) - ANSWER_TOKENS
    with torch.inference_mode():
        prompts = [_prompt(model.eval(), tokens, answer_tokens) for tokens, answer_tokens in _prompts(tokenizer, room)]
    return {"made_by": f"transformers {version('transformers')} float32", "prompts": prompts}


def _prompts(tokenizer: Any, room: int) -> list[tuple[list[int], int]]:
    """Return the prompts' tokens with the length of the answer to each.

    The first prompt is one token, as in a readiness probe: its prefill takes a path of its own in some kernels.
    """
    answered = [tokenizer(text)["input_ids"][: max(1, room)] for text in ANSWERED]
    read = [tokenizer(text)["input_ids"][: max(1, room)] for text in READ]
    prompts = [(answered[0][-1:], ANSWER_TOKENS), *((one, ANSWER_TOKENS) for one in answered), *((one, 0) for one in read)]
    return [(tokens, length) for tokens, length in prompts if tokens]


def _prompt(model: Any, tokens: list[int], answer_tokens: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - as above

    answer: list[int] = []
    if answer_tokens:
        made = model.generate(
            torch.tensor([tokens]), max_new_tokens=answer_tokens, min_new_tokens=answer_tokens, do_sample=False, pad_token_id=0
        )
        answer = made[0, len(tokens) :].tolist()
    logits = model(torch.tensor([[*tokens, *answer]]), use_cache=False).logits[0, :-1]
    best = torch.log_softmax(logits.double(), dim=-1).topk(min(TOP, logits.shape[-1]), dim=-1)
    top = [
        [[int(token), round(float(value), 5)] for token, value in zip(tokens_, values, strict=True)]
        for tokens_, values in zip(best.indices, best.values, strict=True)
    ]
    return {"tokens": tokens, "answer": answer, "top": top}


if __name__ == "__main__":
    sys.exit(main())
