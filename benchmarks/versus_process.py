"""What `versus.py` runs in the other environment: one contender.

Reads one JSON object a line, `{"call": METHOD, ...arguments}`, and answers each with `{"result": ...}` or
`{"error": ...}`, the first of them once it is ready; ends when its input does. Arrays travel as `.npy` files. Times are
taken here, in seconds, so that the conversation is no part of them. Goodparts is not installed where this runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

CONTENDERS = {  # class by name: where it is
    "Patchcore": "versus_patchcore",
    "Authors": "versus_patchcore",
    "MHPatchcore": "versus_peers",
    "Padim": "versus_peers",
    "EfficientAd": "versus_peers",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Started by versus.py.")
    parser.add_argument("contender", choices=tuple(CONTENDERS))
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--shim", type=Path)
    options = parser.parse_args()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints must not come between the answers

        def answer(**reply: Any) -> None:
            answers.write(json.dumps(reply) + "\n")
            answers.flush()

        try:
            contender = prepare(options)
        except Exception:
            answer(error=traceback.format_exc())
            return
        answer(result=None)
        for line in sys.stdin:
            call = json.loads(line)
            try:
                answer(result=getattr(contender, call.pop("call"))(**call))
            except Exception:
                answer(error=traceback.format_exc())


def prepare(options: argparse.Namespace) -> Any:
    """The contender, its libraries imported."""
    if options.shim:
        spec = importlib.util.spec_from_file_location("shim", options.shim)
        if spec is None or spec.loader is None:
            raise ImportError(f"--shim {options.shim}: not a Python file")
        sys.modules["shim"] = importlib.util.module_from_spec(spec)  # what it declares lives as long as it
        spec.loader.exec_module(sys.modules["shim"])
    module = importlib.import_module(CONTENDERS[options.contender])
    return getattr(module, options.contender)(options.backbone, options.size, options.threads)


if __name__ == "__main__":
    main()
