"""The verifier as a module: it is a script of its own and belongs to no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify_data_plane_hashchain.py"


def _loaded() -> ModuleType:
    name = "verify_data_plane_hashchain"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


verifier = _loaded()
