"""A machine with AMX, simulated: in every Python process of an environment torch reports AMX tiles.

The instructions themselves are not simulated. On a CPU without them vLLM's AMX attention kernel ends the process with SIGILL, so an
engine that answers in this environment has not used it.
"""

import os
from pathlib import Path

_HOOK = '''
"""Python imports this at its start; the hook waits until torch.cpu is imported, because torch reads the environment then."""
import importlib.abc
import importlib.machinery
import sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch.cpu":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def with_amx(module):
            execute(module)
            module._is_amx_tile_supported = lambda: True

        spec.loader.exec_module = with_amx
        return spec


sys.meta_path.insert(0, Finder())
'''


def simulated_amx(folder: Path) -> dict[str, str]:
    """Return the environment of a process that finds AMX; `folder` holds what it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))}
