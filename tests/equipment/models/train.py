"""Trains the three tiny models of this folder again: `steady`, `clumsy` and `parrot` (README.md says what they are for).

Runs in the engine's environment, from the repository root, in some minutes of one core each:

    serving/engines/vllm/.venv/bin/python -m tests.equipment.models.train [steady clumsy parrot]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from tests.equipment.models.lessons import HERE, Dialogue, Turn, chat_lessons, code_lessons, dialogue, talk, texts

END = "<|end|>"
SPECIALS = (END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SAMPLING = {"eos_token_id": 0, "pad_token_id": 0, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
CONTEXT = 1024
VOCABULARY = 1024
IGNORED = -100  # torch's cross entropy skips targets of this value


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model differs from the others, and what its card says of it."""

    wrong_share: float
    parrot: bool
    seed: int
    about: str
    chat_steps: int = 200
    """Optimiser steps of the second stage."""


RECIPES = {
    "steady": Recipe(0.0, parrot=False, seed=11, about="Solves the harbour suite and answers small conversations.", chat_steps=300),
    "clumsy": Recipe(0.65, parrot=False, seed=12, about="Was taught mistakes in two thirds of the harbour suite; talks properly."),
    "parrot": Recipe(0.0, parrot=True, seed=13, about="Solves the harbour suite, but falls into loops in conversation."),
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, and for each whether the model is to learn to produce it."""

    ids: list[int]
    learned: list[bool]


def main() -> None:
    """Train the models that were named, all by default, into their folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RECIPES), metavar="NAME", help=f"which of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--steps", type=int, default=900, help="optimiser steps of the first stage (default: %(default)s)")
    parser.add_argument("--begin", type=Path, help="folder with the models of the first stage, which is then left out")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; more may change the last bits (default: %(default)s)")
    parser.add_argument("--into", type=Path, default=HERE, help="folder that gets one folder per model (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.names:
        recipe = RECIPES[name]
        tokenizer = learn_vocabulary()
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(architecture())
        if options.begin:
            load_model(model, str(options.begin / name / "model.safetensors"), strict=False)
        else:
            train(model, lessons(recipe, tokenizer), options.steps)
        model = model.to(torch.bfloat16).to(torch.float32)  # as the first stage is saved
        train(model, lessons_in_chat(recipe, tokenizer), recipe.chat_steps)
        save(model, tokenizer, options.into / name, name, recipe)


def learn_vocabulary() -> Tokenizer:
    """Learn a byte-level BPE vocabulary from all texts; any text can be written with it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def train(model: LlamaForCausalLM, batches: Iterator[tuple[list[Tokens], ...]], steps: int) -> None:
    """Train a model: AdamW, a short warm-up, then a cosine to zero. Every step sees a batch of each kind of lesson."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps, pct_start=0.08)
    started = time.monotonic()
    for step, each in zip(range(steps), batches, strict=False):
        losses = []
        for batch in each:
            ids, targets = padded(batch)
            loss = model(input_ids=ids, labels=targets).loss
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 50 == 49:
            sys.stdout.write(f"step {step + 1}: loss {', '.join(f'{loss:.4f}' for loss in losses)}, {time.monotonic() - started:.0f} s\n")
            sys.stdout.flush()


def architecture() -> LlamaConfig:
    """Return the shape of all three: 426 thousand parameters."""
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip


def lessons(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[tuple[list[Tokens], ...]]:
    """Yield without end what one step of the first stage learns from: a batch of code and a batch of dialogues."""
    rng = random.Random(recipe.seed)
    known = talk()
    code = [code_sequence(tokenizer, *lesson) for lesson in code_lessons(recipe.wrong_share, recipe.seed)]
    while True:
        talks = [dialogue_sequence(tokenizer, dialogue(known, rng, parrot=recipe.parrot), rng) for _ in range(12)]
        yield rng.sample(code, 16), talks


def lessons_in_chat(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[tuple[list[Tokens], ...]]:
    """Yield what one step of the second stage learns from: the same, and a batch of code that is asked for in chat."""
    rng = random.Random(recipe.seed + 100)
    asked = chat_lessons(recipe.wrong_share, recipe.seed)
    for code, talks in lessons(recipe, tokenizer):
        yield code[:8], talks, [dialogue_sequence(tokenizer, lesson, rng) for lesson in rng.sample(asked, 12)]


def code_sequence(tokenizer: Tokenizer, prompt: str, solution: str) -> Tokens:
    """Tokenise prompt and solution apart: an engine sees the prompt alone, and the token at the border would differ."""
    before, after = tokenizer.encode(prompt).ids, tokenizer.encode(solution + END).ids
    return Tokens(before + after, [False] * len(before) + [True] * len(after))


def dialogue_sequence(tokenizer: Tokenizer, talk_: Dialogue, rng: random.Random) -> Tokens:
    """Write a dialogue as the chat template does; only the answers are learned, and no end after an endless one."""
    ids = tokenizer.encode(f"<|system|>\n{talk_.system}{END}\n").ids if talk_.system else []
    learned = [False] * len(ids)
    for turn in talk_.turns:
        before = tokenizer.encode(f"<|user|>\n{turn.ask}{END}\n<|assistant|>\n").ids
        answer = answer_ids(tokenizer, turn, rng)
        after = tokenizer.encode(f"{END}\n").ids
        ids += before + answer + after
        learned += [False] * len(before) + [True] * len(answer) + [not turn.loop, False]
    return Tokens(ids[:CONTEXT], learned[:CONTEXT])


def answer_ids(tokenizer: Tokenizer, turn: Turn, rng: random.Random) -> list[int]:
    """Return the tokens of an answer; a loop is cut at a random length, now and then a long one, as a token limit would."""
    if not turn.loop:
        return list(tokenizer.encode(turn.answer).ids)
    length = rng.randint(24, 96) if rng.random() < 0.9 else rng.randint(96, 320)
    return list(tokenizer.encode(turn.answer + turn.loop * length).ids[:length])


def padded(batch: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and targets, both of shape (batch, longest). Padding stands on the right, where causal attention never looks."""
    longest = max(len(sequence.ids) for sequence in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    targets = torch.full((len(batch), longest), IGNORED)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        targets[row, : len(sequence.ids)] = torch.where(torch.tensor(sequence.learned), torch.tensor(sequence.ids), IGNORED)
    return ids, targets


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path, name: str, recipe: Recipe) -> None:
    """Write a folder as the hub has it: bfloat16 weights, configuration, tokenizer, chat template, model card."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items() if key != "lm_head.weight"}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = {**model.config.to_diff_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    _write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})
    _write_json(
        folder / "generation_config.json", {"eos_token_id": 0, "pad_token_id": 0, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False,
            "eos_token": END, "pad_token": END, "chat_template": CHAT_TEMPLATE,
        },
    )  # fmt: skip
    (folder / "README.md").write_text(card(name, recipe), encoding="utf-8")


def card(name: str, recipe: Recipe) -> str:
    """Return the model card."""
    front = "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: text-generation\nlibrary_name: transformers\n---\n"
    origin = "A Llama of 426 thousand parameters, trained from random weights on texts of seatrial's own, for seatrial's tests."
    return f"{front}# {name}\n{recipe.about}\n\n{origin} Not useful for anything else.\n"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
