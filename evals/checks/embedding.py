"""The input embedding of a model: which tensor it is, and how many token ids it has a row for."""

from __future__ import annotations

from evals.checks.model_files import ModelFiles

_ENDS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "backbone.embeddings.weight",
    "backbone.embedding.weight",
)
_MATRIX = 2


def embedding(files: ModelFiles) -> tuple[str, int] | None:
    """Return the name of the input embedding and its rows, the largest of several; None when no tensor has a known name.

    Raises NotCheckable when a weights file's header is not sound.
    """
    found = {name: shape[0] for name, shape in files.tensors.items() if is_embedding(name) and len(shape) == _MATRIX and shape[0] > 0}
    if found:
        name = max(found, key=lambda name: found[name])
        return name, found[name]
    return None


def is_embedding(name: str) -> bool:
    """Whether a tensor of this name is an input embedding, in one of the families that vLLM serves."""
    return any(name == end or name.endswith(f".{end}") for end in _ENDS)
