"""What `generate` of transformers keeps from a `custom_generate` is handed over to strategies, and to them only.

`generate` drops `streamer`, `assistant_model`, `tokenizer`, `assistant_tokenizer` and `synced_gpus` before it calls a callable.
The callable cannot see that they were given: a consumer of the streamer would wait forever, and `stop_strings` would find no
tokenizer. Hence one method of `GenerationMixin`, which collects the keywords of a mode, is wrapped when transformers is
imported, before or after this package. It then also answers what it answers for every other mode.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

MODULE, MIXIN, METHOD = "transformers.generation.utils", "GenerationMixin", "_extract_generation_mode_kwargs"


def hand_over_to(kind: type) -> None:
    """Hand what is kept over to callables of a class, now or when transformers is imported."""
    if MODULE in sys.modules:
        _wrap(sys.modules[MODULE], kind)
    else:
        sys.meta_path.insert(0, _WhenImported(MODULE, lambda module: _wrap(module, kind)))


def _wrap(module: ModuleType, kind: type) -> None:
    mixin: Any = getattr(module, MIXIN)
    collect = getattr(mixin, METHOD)

    @wraps(collect)
    def handed_over(model: Any, custom_generate: Any, *arguments: Any) -> dict[str, Any]:
        usual = collect(model, None, *arguments) if isinstance(custom_generate, kind) else {}
        return usual | collect(model, custom_generate, *arguments)

    setattr(mixin, METHOD, handed_over)


class _WhenImported(MetaPathFinder):
    """Calls `then` with a module once it is imported for the first time."""

    def __init__(self, module: str, then: Callable[[ModuleType], None]) -> None:
        self._module, self._then = module, then

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_then(module: ModuleType) -> None:
            execute(module)
            self._then(module)

        loader.exec_module = execute_then
        return spec
