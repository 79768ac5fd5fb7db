# SPDX-License-Identifier: MIT
"""Handles of the library: contexts, cancel tokens, and buffers, which share their memory with other libraries."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple, Type, TypeVar, Union, cast

from . import _api, _dlpack
from ._errors import Error, Unsupported, call, choice, closed, integer, interrupts, invalid, lib, unsupported, wrong_type

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]
else:
    Array = Any  # of which typing.get_type_hints() can tell without numpy

Self = TypeVar("Self", bound="Handle")


def need_numpy() -> None:
    """Asked before work that ends with an array, that it be not in vain."""
    try:
        import numpy  # noqa: F401
    except ModuleNotFoundError as problem:
        if problem.name != "numpy":
            raise
        raise unsupported("arrays are numpy's, and Python finds no numpy: pip install numpy") from None


def as_array(name: str, value: Any) -> Array:
    """What numpy makes an array of."""
    need_numpy()
    import numpy
    try:
        return numpy.asarray(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise invalid(f"{name}: numpy makes no array of it: {problem}") from None


NAMES = {1: "uint8", 2: "int32", 3: "int64", 4: "float16", 5: "bfloat16", 6: "float32", 7: "float64"}
NUMBERS = {name: number for number, name in NAMES.items()}


class Handle:
    """Owns one C handle; `_free` names the function that ends it, `_retain` the one that makes another reference to what is
    counted, `_name` says what it is. All are context managers."""

    _free = _retain = _name = ""

    def __init__(self) -> None:
        self._renew()
        self._pointer = ctypes.c_void_p()
        _alive.add(self)

    @classmethod
    def _owner(cls: Type[Self], pointer: Optional[int]) -> Self:
        """Of a handle, which must be one of this class: callers have no part in it."""
        made = cls.__new__(cls)
        Handle.__init__(made)
        made._pointer.value = pointer
        return made

    def _renew(self) -> None:
        """Locks that nobody holds."""
        self._lock = threading.RLock()  # held while the pointer is freed, and while it is used without a reference

    def _out(self) -> Any:
        """Where a function of C's writes the handle that it makes. Python sees Ctrl-C as soon as that returns, so the handle has an
        owner before it is there."""
        return ctypes.byref(self._pointer)

    def close(self) -> None:
        """Frees the handle now; otherwise the garbage collector does."""
        if getattr(self, "_pointer", None):
            with self._lock:
                getattr(lib(), self._free)(ctypes.byref(self._pointer))

    def _reference(self: Self) -> Self:
        """A reference of one's own, with which work goes on whoever closes this one meanwhile: a call into C lets other
        threads run."""
        with self._lock:
            if not self._pointer:
                raise closed(f"the {self._name}")
            return self._owner(getattr(lib(), self._retain)(self._pointer))

    def __reduce__(self) -> Any:
        """copy and pickle would give the C handle a second owner, who frees it as well."""
        raise TypeError(f"a {type(self).__name__} owns a handle of the library and can be neither copied nor pickled")

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (AttributeError, TypeError):  # the interpreter is shutting down
            pass


_alive: weakref.WeakSet[Handle] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child only the thread that forked is there: what the others held would be locked for ever. The handles may then be
    closed, and used as far as the library lets a child."""
    for handle in list(_alive):
        handle._renew()


os.register_at_fork(after_in_child=_after_fork)

_logger = logging.getLogger("imagine")


def _log(_: Any, level: int, line: Optional[bytes]) -> None:
    try:
        _logger.log(_api.LOG_LEVELS.get(level, logging.DEBUG), "%s", (line or b"").decode("utf-8", "replace"))
    except KeyboardInterrupt as problem:
        interrupts.append(problem)


_log_function = _api.LOG_FUNCTION(_log)  # kept for as long as the library may call it


def _log_level() -> int:
    """The library's most detailed level that the logger wants when a context is made."""
    return max((number for number, level in _api.LOG_LEVELS.items() if _logger.isEnabledFor(level)), default=1)


def _device(number: int) -> str:
    """A newer library may know more of them."""
    return {known: name for name, known in _api.DEVICES.items()}.get(number, "unknown")


class Context(Handle):
    """Threads and memory that models use, and where they compute: device "cpu" or "cuda", of which device_number is one and
    precision "f32" or "bf16"; graphs False starts every launch by itself. What the library logs goes to the logger "imagine" of
    Python's logging, with the level that this has now. Most programs need no context of their own: open() makes one."""

    _free, _retain, _name = "imagine_context_release", "imagine_context_retain", "context"

    def __init__(self, threads: int = 0, memory_limit: int = 0, cpu_level: str = "best", device: str = "cpu",
                 device_number: int = 0, precision: str = "f32", graphs: bool = True) -> None:
        options = _api.ContextOptions()
        lib().imagine_context_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.threads = integer("threads", threads)
        options.memory_limit = integer("memory_limit", memory_limit, 0, 2**64 - 1)
        options.cpu_level = choice("cpu_level", _api.CPU_LEVELS, cpu_level)
        options.device = choice("device", _api.DEVICES, device)
        options.device_number = integer("device_number", device_number)
        options.precision = choice("precision", _api.PRECISIONS, precision)
        options.graphs = 0 if graphs else _api.GRAPHS_OFF
        options.log, options.log_level = ctypes.cast(_log_function, ctypes.c_void_p), _log_level()
        super().__init__()
        call("imagine_context_create", self._out(), ctypes.byref(options))

    def reset_peak(self) -> None:
        """Begins a new measurement of info["memory_peak"], as each job that starts does."""
        with self._reference() as held:
            lib().imagine_context_reset_peak(held._pointer)

    @property
    def info(self) -> Dict[str, Any]:
        """A dict: threads, cpu_level, memory_used, memory_peak, device, device_number, device_memory_used,
        device_memory_peak."""
        info = _api.ContextInfo(struct_size=ctypes.sizeof(_api.ContextInfo))
        call("imagine_context_get_info", self, ctypes.byref(info))
        level = {number: name for name, number in _api.CPU_LEVELS.items()}.get(info.cpu_level, "unknown")
        return {"threads": info.threads, "cpu_level": level, "memory_used": info.memory_used,
                "memory_peak": info.memory_peak, "device": _device(info.device),
                "device_number": info.device_number, "device_memory_used": info.device_memory_used,
                "device_memory_peak": info.device_memory_peak}


class Cancel(Handle):
    """A token that stops all work which was given it as `cancel`. fire() may be called from any thread."""

    _free, _retain, _name = "imagine_cancel_release", "imagine_cancel_retain", "token"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._children: List[Cancel] = []
        call("imagine_cancel_create", self._out(), of("context", Context, context))

    def fire(self) -> None:
        """What has this token ends with Cancelled, soon. Nothing has one that is closed."""
        with self._lock:
            lib().imagine_cancel_fire(self._pointer)
        for child in self._children[:]:
            child.fire()

    @property
    def fired(self) -> bool:
        with self._reference() as held:
            return bool(lib().imagine_cancel_fired(held._pointer))


def of(what: str, kind: Type[Self], handle: Optional[Self]) -> Optional[Self]:
    """A caller's handle, or None: of anything else C would take the address."""
    if handle is not None and not isinstance(handle, kind):
        raise wrong_type(what, f"an imagine.{kind.__name__}", handle)
    return handle


def given(what: str, kind: Type[Self], handle: Optional[Self]) -> Optional[Self]:
    """The same for one that is an option, which is told of where it is closed."""
    of(what, kind, handle)
    if handle is not None and not handle._pointer:
        raise closed(f"{what}: the {handle._name}")
    return handle


@contextlib.contextmanager
def child(context: Context, parent: Optional[Cancel]) -> Iterator[Cancel]:
    """A token for one piece of work: what fires the caller's fires it, and it may be fired alone. It is not closed, as another
    thread may be firing it still."""
    made = Cancel(context)
    if parent is None:
        yield made
        return
    parent._children.append(made)
    try:
        if parent.fired:
            made.fire()
        yield made
    finally:
        parent._children.remove(made)


def interruptible(cancel: Cancel, work: Callable[[], Any]) -> Any:
    """What `work` returns, done so that Ctrl-C fires the token: Python runs signal handlers between instructions of the
    main thread alone, and a C call is one instruction."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    result: Dict[str, Any] = {}

    def run(_: Cancel = cancel) -> None:  # kept by what still runs where nobody waits for it, after Ctrl-C twice
        try:
            result["value"] = work()
        except BaseException as problem:
            result["problem"] = problem

    thread = threading.Thread(target=run, name="imagine", daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        cancel.fire()  # also for a thread that is just beginning
        if thread.is_alive():
            thread.join()
        raise
    if "problem" in result:
        raise result["problem"]
    if "value" not in result:
        raise Error("this process was forked while another thread did the work, which is not here", -6, "ERROR_FORKED")
    return result["value"]


# Objects whose memory buffers lie over, by the number that the library gives back when it is done with one.
_lent: Dict[int, Any] = {}
_numbers = itertools.count(1)


def _give_back(number: int, data: int) -> None:
    try:
        _dlpack.raise_pending()  # of who drops a tensor of this memory
    finally:
        _lent.pop(number, None)


_release = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(_give_back)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_release))  # buffers may outlive this module


class Buffer(Handle):
    """A tensor of the library, dense, in the host's memory or on a GPU.

    Its memory is shared, not copied: numpy.asarray(buffer) (or `array`), numpy.from_dlpack(buffer) and
    torch.from_dlpack(buffer) are views of it and keep it alive, also when the buffer is closed; copy.copy(buffer) is another
    handle of the same memory; Buffer.wrap and Buffer.from_dlpack lie over other libraries' memory and keep that alive."""

    _free, _retain, _name = "imagine_buffer_release", "imagine_buffer_retain", "buffer"
    _lasting: Optional[Buffer] = None  # what keeps the memory for arrays, which hold this object, after close()
    _refused: Any = None  # a capsule that numpy will not take: were it numpy's alone, its exception would not arrive

    def close(self) -> None:
        self._refused = None
        super().close()

    def __copy__(self) -> Buffer:
        with self._lock:
            return Buffer._owner(lib().imagine_buffer_retain(self._pointer))

    def _info(self) -> _api.BufferInfo:
        info = _api.BufferInfo(struct_size=ctypes.sizeof(_api.BufferInfo))
        call("imagine_buffer_get_info", self, ctypes.byref(info))
        return info

    @property
    def shape(self) -> Tuple[int, ...]:
        info = self._info()
        return tuple(info.shape[:info.ndim])

    @property
    def dtype(self) -> str:
        """"uint8", "int32", "int64", "float16", "bfloat16", "float32" or "float64"."""
        return NAMES.get(self._info().dtype, "unknown")

    @property
    def nbytes(self) -> int:
        return int(self._info().size)

    @property
    def read_only(self) -> bool:
        """Whether nobody may write into it."""
        return bool(self._info().flags & _api.BUFFER_READ_ONLY)

    @property
    def device(self) -> str:
        """"cpu", or "cuda": then it has no array, and host() makes a copy that has."""
        return _device(self._info().device)

    def host(self) -> Buffer:
        """Itself where it lies on the host, else a copy there."""
        return self if self.device == "cpu" else self._copy()

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        held = self.__copy__()
        info = held._info()
        if info.device != _api.DEVICES["cpu"]:
            where = "a GPU" if info.device == _api.DEVICES["cuda"] else "a device that this module does not know"
            raise unsupported(f"the buffer lies on {where}; host() makes a copy that has an array")
        if info.dtype not in _api.DTYPES:
            raise unsupported(f"numpy has no type for the buffer's {self.dtype}; torch.from_dlpack takes it")
        if self._lasting is None:
            self._lasting = held
        return {"version": 3, "shape": tuple(info.shape[:info.ndim]), "typestr": "<" + _api.DTYPES[info.dtype],
                "data": (info.data or 0, bool(info.flags & _api.BUFFER_READ_ONLY))}

    @property
    def array(self) -> Array:
        """A view of the memory, which lives until both this buffer is closed and the last view is gone."""
        need_numpy()
        import numpy
        return numpy.asarray(self.__copy__())

    # ---- DLPack, as the Python array API 2023.12 has it

    def __dlpack_device__(self) -> Tuple[int, int]:
        info = self._info()
        if _device(info.device) == "unknown":
            raise BufferError("the buffer lies on a device that this module does not know; host() makes a copy that does not")
        return (_dlpack.CUDA, info.device_number) if info.device == _api.DEVICES["cuda"] else _dlpack.CPU

    def __dlpack__(self, *, stream: Optional[int] = None, max_version: Optional[Tuple[int, int]] = None,
                   dl_device: Optional[Tuple[int, int]] = None, copy: Optional[bool] = None) -> Any:
        """A capsule with the tensor: the versioned kind for who says to know version 1. Data on a GPU is complete, whatever
        the stream. A copy lies on the tensor's device, or on the host where `dl_device` is (1, 0), which may also be asked of a
        tensor on a GPU."""
        device = self.__dlpack_device__()
        wanted = device if dl_device is None else tuple(dl_device)
        if stream is not None and device == _dlpack.CPU:
            raise BufferError("stream: memory of the host has none, only None is possible")
        if wanted not in (device, _dlpack.CPU) or (wanted != device and copy is False):
            without = " without a copy" if wanted == _dlpack.CPU else ""
            raise BufferError(f"dl_device: the tensor is on {device}; {wanted} is not possible{without}")
        copied = bool(copy) or wanted != device
        versioned = max_version is not None and max_version[0] >= 1
        source = self if not copied else self._copy() if wanted == _dlpack.CPU else self._copy_on_gpu()
        pointer = ctypes.c_void_p()
        try:
            call("imagine_buffer_to_dlpack" if versioned else "imagine_buffer_to_dlpack_unversioned", source,
                 ctypes.byref(pointer))
        except Unsupported as problem:
            raise BufferError(str(problem)) from None
        assert pointer.value
        if copied and versioned:
            _dlpack.ManagedVersioned.from_address(pointer.value).flags |= _dlpack.IS_COPIED
        given = _dlpack.capsule(pointer.value, _dlpack.VERSIONED if versioned else _dlpack.PLAIN)
        if wanted != _dlpack.CPU or self._info().dtype not in _api.DTYPES:
            self._refused = given
        return given

    def _copy(self) -> Buffer:
        info = self._info()
        context = Context(threads=1)
        made = Buffer._create(context, info.dtype, tuple(info.shape[:info.ndim]))
        call("imagine_buffer_copy", made, self)
        return made

    def _copy_on_gpu(self) -> Buffer:
        """On the same one, in a context of its own, whose limit keeps small what it allocates beside."""
        info = self._info()
        context = Context(threads=1, device="cuda", device_number=info.device_number, memory_limit=2 * info.size + (16 << 20))
        made, dims = Buffer(), (ctypes.c_int64 * max(info.ndim, 1))(*info.shape[:info.ndim])
        call("imagine_buffer_create_on", made._out(), context, info.device, info.dtype, info.ndim, dims)
        call("imagine_buffer_copy", made, self)
        return made

    @classmethod
    def from_dlpack(cls, tensor: Any, context: Optional[Context] = None) -> Buffer:
        """A buffer over a tensor of another library (anything with __dlpack__), without a copy. Unsupported when the tensor
        is not dense, neither in the host's memory nor on the GPU of `context`, or of a type that the library has not."""
        context = of("context", Context, context) or Context(threads=1)
        if not hasattr(tensor, "__dlpack__"):
            raise wrong_type("tensor", "something with __dlpack__", tensor)
        # On a GPU in the order of the default stream, which the library waits for; else there would be none.
        on_gpu = getattr(tensor, "__dlpack_device__", lambda: (1, 0))()[0] == _dlpack.CUDA
        order = {"stream": _dlpack.DEFAULT_STREAM} if on_gpu else {}
        try:
            given = tensor.__dlpack__(max_version=(1, 0), **order)
        except TypeError:  # made before there were versions
            given = tensor.__dlpack__(**order)
        address, name = _dlpack.opened(given)
        made = cls()
        _dlpack.mark_used(given, name)  # first: no tensor has two owners, whatever comes in between
        try:
            call("imagine_buffer_from_dlpack" if name == _dlpack.VERSIONED else "imagine_buffer_from_dlpack_unversioned",
                 made._out(), context, address)
        finally:
            if not made._pointer:
                _dlpack.mark_unused(given, name)
        return made

    # ---- memory of the caller's

    @classmethod
    def _create(cls, context: Context, dtype: int, shape: Tuple[int, ...]) -> Buffer:
        made, dims = cls(), (ctypes.c_int64 * max(len(shape), 1))(*shape)
        call("imagine_buffer_create", made._out(), context, dtype, len(shape), dims)
        return made

    @classmethod
    def wrap(cls, array: Any, context: Optional[Context] = None) -> Buffer:
        """A buffer over a numpy array's memory, without a copy; the array is kept for as long as the library needs it.
        What is written into one is seen in the other. A read-only array makes a read-only buffer."""
        array = as_array("array", array)
        import numpy
        number = 1 if array.dtype == numpy.bool_ else NUMBERS.get(array.dtype.name)
        if number is None or not array.dtype.isnative:
            raise invalid(f"array: the library has no type {array.dtype.str}")
        if not array.flags.c_contiguous:
            raise invalid("array: it is not contiguous; numpy.ascontiguousarray makes a copy that is")
        context = of("context", Context, context) or Context(threads=1)
        made, key = cls(), next(_numbers)
        shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        _lent[key] = array
        try:
            call("imagine_buffer_wrap" if array.flags.writeable else "imagine_buffer_wrap_read_only", made._out(),
                 context, number, array.ndim, shape, array.ctypes.data,
                 ctypes.cast(_release, ctypes.c_void_p), key)
        finally:
            if not made._pointer:
                _lent.pop(key, None)
        return made

    @classmethod
    def copy_of(cls, context: Context, array: Any, name: str = "array", dtype: str = "") -> Buffer:
        """A new buffer with the values of anything that numpy makes an array of, which errors call `name`. With `dtype` "float32"
        whole numbers become real ones, with "uint8" they must be 0 to 255, without they stay whole where the library has their
        type. A Buffer is taken as it is."""
        of("context", Context, context)
        if isinstance(array, Buffer):
            return cast("Buffer", given(name, Buffer, array))
        array = as_array(name, array)
        import numpy
        whole = array.dtype.kind in "iu"
        if array.dtype == numpy.bool_ or not numpy.can_cast(array.dtype, numpy.float32, "same_kind"):
            raise invalid(f"{name}: wanted are real or whole numbers, not {array.dtype}")
        if dtype == "uint8" and whole and array.size and not 0 <= array.min() <= array.max() <= 255:
            raise invalid(f"{name}: {array.min()} to {array.max()} are no values of pictures, which are 0 to 255")
        kept = dtype == "uint8" if dtype else array.dtype.name in ("uint8", "int32", "int64")
        stored = (dtype or array.dtype.name) if whole and kept else "float32"
        buffer = cls._create(context, NUMBERS[stored], array.shape)
        view = buffer.array
        # A call, after which Ctrl-C is seen: not first in a __del__, which would lose it.
        numpy.copyto(view, array, casting="unsafe")
        return buffer
