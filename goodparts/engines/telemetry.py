"""Nothing is sent to anybody.

`import openvino` imports its command-line tools, and with them `openvino_telemetry` (seen in 2026.4): that writes
an identifier into the home folder, starts a process and tells Google Analytics of each use, without asking. Where
that package can't be imported, OpenVINO falls back to a stub of its own that does nothing.
"""

from __future__ import annotations

import sys

_PACKAGE = "openvino_telemetry"
_CONVERTER = "openvino.tools.ovc"


def silence_openvino() -> bool:
    """Keep OpenVINO from sending telemetry; has to be called before `import openvino`.

    Returns:
        Whether it is silent: False where somebody else imported the telemetry earlier in this process.
    """
    sys.modules.setdefault(_PACKAGE, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    return sys.modules[_PACKAGE] is None


def without_converter() -> None:
    """Keep `import openvino` from importing its converter of models, which takes as long as all the rest of it.

    For a process that is this program's own: others may want `openvino.convert_model`, which is then missing.
    """
    sys.modules.setdefault(_CONVERTER, None)  # type: ignore[arg-type]
