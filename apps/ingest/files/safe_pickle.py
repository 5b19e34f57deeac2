"""Reads pickled graphs of PyTorch Geometric as plain containers and NumPy arrays, without executing their code.

A pickle is a program that may call anything. This one may only build plain containers, NumPy arrays and tensors
(as arrays), and objects of PyTorch Geometric, which become dictionaries of their fields; anything else is an error.
A storage of PyTorch inside a pickle is itself a stream of pickles in PyTorch's older file format: a magic number, a
protocol, facts of the machine, the object with references to storages, their keys, and for each the number of its
elements and its bytes (``torch/serialization.py``, ``_legacy_save``).
"""

from __future__ import annotations

import collections
import io
import math
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
_KINDS = "biufcSU"  # kinds of NumPy's types: numbers and texts; arrays of objects would be pointers chosen by a file
DEEPEST = 20  # nesting of containers
MOST_EXPANDED = 1 << 20  # elements of a tensor that repeats its storage


def _refused(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"the pickle {what}")


class _Sealed(type):
    """Metaclass of the classes available to a pickle, which cannot set their attributes."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise _refused(f"changes {cls.__name__}")


class _Function(metaclass=_Sealed):
    """A function that a pickle may only call."""

    __slots__ = ("_call",)
    _call: Any

    def __init__(self, call: Any) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _refused("changes a function")


class _Type(metaclass=_Sealed):
    """A type of NumPy's, as pickles make it: a name, then a state that says the order of bytes."""

    __slots__ = ("dtype",)
    dtype: np.dtype[Any]

    def __init__(self, name: Any = None, *_rest: Any) -> None:
        if not isinstance(name, str) or len(name) > 12 or name[:1] not in _KINDS or not (name[1:] or "0").isdecimal():
            raise _refused("makes a type that is neither numbers nor text")
        object.__setattr__(self, "dtype", np.dtype(name))

    def __setattr__(self, name: str, value: Any) -> None:
        raise _refused("changes a type")

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes; fields, shapes and flags of objects are refused."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _refused("makes a type with fields")
        if state[1] not in ("<", ">", "|", "="):
            raise _refused("makes a type of an unknown order of bytes")
        object.__setattr__(self, "dtype", self.dtype.newbyteorder(state[1]))


class _PickledArray(metaclass=_Sealed):
    """An array of NumPy's, as pickles make it: empty, then a state with shape, type and bytes."""

    __slots__ = ("array",)
    array: NDArray[Any] | None

    def __init__(self, *_rest: Any) -> None:
        object.__setattr__(self, "array", None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _refused("changes an array")

    def __setstate__(self, state: Any) -> None:
        """Take the content."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise _refused("makes an array of an unknown state")
        _, shape, kind, by_columns, content = state
        object.__setattr__(self, "array", _array(content, kind, shape, "F" if by_columns else "C"))


class _Storage(metaclass=_Sealed):
    """A storage of a tensor: its elements, end to end."""

    __slots__ = ("elements",)
    elements: NDArray[Any]

    def __init__(self, elements: Any = None) -> None:
        if not isinstance(elements, np.ndarray):
            raise _refused("makes a storage by itself")
        object.__setattr__(self, "elements", elements)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _refused("changes a storage")


def _array(content: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    """Return an array of the bytes of a pickle, when they are exactly what its type and shape need."""
    if not isinstance(content, (bytes, bytearray)) or not isinstance(kind, _Type) or order not in ("C", "F"):
        raise _refused("makes an array of something else than bytes")
    sizes = _counts(shape)
    if math.prod(sizes) * kind.dtype.itemsize != len(content):
        raise _refused(f"makes an array of shape {sizes} from {len(content):,} bytes")
    if not content:
        return np.zeros(sizes if max(sizes, default=0) < MOST_EXPANDED else (0,), dtype=kind.dtype)
    return np.frombuffer(bytes(content), dtype=kind.dtype).reshape(sizes, order=order).copy()


def _counts(values: Any) -> tuple[int, ...]:
    """Return sizes or strides: a few whole numbers that are not negative."""
    if not isinstance(values, (tuple, list)) or len(values) > 16:
        raise _refused("makes an array of an unknown shape")
    if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise _refused("makes an array of an impossible shape")
    return tuple(values)


def _scalar(kind: Any, content: Any = b"") -> Any:
    return _array(content, kind, ())[()]


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any = "C", *_rest: Any) -> NDArray[Any]:
    return _array(content, kind, shape, order)


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """Return the bytes that pickles of protocol 2 write as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _refused("makes bytes of something else than text")
    return text.encode("latin1")


def _plain(node: Any, depth: int = 0) -> Any:
    """Return the built object with NumPy arrays in place of their stand-ins."""
    if depth > DEEPEST:
        raise _refused("nests without end")
    if isinstance(node, _PickledArray):
        if node.array is None:
            raise _refused("leaves an array empty")
        return node.array
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(value, (int, float, str, np.ndarray)):
                node[key] = _plain(value, depth + 1)
    elif type(node) in (list, tuple):
        return type(node)(_plain(value, depth + 1) for value in node)
    elif isinstance(node, (_Type, _Function, _Storage, type)):
        return None
    return node


class Fields(dict[str, Any], metaclass=_Sealed):
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


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> NDArray[Any]:
    """Return a tensor as an array; size and stride are checked against the storage."""
    if not isinstance(storage, _Storage):
        raise _refused("makes a tensor without a storage")
    (offset,), size, stride = _counts((offset,)), _counts(size), _counts(stride)
    elements, n = storage.elements, math.prod(size)
    if len(size) != len(stride) or n > max(len(elements), MOST_EXPANDED):
        raise _refused(f"makes a tensor of {n:,} elements from {len(elements):,}")
    if not n:
        return np.zeros(size if max(size) < MOST_EXPANDED else (0,), dtype=elements.dtype)
    if offset + sum((k - 1) * step for k, step in zip(size, stride, strict=True)) >= len(elements):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(
        elements[offset:], size, [step * elements.itemsize for step in stride], writeable=False
    )
    return np.array(view)


def _size(values: Any = ()) -> tuple[int, ...]:
    return _counts(values)


def _storage(data: Any) -> _Storage:
    """Return a storage in PyTorch's older file format."""
    if not isinstance(data, bytes):
        raise _refused("makes a storage of something else than bytes")
    stream = io.BytesIO(data)
    if _Plain(stream).load() != _MAGIC:
        raise pickle.UnpicklingError("a storage is not in PyTorch's older format")
    _Plain(stream).load()  # protocol
    machine = _Plain(stream).load()
    if not (isinstance(machine, dict) and machine.get("little_endian", True)):
        raise pickle.UnpicklingError("a storage is of a machine with other byte order")
    reference = _PersistentReference(stream).load()
    if not isinstance(reference, tuple) or _Plain(stream).load() != [reference[1]]:
        raise pickle.UnpicklingError("a storage refers to others")
    if reference[0] not in _DTYPES.values():
        raise _refused("makes a storage of an unknown type")
    dtype, head = np.dtype(reference[0]), stream.read(8)
    count = int.from_bytes(head, "little", signed=True)
    content = stream.read()
    if len(head) < 8 or not 0 <= count * dtype.itemsize <= len(content):
        raise _refused(f"claims a storage of {count:,} elements, and has {len(content):,} bytes")
    return _Storage(np.frombuffer(content, dtype=dtype, count=count))


class _Plain(pickle.Unpickler):
    """Builds containers, strings and numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")


class _PersistentReference(_Plain):
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
    """Builds the parts of a pickled graph."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an allowed class or function."""
        if module.split(".")[0] == "torch_geometric":
            return Fields
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "numpy.core.multiarray"
        if (module, name) in _CLASSES:
            return _CLASSES[module, name]
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        return super().find_class(module, name)


_CLASSES: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _Type,
}
_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _bytes,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "Size"): _size,
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
}


def fields(packed: bytes) -> Any:
    """Return the content of a pickle.

    Raises
    ------
    pickle.UnpicklingError
        When it requests a class or function that graphs do not need.
    """
    return _plain(_Graph(io.BytesIO(packed)).load())
