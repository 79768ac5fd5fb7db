# SPDX-License-Identifier: MIT
"""DLPack's capsules, made and opened with Python's own C interface."""

from __future__ import annotations

import ctypes
from typing import Any, Tuple

PLAIN, VERSIONED = b"dltensor", b"dltensor_versioned"
USED = {PLAIN: b"used_dltensor", VERSIONED: b"used_dltensor_versioned"}
CPU = (1, 0)
CUDA = 2
DEFAULT_STREAM = 1  # as __dlpack__ is asked for the legacy default stream
IS_COPIED = 2  # a bit of `flags`


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64)]


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p))]


class ManagedVersioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("manager", ctypes.c_void_p),
                ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)), ("flags", ctypes.c_uint64), ("tensor", Tensor)]


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


# The destructor sees its capsule while that is being freed: as an address, never as an object.
_name_of = _declare("PyCapsule_GetName", ctypes.c_char_p, ctypes.c_void_p)
_pointer_at = _declare("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_new = _declare("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_name = _declare("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
_pointer = _declare("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _declare("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)


# Called while an exception is on its way in C code, under which no Python code works, this raises it in Python.
raise_pending = _declare("PyErr_Occurred", ctypes.c_void_p)


def _delete(pointer: int, name: bytes) -> None:
    tensor = (ManagedVersioned if name == VERSIONED else Managed).from_address(pointer)
    tensor.deleter(pointer)


def _destroy(capsule: int) -> None:
    """Deletes the tensor of a capsule that nobody has used. A consumer that refuses one drops it with its exception on the way,
    which ends here: Python prints it as ignored."""
    try:
        raise_pending()
    finally:
        name = _name_of(capsule)
        if name in USED:
            _delete(_pointer_at(capsule, name), name)


_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_destroy)
# A capsule may be the last thing that the interpreter frees, so this stays for ever.
_declare("Py_IncRef", None, ctypes.py_object)(_destructor)


def capsule(pointer: int, name: bytes) -> Any:
    """A capsule that owns the tensor at an address. `name` is PLAIN or VERSIONED."""
    return _new(pointer, name, ctypes.cast(_destructor, ctypes.c_void_p))


def opened(given: Any) -> Tuple[int, bytes]:
    """The address of a capsule's tensor, and which kind it is."""
    name = _name(given) if type(given).__name__ == "PyCapsule" else None
    if name not in USED:
        raise BufferError(f"no DLPack capsule that is still unused: {given!r}")
    return _pointer(given, name), name


def mark_used(given: Any, name: bytes) -> None:
    """Says that the tensor now belongs to somebody else."""
    _rename(given, USED[name])


def mark_unused(given: Any, name: bytes) -> None:
    """Says that it belongs to its capsule again. Of the name Python keeps the address alone."""
    _rename(given, VERSIONED if name == VERSIONED else PLAIN)
