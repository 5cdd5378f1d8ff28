"""`python -m tests.equipment.checked FOLDER...`: runs the platform's checks and prints the names of those that failed, by folder name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from core.settings import ModelPolicy
from evals.checks import examine, screen
from tests.equipment.architectures import host
from tests.equipment.broken_models import listed


def main(folders: list[Path]) -> None:
    print(json.dumps({folder.name: _failed(folder) for folder in folders}))  # noqa: T201


def _failed(folder: Path) -> list[str]:
    model, policy = listed(folder), ModelPolicy()
    screen(model, policy)
    return [finding.name for finding in examine(folder, model, policy, host()).findings if not finding.passed]


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
