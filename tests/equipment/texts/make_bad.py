"""Write bad texts: answers of damaged copies of SmolLM2, and loops of the sound model. Runs in the engine's environment, by hand.

`python make_bad.py MODEL OUT.jsonl [KIND ...]` appends a line per answer: kind, prompt, text, completion_tokens, finish_reason, and in
nats a token `logprob` (mean, of the model that wrote it), `entropy` (mean, of its distribution) and `stable_logprob` (mean, under the
sound model). A kind that OUT already has is not made again. About 15 minutes of one core.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = (
    "Tell me a long story about the sea.",
    "Explain how a bicycle stays upright.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "List ten things to pack for a holiday.",
    "Write a poem about winter.",
    "Give me a JSON object that describes a book.",
    "What is the capital of France, and what is it known for?",
    "How do I make a good cup of black tea?",
    "Summarise the history of Rome in a paragraph.",
    "Write a formal letter to my landlord about a broken heater.",
    "Make a table of five animals with their weight and speed.",
    "Schreibe einen kurzen Text über den Frühling.",
    "Écris un court texte sur la mer.",
    "What is 17 times 23? Show each step.",
    "Compare cats and dogs as pets.",
    "Write a dialogue between a teacher and a student.",
)
LOOP_PROMPTS = (
    "Write the word sea many times.",
    "Continue: the more it rained, the more",
    "Repeat the alphabet again and again.",
    "Sing a song without an end.",
    "Count from one to one thousand.",
    "List all prime numbers.",
    "Give me one hundred reasons to smile.",
    "Name every animal that you know.",
    "Write the digits of pi.",
    "Write a very long list of first names.",
    "Describe each day of a year.",
    "Write one hundred lines of JavaScript without functions.",
    "Explain why again and again.",
    "List the multiples of seven.",
    "Write a table with one hundred rows.",
    "Tell me everything about bread.",
)
Damage = Callable[[Any, torch.Generator], None]


def noise(scale: float) -> Damage:
    def damage(model: Any, seed: torch.Generator) -> None:
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.add_(torch.randn(weight.shape, generator=seed) * weight.std() * scale)

    return damage


def permuted(part: str) -> Damage:
    """Permute the rows of one projection in every layer, as a wrong conversion does."""

    def damage(model: Any, seed: torch.Generator) -> None:
        for name, weight in model.named_parameters():
            if name.endswith(f"{part}.weight"):
                weight.copy_(weight[torch.randperm(weight.shape[0], generator=seed)])

    return damage


def rope(theta: float) -> Damage:
    def damage(model: Any, _: torch.Generator) -> None:
        turn = model.model.rotary_emb
        size = turn.inv_freq.shape[0]
        turn.inv_freq.copy_(1.0 / theta ** (torch.arange(size) / size))

    return damage


def layers(order: Callable[[list[int]], list[int]]) -> Damage:
    def damage(model: Any, _: torch.Generator) -> None:
        kept = [copy.deepcopy(model.model.layers[at]) for at in order(list(range(len(model.model.layers))))]
        for at, layer in enumerate(kept):
            layer.self_attn.layer_idx = at
        model.model.layers = torch.nn.ModuleList(kept)
        model.config.num_hidden_layers = len(kept)

    return damage


def embedding(order: Callable[[int, torch.Generator], torch.Tensor]) -> Damage:
    def damage(model: Any, seed: torch.Generator) -> None:
        rows = model.model.embed_tokens.weight
        rows.copy_(rows[order(rows.shape[0], seed)].clone())

    return damage


def rounded(levels: int) -> Damage:
    def damage(model: Any, _: torch.Generator) -> None:
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                step = 2 * weight.abs().amax(dim=1, keepdim=True) / levels
                weight.copy_(torch.round(weight / step) * step)

    return damage


def fresh(model: Any, seed: torch.Generator) -> None:
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.copy_(torch.randn(weight.shape, generator=seed) * 0.04)


def sound(_: Any, __: torch.Generator) -> None:
    """Leave the model as it is."""


# kind: damage, temperature (0: greedy), longest answer in tokens, prompts
KINDS: dict[str, tuple[Damage, float, int, tuple[str, ...]]] = {
    "sound": (sound, 0.7, 80, PROMPTS),
    "noise 0.35": (noise(0.35), 0.7, 80, PROMPTS),
    "noise 0.5": (noise(0.5), 0.7, 80, PROMPTS),
    "noise 0.2": (noise(0.2), 0.7, 80, PROMPTS),
    "noise 0.35 greedy": (noise(0.35), 0.0, 80, PROMPTS),
    "permuted q_proj": (permuted("q_proj"), 0.7, 80, PROMPTS),
    "permuted up_proj": (permuted("up_proj"), 0.7, 80, PROMPTS),
    "permuted o_proj": (permuted("o_proj"), 0.7, 80, PROMPTS),
    "rope theta 10": (rope(10.0), 0.7, 80, PROMPTS),
    "layers dropped": (layers(lambda all_: all_[:10] + all_[18:]), 0.7, 80, PROMPTS),
    "layers doubled": (layers(lambda all_: [at for at in all_ for _ in range(2 if 8 <= at < 20 else 1)]), 0.7, 80, PROMPTS),
    "layers swapped": (layers(lambda all_: [*all_[:8], *all_[8:20][::-1], *all_[20:]]), 0.7, 80, PROMPTS),
    "tokens shuffled": (embedding(lambda size, seed: torch.randperm(size, generator=seed)), 0.7, 80, PROMPTS),
    "tokens off by one": (embedding(lambda size, _: torch.roll(torch.arange(size), 1)), 0.7, 80, PROMPTS),
    "rounded to 3 levels": (rounded(3), 0.7, 80, PROMPTS),
    "untrained": (fresh, 0.7, 80, PROMPTS),
    "temperature 3": (sound, 3.0, 80, PROMPTS),
    "temperature 1.8": (sound, 1.8, 80, PROMPTS),
    "no stop token": (sound, 0.7, 160, PROMPTS),
    "greedy, long": (sound, 0.0, 240, LOOP_PROMPTS),
    "noise 0.1": (noise(0.1), 0.7, 80, PROMPTS),
    "permuted q_proj, greedy": (permuted("q_proj"), 0.0, 100, PROMPTS),
    "permuted down_proj": (permuted("down_proj"), 0.7, 80, PROMPTS),
    "permuted v_proj": (permuted("v_proj"), 0.7, 80, PROMPTS),
}


@torch.inference_mode()
def answers(name: str, stable: Any, tokenizer: Any) -> list[dict[str, Any]]:
    damage, temperature, longest, prompts = KINDS[name]
    model = copy.deepcopy(stable)
    damage(model, torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    asked = [
        tokenizer.apply_chat_template([{"role": "user", "content": one}], tokenize=False, add_generation_prompt=True) for one in prompts
    ]
    given = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
    stop = None if name == "no stop token" else tokenizer.eos_token_id
    how = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    made = model.generate(
        **given, **how, max_new_tokens=longest, eos_token_id=stop, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    size, out = given["input_ids"].shape[1], made.sequences
    ends = [lasting(row[size:].tolist(), stop) for row in out]
    spreads = torch.stack(made.logits, dim=1)
    own = [scores(spreads[at][:end], out[at][size : size + end]) for at, end in enumerate(ends)]
    theirs = (
        own
        if damage is sound
        else [under(stable, row, seen, end) for row, seen, end in zip(out, given["attention_mask"], ends, strict=True)]
    )
    return [
        {
            "kind": name,
            "prompt": prompts[at],
            "text": tokenizer.decode(out[at][size : size + end], skip_special_tokens=True),
            "completion_tokens": end,
            "finish_reason": "stop" if end < longest else "length",
            "logprob": own[at][0],
            "entropy": own[at][1],
            "stable_logprob": theirs[at][0],
        }
        for at, end in enumerate(ends)
    ]


def lasting(tokens: list[int], stop: int | None) -> int:
    return tokens.index(stop) + 1 if stop is not None and stop in tokens else len(tokens)


def under(model: Any, row: torch.Tensor, seen: torch.Tensor, end: int) -> tuple[float, float]:
    """Return the scores of one answer under another model; `row` has the padded prompt and the answer."""
    size = seen.shape[0]
    ids = torch.cat([row[:size][seen.bool()], row[size : size + end]])
    hidden = model.model(ids[None]).last_hidden_state[0, -end - 1 : -1]
    return scores(model.lm_head(hidden), ids[-end:])


def scores(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[float, float]:
    """Return the mean log-probability of the tokens and the mean entropy, in nats a token."""
    spread = torch.log_softmax(logits.float(), dim=-1)
    logprob = spread.gather(1, tokens[:, None]).mean().item()
    return round(logprob, 3), round(-(spread.exp() * spread).sum(1).mean().item(), 3)


def main(folder: str, target: str, *only: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token_id = 0
    stable = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    out = Path(target)
    known = {json.loads(line)["kind"] for line in out.read_text().splitlines()} if out.exists() else set()
    for name in only or KINDS:
        if name in known:
            continue
        begin = time.process_time()
        made = answers(name, stable, tokenizer)
        with out.open("a") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in made)
        print(f"{name}: {time.process_time() - begin:.0f} s", flush=True)  # noqa: T201 - a script for people


if __name__ == "__main__":
    main(*sys.argv[1:])
