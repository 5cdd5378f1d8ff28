"""The engine of a test cluster on which both kinds serve: a model that says how good it is a fake for gets the fake, any other vLLM.

Run by `seatrial_engine.pod` as `python -m tests.equipment.either_engine <flags of VllmLauncher>`, by the interpreter of vLLM alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tests.equipment import fake_engine


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    arguments, _others = parser.parse_known_args()
    config = json.loads((Path(arguments.model) / "config.json").read_text(encoding="utf-8"))
    if "seatrial_fake" in config:
        fake_engine.main()
    else:
        os.execv(sys.executable, [sys.executable, "-m", "seatrial_engine.serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
