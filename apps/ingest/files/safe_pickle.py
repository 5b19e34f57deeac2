"""Pickled graphs of PyTorch Geometric as plain containers and NumPy arrays, without running what a pickle asks for.

A pickle is a program that may call anything. This one may only build plain containers, NumPy arrays and tensors
(as arrays), and objects of PyTorch Geometric, which become dictionaries of their fields; anything else is an error.
A storage of PyTorch inside a pickle is itself a stream of pickles in PyTorch's older file format: a magic number, a
protocol, facts of the machine, the object with references to storages, their keys, and for each the number of its
elements and its bytes (``torch/serialization.py``, ``_legacy_save``).
"""

from __future__ import annotations

import collections
import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_NUMPY = {"_reconstruct", "scalar", "_frombuffer"}


class Fields(dict[str, Any]):
    """An object of PyTorch Geometric: its fields."""

    def __setstate__(self, state: Any) -> None:
        """Take the fields; those of the newer layout lie in a store."""
        if isinstance(state, tuple):
            state = state[0]
        store = state.get("_store")
        if isinstance(store, Fields):
            self.update(store)
        mapping = state.get("_mapping")
        if isinstance(mapping, dict):
            self.update(mapping)
        self.update({key: value for key, value in state.items() if not key.startswith("_")})


def _tensor(storage: NDArray[Any], offset: int, size: Any, stride: Any, *_rest: Any) -> NDArray[Any]:
    """Return a tensor as an array; size and stride are checked against the storage."""
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset), default=0) < 0 or (0 not in size and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    if 0 in size:
        return np.zeros(size, dtype=storage.dtype)
    view = np.lib.stride_tricks.as_strided(
        storage[offset:], size, [step * storage.itemsize for step in stride], writeable=False
    )
    return np.array(view)


def _size(values: Any = ()) -> tuple[int, ...]:
    return tuple(values)


def _storage(data: bytes) -> NDArray[Any]:
    """Return a storage in PyTorch's older file format."""
    stream = io.BytesIO(data)
    if _Plain(stream).load() != _MAGIC:
        raise pickle.UnpicklingError("a storage is not in PyTorch's older format")
    _Plain(stream).load()  # protocol
    machine = _Plain(stream).load()
    if not (isinstance(machine, dict) and machine.get("little_endian", True)):
        raise pickle.UnpicklingError("a storage is of a machine with other byte order")
    reference = _Reference(stream).load()
    if not isinstance(reference, tuple) or _Plain(stream).load() != [reference[1]]:
        raise pickle.UnpicklingError("a storage refers to others")
    dtype = np.dtype(reference[0])
    count = int(np.frombuffer(stream.read(8), dtype="<i8")[0])
    content = stream.read(count * dtype.itemsize)
    return np.frombuffer(content, dtype=dtype, count=count)


class _Plain(pickle.Unpickler):
    """Builds containers, strings and numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")


class _Reference(_Plain):
    """Builds the reference to a storage: type of its elements and key."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the type of the elements of a storage class."""
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        return super().find_class(module, name)

    def persistent_load(self, reference: Any) -> Any:
        """Return type and key."""
        if not (isinstance(reference, tuple) and len(reference) >= 3 and reference[0] == "storage"):
            raise pickle.UnpicklingError("a reference is to no storage")
        return reference[1], reference[2]


class _Graph(_Plain):
    """Builds what a pickled graph consists of."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a class or function that is allowed."""
        if module.split(".")[0] == "torch_geometric":
            return Fields
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if (module, name) == ("torch", "Size"):
            return _size
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in _NUMPY:
            return super(_Plain, self).find_class("numpy._core.multiarray", name)
        return super().find_class(module, name)


def fields(packed: bytes) -> Any:
    """Return what a pickle holds.

    Raises
    ------
    pickle.UnpicklingError
        When it asks for a class or function that graphs do not need.
    """
    return _Graph(io.BytesIO(packed)).load()
