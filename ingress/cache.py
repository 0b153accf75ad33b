"""What a process remembers for a while: so many values at most, each for so long at most."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from time import monotonic
from typing import Any, Generic, TypeVar
from weakref import WeakSet

SWEEP_EVERY_S = 5.0

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# cachetools has as much, at five times the time for each look, of which a webhook and a send make several.
_caches: "WeakSet[Cache[Any, Any]]" = WeakSet()


class Cache(Generic[Key, Value]):
    """At most *size* values: for one more, the one that was put the longest ago goes.

    What is past its time is not given any more, and gone SWEEP_EVERY_S later. So nothing that was decrypted, and then
    deleted, stays because nobody asks for it again.
    """

    def __init__(self, size: int, clock: Callable[[], float] | None = None) -> None:
        self._size = size
        self._clock = clock or monotonic
        self._held: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        _caches.add(self)

    def get(self, key: Key) -> Value | None:
        held = self._held.get(key)
        return held[1] if held is not None and held[0] > self._clock() else None

    def put(self, key: Key, value: Value, for_s: float) -> None:
        held = self._held
        held[key] = self._clock() + for_s, value
        held.move_to_end(key)
        if len(held) > self._size:
            held.popitem(last=False)

    def drop(self, key: Key) -> None:
        self._held.pop(key, None)

    def drop_where(self, is_meant: Callable[[Value], bool]) -> None:
        for key in [key for key, (_, value) in self._held.items() if is_meant(value)]:
            del self._held[key]

    def clear(self) -> None:
        self._held.clear()

    def sweep(self) -> None:
        now = self._clock()
        for key in [key for key, (until, _) in self._held.items() if until <= now]:
            del self._held[key]

    def __iter__(self) -> Iterator[Key]:
        return iter([*self._held])

    def __len__(self) -> int:
        return len(self._held)


async def sweep_forever() -> None:
    """Let go of all that is past its time, in every cache of the process."""
    while True:
        for cache in [*_caches]:
            cache.sweep()
        await asyncio.sleep(SWEEP_EVERY_S)
