"""Paged memory of KV caches: reserved whole, taken page by page as tokens are written, given back by row.

A cache has room for all rows at their full capacity, and most of it is never used. The kernel's page table
makes the difference: address space is reserved, a page takes memory when it is first written, and what lies
behind a row's last token is given back when the row forgets tokens. Compiled code sees one plain array.

Huge pages would undo this: with pages of 2 MB, which NumPy asks for, the first token of a row of SmolLM2
(keys and values of 3 heads in 30 layers) would take and clear 360 MB. They are declined for this memory.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

DECLINE_HUGE_PAGES = getattr(mmap, "MADV_NOHUGEPAGE", None)
"""Linux's advice; None where the system has none."""
GIVE_BACK = getattr(mmap, "MADV_DONTNEED", None) if DECLINE_HUGE_PAGES is not None else None
"""After this advice Linux reads zeros there; elsewhere it may mean less."""


class PagedArray:
    """An array of zeros, at the begin of a page, that takes no memory until it is written.

    Args:
        shape: The array's.
        dtype: The array's.

    Raises:
        MemoryError: The address space cannot be had.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = dtype.itemsize
        for extent in shape:  # in Python's integers: NumPy's would overflow
            size *= extent
        try:
            self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(f"{size} bytes of address space") from error
        if DECLINE_HUGE_PAGES is not None:
            self._memory.madvise(DECLINE_HUGE_PAGES)
        self.array: NDArray[Any] = np.frombuffer(self._memory, dtype).reshape(shape)
        self._address = self.array.ctypes.data

    def give_back(self, part: NDArray[Any], *, kept_bytes: int) -> None:
        """Give the pages at the end of a part back to the system; they read as zeros.

        Args:
            part: A contiguous part of the array.
            kept_bytes: So much of its begin is kept.
        """
        if GIVE_BACK is None:
            return
        start = part.ctypes.data - self._address
        begin = -(-(start + kept_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (start + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            self._memory.madvise(GIVE_BACK, begin, end - begin)
