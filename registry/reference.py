"""The reference of a version's probabilities, computed by a child process in the engine's environment (transformers lives there only)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.endings import describe
from core.errors import Fault
from core.fidelity import Likely, Reference, ReferencePrompt

_SAID_CHARS = 300


def compute_reference(source: Path, python: str, max_bytes: int) -> Reference:
    """Return the reference of the model in `source`. One without prompts states why it is unavailable.

    That a model has no reference is never an error: transformers may lack its architecture, and this machine the memory. Raises Fault where
    the interpreter does not exist.
    """
    with tempfile.TemporaryDirectory(prefix="seatrial-reference-") as folder, tempfile.TemporaryFile() as errors:
        out = Path(folder) / "reference.json"
        command = [python, "-m", "seatrial_engine.reference", str(source), str(out), "--max-bytes", str(max_bytes)]
        try:
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        except FileNotFoundError as error:
            raise Fault(f"the engine's interpreter {python} does not exist", hint="run `make setup`") from error
        with child:
            try:
                child.wait()
            finally:
                child.kill()  # a flow that is cancelled or fails leaves no child behind; killing the dead does nothing
        if child.returncode != 0:
            errors.seek(0)
            return Reference("", unavailable=_why(child.returncode, errors.read().decode(errors="replace")))
        return read_reference(json.loads(out.read_bytes()))


def read_reference(document: Mapping[str, Any]) -> Reference:
    """Return what `seatrial_engine.reference` wrote."""
    if "unavailable" in document:
        return Reference("", unavailable=str(document["what"]))
    return Reference(str(document["made_by"]), tuple(_prompt(one) for one in document["prompts"]))


def written(reference: Reference) -> dict[str, Any]:
    """Return a reference as `read_reference` reads it: pairs instead of objects, for there are a thousand of them."""
    if reference.unavailable:
        return {"unavailable": True, "what": reference.unavailable}
    prompts = [
        {"tokens": one.tokens, "answer": one.answer, "top": [[[it.token, it.logprob] for it in at] for at in one.top]}
        for one in reference.prompts
    ]
    return {"made_by": reference.made_by, "prompts": prompts}


def _prompt(document: Mapping[str, Any]) -> ReferencePrompt:
    top = tuple(tuple(Likely(int(token), float(logprob)) for token, logprob in at) for at in document["top"])
    return ReferencePrompt(tuple(map(int, document["tokens"])), tuple(map(int, document["answer"])), top)


def _why(code: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][-_SAID_CHARS:] if lines and code == 1 else describe(code)
    return f"transformers could not compute the model in float32: {last}"
