"""How much of an array is in memory, as the kernel says."""

import ctypes
import mmap

import numpy as np


def resident_bytes(array: np.ndarray) -> int:
    """Bytes of the pages of a contiguous array that are in memory."""
    page = mmap.PAGESIZE
    begin = array.ctypes.data // page * page
    pages = -(-(array.ctypes.data + array.nbytes - begin) // page)
    found = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(pages * page), found) == 0
    return sum(one & 1 for one in found) * page
