"""One thread for the products of blocks: they are too small to share, and threads that wait for each other spin."""

from __future__ import annotations

from contextlib import ContextDecorator
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController


class OneThread(ContextDecorator):
    """Holds linear algebra to one thread while any function is inside; the number of threads is the process's own.

    So it is counted who is inside, of all threads of Python: the last one out sets back what the first one found.
    """

    def __init__(self) -> None:
        self.lock, self.inside = Lock(), 0
        self.libraries: ThreadpoolController | None = None
        self.limits: Any = None

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.libraries = self.libraries or ThreadpoolController()
                self.limits = self.libraries.limit(limits=1, user_api="blas")

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.limits.restore_original_limits()


one_thread = OneThread()
