"""Write a damaged copy of a Llama: `python damaged_model.py MODEL OUT KIND`, in the engine's environment. `make_bad.py` has the kinds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent / "texts"))
from make_bad import KINDS, noise

DAMAGES = {kind: damage for kind, (damage, *_) in KINDS.items()} | {"noise 0.08": noise(0.08)}


@torch.inference_mode()
def main(source: str, target: str, kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    DAMAGES[kind](model, torch.Generator().manual_seed(1))
    model.to(torch.bfloat16).save_pretrained(target)
    for file in Path(source).iterdir():
        if "tokenizer" in file.name or file.name in {"generation_config.json", "README.md"}:
            shutil.copy(file, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
