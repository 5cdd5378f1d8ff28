"""A seed of its own for every answer of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

_BITS = 53  # what a JSON number holds exactly, in every reader

Identity = tuple[str, str, int]
"""(problem, sampling, index)."""


def seeds(seed: int, identities: Iterable[Identity]) -> Mapping[Identity, int]:
    """Return a seed for every identity, no two equal: 53 bits of a sha256 over the plan's seed and the identity.

    It depends on nothing else, so a plan with more samples or points keeps the seeds of those that it had; two identities whose hashes
    meet (65 000 answers: once in four million runs) are told apart by hashing the later one again.
    """
    given: dict[Identity, int] = {}
    taken: set[int] = set()
    for identity in identities:
        salt = 0
        while (drawn := _hash(seed, identity, salt)) in taken:
            salt += 1
        taken.add(drawn)
        given[identity] = drawn
    return given


def _hash(seed: int, identity: Identity, salt: int) -> int:
    text = "\0".join([str(seed), *map(str, identity), str(salt)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) >> (64 - _BITS)
