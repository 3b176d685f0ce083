"""The next batches are made ready in a thread while the present one is painted."""

import threading
from collections.abc import Callable, Iterator, Sized
from queue import Empty, Full, Queue
from typing import Any, Protocol

POLL = 0.2  # seconds after which a waiting thread looks whether it is still wanted


class Batches(Sized, Protocol):
    """Anything with a length that can be iterated: a DataLoader."""

    def __iter__(self) -> Iterator[Any]: ...


class Ahead:
    """Iterates `batches` with `prepare` applied, at most `depth` of them ahead.

    An error in `batches` or in `prepare` is raised where the batch would have been.

    Args:
        batches: A DataLoader. Its iterator, and with it its worker processes, starts in the caller's thread.
        prepare: Called in the thread with each batch; its result is handed on.
        depth: Batches that wait ready.
    """

    def __init__(self, batches: Batches, prepare: Callable[[Any], Any], depth: int = 2) -> None:
        self.batches, self.prepare, self.depth = batches, prepare, depth

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        ready: Queue[tuple[Any, BaseException | None]] = Queue(self.depth)
        unwanted = threading.Event()
        source = iter(self.batches)

        def put(item: tuple[Any, BaseException | None]) -> None:
            while not unwanted.is_set():
                try:
                    ready.put(item, timeout=POLL)
                    return
                except Full:
                    continue

        def work() -> None:
            try:
                for batch in source:
                    put((self.prepare(batch), None))
                    if unwanted.is_set():
                        return
                put((None, StopIteration()))
            except BaseException as error:  # raised again where it is waited for
                put((None, error))

        thread = threading.Thread(target=work, name="ahead", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    item, error = ready.get(timeout=POLL)
                except Empty:
                    if not thread.is_alive() and ready.empty():
                        return
                    continue
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            unwanted.set()
            thread.join(timeout=60)
