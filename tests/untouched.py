"""A text that must not be read whole."""

from __future__ import annotations

from typing import Any


class Untouched(tuple[int, ...]):
    """The head of a long text. While `guarded`, reading, comparing, copying or pickling it fails."""

    guarded = False

    def __iter__(self) -> Any:
        return self._checked(super().__iter__())

    def __getitem__(self, part: Any) -> Any:
        return self._checked(super().__getitem__(part))

    def __eq__(self, other: object) -> bool:
        return self._checked(super().__eq__(other))

    def __add__(self, other: Any) -> Any:
        return self._checked(super().__add__(other))

    def __hash__(self) -> int:
        return self._checked(super().__hash__())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._checked((tuple, (list(self),)))

    def _checked(self, answer: Any) -> Any:
        assert not Untouched.guarded, "a long text was read"
        return answer
