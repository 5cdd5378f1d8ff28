"""The reference of a version's probabilities, computed by a program of the engine's environment (transformers lives there only)."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.endings import describe
from core.engines import EngineProgram
from core.fidelity import Likely, Reference, ReferencePrompt
from core.ports import EnginePrograms

_SAID_CHARS = 300


def compute_reference(source: Path, out: Path, programs: EnginePrograms, max_bytes: int, limit_s: float = 3600.0) -> None:
    """Write the reference of the model in `source` to the file `out`, whole or not at all. Where there is none, the file states why.

    That a model has no reference is never an error: transformers may lack its architecture, and this machine the memory. Raises Fault where
    the program cannot be started.
    """
    arguments = [str(source.absolute()), str(out.absolute()), "--max-bytes", str(max_bytes)]
    late = threading.Event()
    code, errors = _run(programs, arguments, late, limit_s)
    if code < 0 and not late.is_set():  # also where the engine supervisor was restarted, which ends the programs of its fork server
        code, errors = _run(programs, arguments, late, limit_s)
    if code != 0:
        why = f"transformers took longer than {limit_s:g} s" if late.is_set() else _why(code, errors)
        _write(out, written(Reference("", unavailable=why)))


def stored_reference(file: Path) -> Reference:
    """Return the reference in a file that `compute_reference` wrote."""
    return read_reference(json.loads(file.read_bytes()))


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


def _write(file: Path, document: Mapping[str, Any]) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(document), encoding="utf-8")
    new.replace(file)


def _run(programs: EnginePrograms, arguments: Sequence[str], late: threading.Event, limit_s: float) -> tuple[int, str]:
    """Run the program to its end, or kill it after `limit_s` and set `late`."""
    with programs.start(EngineProgram.REFERENCE, arguments) as running:

        def stop() -> None:
            late.set()
            running.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            for _line in running.lines():  # a library's own output would fill the pipe
                continue
            return running.wait(), running.errors()
        finally:
            timer.cancel()


def _prompt(document: Mapping[str, Any]) -> ReferencePrompt:
    top = tuple(tuple(Likely(int(token), float(logprob)) for token, logprob in at) for at in document["top"])
    return ReferencePrompt(tuple(map(int, document["tokens"])), tuple(map(int, document["answer"])), top)


def _why(code: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][-_SAID_CHARS:] if lines and code == 1 else describe(code)
    return f"transformers could not compute the model in float32: {last}"
