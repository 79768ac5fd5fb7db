# SPDX-License-Identifier: MIT
"""The library's statuses as exceptions, and calls that raise them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import operator
import os
import threading
from typing import Any, Dict, List, Mapping, Optional, Type, Union

from . import _api


class Error(Exception):
    """A failure in the library: `status` is its number, `name` its name, `native_code` errno or the device's own code, 0 where
    there is none."""

    def __init__(self, message: str, status: int = 0, name: str = "ERROR", native_code: int = 0) -> None:
        super().__init__(message)
        self.status, self.name, self.native_code = status, name, native_code

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.status, self.name, self.native_code)


class _OfFile(Error, OSError):
    """One with errno, and `filename`, the path that was given."""

    def __init__(self, message: str, status: int = 0, name: str = "ERROR", native_code: int = 0, filename: Any = None) -> None:
        super().__init__(message, status, name, native_code)
        self.filename = filename
        if native_code:
            self.errno, self.strerror = native_code, os.strerror(native_code)

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.status, self.name, self.native_code, self.filename)


class InvalidArgument(Error, ValueError):
    """An argument or option is not valid."""


class InvalidType(InvalidArgument, TypeError):
    """An argument or option is of a type that it cannot have."""


class OutOfMemory(Error, MemoryError):
    """An allocation failed or the context's memory limit was reached."""


class Cancelled(Error):
    """The work was cancelled."""


class StateError(Error):
    """The call does not fit the state of the object."""


class Unsupported(Error):
    """This library or machine cannot do what was asked."""


class FileError(_OfFile):
    """A file could not be read or written."""


class NotFound(Error, LookupError):
    """A file, stage or tensor does not exist."""


class FileNotFound(NotFound, _OfFile, FileNotFoundError):
    """A file or folder does not exist."""


class _InNoFolder(NotFound, _OfFile, NotADirectoryError):
    """A file does not exist, as what its path calls a folder is none."""


# What could not be read or written, by the kinds that Python has of OSError.


class _Missing(FileError, FileNotFoundError):
    pass


class _NoFolder(FileError, NotADirectoryError):
    pass


class _Folder(FileError, IsADirectoryError):
    pass


class _Refused(FileError, PermissionError):
    pass


class _There(FileError, FileExistsError):
    pass


class FormatError(Error, ValueError):
    """A file is not what its format prescribes."""


class ModelError(Error, ValueError):
    """A model's configuration and weights do not fit together."""


class NotFinite(Error, ArithmeticError):
    """A tensor holds a NaN or an infinity."""


class TimeoutReached(Error, TimeoutError):
    """No event came within the time given."""


for _public in (Error, InvalidArgument, InvalidType, OutOfMemory, Cancelled, StateError, Unsupported, FileError, NotFound,
                FileNotFound, FormatError, ModelError, NotFinite, TimeoutReached):
    _public.__module__ = "imagine"  # as tracebacks name them

_ERRORS: Dict[int, Type[Error]] = {
    -1: InvalidArgument, -2: OutOfMemory, -3: Cancelled, -4: StateError, -5: Unsupported, -20: FileError, -21: NotFound,
    -22: FormatError, -23: ModelError, -60: NotFinite}
_KINDS: Dict[Type[Error], Dict[int, Type[Error]]] = {
    FileError: {errno.ENOENT: _Missing, errno.ENOTDIR: _NoFolder, errno.EISDIR: _Folder, errno.EACCES: _Refused,
                errno.EPERM: _Refused, errno.EEXIST: _There},
    NotFound: {errno.ENOENT: FileNotFound, errno.ENOTDIR: _InNoFolder}}
_library: Optional[ctypes.CDLL] = None
Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


def lib() -> ctypes.CDLL:
    """The library, loaded at the first call."""
    global _library
    if _library is None:
        _library = _api.load()
    return _library


def _error(raw: _api.Error, filename: Any) -> Error:
    kind = _ERRORS.get(raw.status, Error)
    kind = _KINDS.get(kind, {}).get(raw.native_code, kind)
    name = lib().imagine_status_name(raw.status).decode()
    made = kind(raw.message.decode("utf-8", "replace"), raw.status, name, raw.native_code)
    if isinstance(made, _OfFile):
        made.filename = filename
    return made


# Ctrl-C during a function that the library calls, from which ctypes would let nothing out. Only the main thread sees any.
interrupts: List[KeyboardInterrupt] = []


def call(name: str, *arguments: Any, filename: Any = None) -> int:
    """Calls a function whose last parameter is the error, and raises what it reports, of the file of that name. Handles among
    the arguments may be closed by other threads meanwhile."""
    error = _api.Error(struct_size=ctypes.sizeof(_api.Error))
    with contextlib.ExitStack() as held:
        given = [held.enter_context(one._reference())._pointer if hasattr(one, "_reference") else one for one in arguments]
        status: int = getattr(lib(), name)(*given, ctypes.byref(error))
        if interrupts and threading.current_thread() is threading.main_thread():
            raise interrupts.pop()
    if status < 0:
        raise _error(error, filename)
    return status


def invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, -1, "ERROR_INVALID_ARGUMENT")


def wrong_type(what: str, wanted: str, value: Any) -> InvalidType:
    return InvalidType(f"{what}: wanted is {wanted}, not {type(value).__name__}", -1, "ERROR_INVALID_ARGUMENT")


def closed(name: str) -> StateError:
    return StateError(f"{name} is closed", -4, "ERROR_STATE")


def unsupported(message: str) -> Unsupported:
    return Unsupported(message, -5, "ERROR_UNSUPPORTED")


def integer(what: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number of any kind, numpy's too. C would take its lower bits for it, so it must lie in the range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong_type(what, "a whole number", value) from None
    if not low <= number <= high:
        raise invalid(f"{what}: {number} is not in {low}..{high}")
    return number


def number(what: str, value: Any) -> float:
    """A number of any kind, numpy's too, but no text that spells one."""
    try:
        return ctypes.c_double(value).value
    except TypeError:
        raise wrong_type(what, "a number", value) from None
    except OverflowError:
        raise invalid(f"{what}: {value} is larger than any number of the library's") from None


def numbers(what: str, values: Any) -> Any:
    """An array of C's."""
    try:
        listed = list(values)
    except TypeError:
        raise wrong_type(what, "a sequence of numbers", values) from None
    return (ctypes.c_double * len(listed))(*(number(what, value) for value in listed))


def choice(what: str, table: Mapping[str, int], value: str) -> int:
    """The number of a named constant."""
    if not isinstance(value, str):
        raise wrong_type(what, "a str", value)
    if value not in table:
        raise invalid(f"{what}: {value!r} is none of {', '.join(table)}")
    return table[value]


def text(what: str, value: Optional[str]) -> Optional[bytes]:
    """A string as C takes it."""
    if value is not None and not isinstance(value, str):
        raise wrong_type(what, "a str", value)
    if value is not None and "\0" in value:
        raise invalid(f"{what}: holds a zero character")
    try:
        return None if value is None else value.encode("utf-8")
    except UnicodeEncodeError as problem:  # as JSON's "\ud800" gives one
        raise invalid(f"{what}: character {problem.start} is half of a surrogate pair, of which UTF-8 has none") from None


def path(value: Path) -> bytes:
    """A file's name as C takes it, for which it would end at a zero character."""
    try:
        name = os.fsencode(value)
    except TypeError:
        raise wrong_type("path", "a str, bytes or os.PathLike", value) from None
    except UnicodeEncodeError as problem:
        raise invalid(f"path: character {problem.start} cannot be in a file's name") from None
    if b"\0" in name:
        raise invalid("path: holds a zero character")
    return name
