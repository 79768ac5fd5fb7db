# SPDX-License-Identifier: MIT
"""Pictures and video from a prompt, through libimagine.

    import imagine
    frames = imagine.open("tiny").generate("a red apple bouncing")   # numpy, uint8 [frames, height, width, 3]

Arrays that come from here are views of the library's memory: nothing is copied, and the memory lives as long as an
array does. Every failure raises imagine.Error or one of its subclasses, with the library's own message."""

import ctypes
import os
import pathlib

from . import _api

__all__ = ["open", "version", "Context", "Model", "Job", "Event", "Buffer", "save", "load", "Error", "InvalidArgument",
           "OutOfMemory", "Cancelled", "StateError", "Unsupported", "NotFound", "FormatError", "ModelError", "FileError",
           "NotFinite", "TimeoutReached"]


class Error(Exception):
    """A failure in the library: `status` is its number, `name` its name."""

    def __init__(self, message, status=0, name="ERROR"):
        super().__init__(message)
        self.status, self.name = status, name


class InvalidArgument(Error, ValueError):
    """An argument or option is not valid."""


class OutOfMemory(Error, MemoryError):
    """An allocation failed or the context's memory limit was reached."""


class Cancelled(Error):
    """The work was cancelled."""


class StateError(Error):
    """The call does not fit the state of the object."""


class Unsupported(Error):
    """This library or machine cannot do what was asked."""


class FileError(Error, OSError):
    """A file could not be read or written."""


class NotFound(Error, LookupError):
    """A file, stage or tensor does not exist."""


class FormatError(Error, ValueError):
    """A file is not what its format prescribes."""


class ModelError(Error, ValueError):
    """A model's configuration and weights do not fit together."""


class NotFinite(Error, ArithmeticError):
    """A tensor holds a NaN or an infinity."""


class TimeoutReached(Error, TimeoutError):
    """No event came within the time given."""


_ERRORS = {-1: InvalidArgument, -2: OutOfMemory, -3: Cancelled, -4: StateError, -5: Unsupported, -20: FileError,
           -21: NotFound, -22: FormatError, -23: ModelError, -60: NotFinite}
_library = None


def _lib():
    global _library
    if _library is None:
        _library = _api.load()
    return _library


def _call(name, *arguments):
    """Calls a function whose last parameter is the error, and raises what it reports."""
    error = _api.Error(struct_size=ctypes.sizeof(_api.Error))
    status = getattr(_lib(), name)(*arguments, ctypes.byref(error))
    if status < 0:
        text = error.message.decode("utf-8", "replace")
        raise _ERRORS.get(status, Error)(text, status, _lib().imagine_status_name(status).decode())
    return status


def version():
    """The version of the library, as "0.2.0"."""
    return _lib().imagine_version_string().decode()


class _Handle:
    """Owns one C handle; `_free` names the function that ends it."""

    _free = None

    def __init__(self, pointer):
        self._pointer = ctypes.c_void_p(pointer)

    def close(self):
        """Frees the handle now; otherwise the garbage collector does."""
        if getattr(self, "_pointer", None):
            getattr(_lib(), self._free)(ctypes.byref(self._pointer))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __del__(self):
        try:
            self.close()
        except (AttributeError, TypeError):  # the interpreter is shutting down
            pass


class Buffer(_Handle):
    """A tensor of the library. numpy.asarray(buffer) is a view of it; `array` is the same."""

    _free = "imagine_buffer_release"

    def _info(self):
        info = _api.BufferInfo(struct_size=ctypes.sizeof(_api.BufferInfo))
        _call("imagine_buffer_get_info", self._pointer, ctypes.byref(info))
        return info

    @property
    def shape(self):
        info = self._info()
        return tuple(info.shape[:info.ndim])

    @property
    def __array_interface__(self):
        info = self._info()
        if info.dtype not in _api.DTYPES:
            raise AttributeError("numpy has no type for this buffer's elements")
        return {"version": 3, "shape": tuple(info.shape[:info.ndim]), "typestr": "<" + _api.DTYPES[info.dtype],
                "data": (info.data or 0, False)}

    @property
    def array(self):
        import numpy
        return numpy.asarray(self)

    @classmethod
    def copy_of(cls, context, array):
        """A new buffer with the values of anything that numpy makes an array of."""
        import numpy
        array = numpy.asarray(array)
        if array.dtype not in (numpy.uint8, numpy.int32, numpy.int64):
            array = array.astype(numpy.float32)
        dtype = {"u1": 1, "i4": 2, "i8": 3, "f4": 6}[array.dtype.str[1:]]
        pointer = ctypes.c_void_p()
        shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        _call("imagine_buffer_create", ctypes.byref(pointer), context._pointer, dtype, array.ndim, shape)
        buffer = cls(pointer.value)
        buffer.array[...] = array
        return buffer


class Context(_Handle):
    """Threads and memory that models use. Most programs need none of their own: open() makes one."""

    _free = "imagine_context_release"

    def __init__(self, threads=0, memory_limit=0, cpu_level="best"):
        options = _api.ContextOptions()
        _lib().imagine_context_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.threads, options.memory_limit = threads, memory_limit
        options.cpu_level = _choice("cpu_level", _api.CPU_LEVELS, cpu_level)
        pointer = ctypes.c_void_p()
        _call("imagine_context_create", ctypes.byref(pointer), ctypes.byref(options))
        super().__init__(pointer.value)

    @property
    def info(self):
        """A dict: threads, cpu_level, memory_used, memory_peak."""
        info = _api.ContextInfo(struct_size=ctypes.sizeof(_api.ContextInfo))
        _call("imagine_context_get_info", self._pointer, ctypes.byref(info))
        level = {number: name for name, number in _api.CPU_LEVELS.items()}.get(info.cpu_level, "unknown")
        return {"threads": info.threads, "cpu_level": level, "memory_used": info.memory_used,
                "memory_peak": info.memory_peak}


def _choice(what, table, value):
    if value not in table:
        raise InvalidArgument(f"{what}: {value!r} is none of {', '.join(table)}", -1, "ERROR_INVALID_ARGUMENT")
    return table[value]


def _tile(value):
    """(width, height) of the C API: 0 is the whole side, -1 chosen by the library."""
    if value is None or value == "auto":
        return (0, 0) if value is None else (-1, -1)
    width, height = value if isinstance(value, (tuple, list)) else (value, value)
    return int(width), int(height)


def _text(what, value):
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"{what}: wanted is a str, not {type(value).__name__}", -1, "ERROR_INVALID_ARGUMENT")
    if value is not None and "\0" in value:
        raise InvalidArgument(f"{what}: holds a zero character", -1, "ERROR_INVALID_ARGUMENT")
    return None if value is None else value.encode("utf-8")


class Event:
    """What a job reports: `kind` is "step", "preview", "latents", "frames" or "done"; the rest as in imagine_event."""

    _KINDS = {1: "step", 2: "preview", 3: "latents", 4: "frames", 5: "done"}

    def __init__(self, raw):
        self.kind = self._KINDS.get(raw.kind, "unknown")
        self.step, self.steps, self.sigma, self.seconds = raw.step, raw.steps, raw.sigma, raw.seconds
        self.first_frame, self.frame_count = raw.first_frame, raw.frame_count
        self.frames, self.latents = self._keep(raw.frames), self._keep(raw.latents)

    @staticmethod
    def _keep(pointer):
        """The payload as an array that stays valid after the next event."""
        return Buffer(_lib().imagine_buffer_retain(pointer)).array if pointer else None

    def __repr__(self):
        if self.kind == "step":
            return f"<imagine.Event step {self.step}/{self.steps}>"
        return f"<imagine.Event {self.kind}>"


class Job(_Handle):
    """One running generation: iterate over it for its events. cancel() may be called from any thread."""

    _free = "imagine_job_destroy"

    def __init__(self, model, options, keep):
        pointer = ctypes.c_void_p()
        _call("imagine_job_create", ctypes.byref(pointer), model._pointer, ctypes.byref(options))
        super().__init__(pointer.value)
        self._model, self._done = model, False
        del keep  # what the options pointed to: the library has its own copies now

    def next(self, timeout=None):
        """The next event; TimeoutReached after `timeout` seconds (None waits for ever)."""
        if not self._pointer:
            raise StateError("the job is closed", -4, "ERROR_STATE")
        raw = _api.Event(struct_size=ctypes.sizeof(_api.Event))
        nanoseconds = -1 if timeout is None else int(timeout * 1e9)
        if _call("imagine_job_next", self._pointer, ctypes.byref(raw), nanoseconds) == _api.STATUS_TIMEOUT:
            raise TimeoutReached("no event yet", _api.STATUS_TIMEOUT, "TIMEOUT")
        return Event(raw)

    def __iter__(self):
        return self

    def __next__(self):
        if self._done:
            raise StopIteration
        while True:
            try:
                event = self.next(timeout=0.2)  # short, so that Ctrl-C is seen
                break
            except TimeoutReached:
                continue
        self._done = event.kind == "done"
        return event

    def cancel(self):
        """Asks the job to stop; iterating then raises Cancelled."""
        if self._pointer:
            _lib().imagine_job_cancel(self._pointer)

    @property
    def latents(self):
        """The latents after the last whole step, float32 [channels, frames, height, width]."""
        pointer = ctypes.c_void_p()
        _call("imagine_job_get_latents", self._pointer, ctypes.byref(pointer))
        return Buffer(pointer.value).array

    @property
    def info(self):
        """A dict: the settled sizes, seconds per stage, memory_peak."""
        info = _api.JobInfo(struct_size=ctypes.sizeof(_api.JobInfo))
        _call("imagine_job_get_info", self._pointer, ctypes.byref(info))
        stages = {"load": info.seconds[1], "text": info.seconds[2], "sample": info.seconds[3], "decode": info.seconds[4]}
        return {"width": info.width, "height": info.height, "frames": info.frames, "steps": info.steps,
                "guidance": info.guidance, "seconds": stages, "memory_peak": info.memory_peak}


def _estimate(model, options, keep):
    raw = _api.Estimate(struct_size=ctypes.sizeof(_api.Estimate))
    _call("imagine_job_estimate", model._pointer, ctypes.byref(options), ctypes.byref(raw))
    del keep
    names = ("width", "height", "frames", "steps", "guidance", "peak_bytes", "held_bytes", "limit_bytes")
    nearest = (raw.nearest_width, raw.nearest_height, raw.nearest_frames) if raw.nearest_frames else None
    stages = {name: {"peak": raw.stage_peak[i], "weights": raw.stage_weights[i], "work": raw.stage_work[i]}
              for name, i in (("text", 2), ("sample", 3), ("decode", 4))}
    return {**{name: getattr(raw, name) for name in names}, "fits": bool(raw.fits), "stages": stages,
            "streamed": bool(raw.streamed), "nearest": nearest}


class Model(_Handle):
    """An opened model pack. May be shared between threads. `weights` says where those of the text encoder and transformer
    are while they are used: "resident" in memory, "streamed" block by block from the file, "auto" as the context's memory
    limit wants it."""

    _free = "imagine_model_release"

    def __init__(self, path, context=None, weights="auto"):
        self.context = context or Context()
        pointer = ctypes.c_void_p()
        options = _api.ModelOptions(struct_size=ctypes.sizeof(_api.ModelOptions),
                                    weights=_choice("weights", _api.WEIGHTS, weights))
        _call("imagine_model_open", ctypes.byref(pointer), self.context._pointer, os.fsencode(path),
              ctypes.byref(options))
        super().__init__(pointer.value)
        self.path = str(path)

    @property
    def info(self):
        """A dict of what imagine_model_info says."""
        info = _api.ModelInfo(struct_size=ctypes.sizeof(_api.ModelInfo))
        _call("imagine_model_get_info", self._pointer, ctypes.byref(info))
        return {name: getattr(info, name) for name, _ in info._fields_ if name != "struct_size"}

    def job(self, prompt="", negative_prompt=None, *, seed=0, width=0, height=0, frames=0, steps=0, guidance=-1.0,
            shift=0.0, schedule="default", step_rule="default", sigmas=None, noise=None, latents=None, prompt_embeds=None,
            negative_embeds=None, previews=False, decode=True, _use=Job):
        """Starts a generation and returns its Job: `for event in model.job("a dog"): ...`. Sizes of 0 are the pack's
        defaults. `noise`, `latents` and the embeds are anything that numpy makes an array of."""
        sampler = _api.SamplerOptions()
        _lib().imagine_sampler_options_init(ctypes.byref(sampler), ctypes.sizeof(sampler))
        sampler.seed, sampler.width, sampler.height, sampler.frames = seed & (2**64 - 1), width, height, frames
        sampler.steps, sampler.guidance, sampler.shift = steps, guidance, shift
        sampler.schedule = _choice("schedule", _api.SCHEDULES, "sigmas" if sigmas is not None else schedule)
        sampler.step_rule = _choice("step_rule", _api.STEP_RULES, step_rule)
        keep = [sampler]
        if sigmas is not None:
            array = (ctypes.c_double * len(sigmas))(*sigmas)
            sampler.sigmas, sampler.sigma_count = array, len(sigmas)
            keep.append(array)
        options = _api.JobOptions()
        _lib().imagine_job_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.prompt, options.negative_prompt = _text("prompt", prompt), _text("negative_prompt", negative_prompt)
        options.sampler, options.decode = ctypes.pointer(sampler), int(decode)
        options.events = 1 << _api.EVENT_STEP | 1 << _api.EVENT_LATENTS | 1 << _api.EVENT_FRAMES
        if previews:
            options.events |= 1 << _api.EVENT_PREVIEW
        for field, value in (("noise", noise), ("latents", latents), ("prompt_embeds", prompt_embeds),
                             ("negative_embeds", negative_embeds)):
            if value is not None:
                keep.append(Buffer.copy_of(self.context, value))
                setattr(options, field, keep[-1]._pointer)
        return _use(self, options, keep)

    def estimate(self, **options):
        """What job() with these options would need, as a dict: peak_bytes, held_bytes and limit_bytes of the context,
        fits, and the peak, weights and work of each stage in bytes. Within the limit of a context, `streamed` tells
        whether weights are read block by block, and where nothing helps `nearest` is the (width, height, frames)
        that would fit, or None. Nothing of it is allocated."""
        return self.job(_use=_estimate, **options)

    def generate(self, prompt="", negative_prompt=None, *, progress=None, **options):
        """The frames for a prompt, uint8 [frames, height, width, 3]. `progress(step, steps)` is called after each step.
        Options as for job()."""
        with self.job(prompt, negative_prompt, decode=False, **options) as job:
            for event in job:
                if event.kind == "step" and progress:
                    progress(event.step, event.steps)
            latents = job.latents if options.get("latents") is None else options["latents"]
        return self.decode(latents)

    def decode(self, latents, dtype="u1", tile=None):
        """Frames of latents: "u1" gives uint8 [frames, height, width, 3], "f4" float32 [3, frames, height, width].
        With `tile`, the same in tiles, for less memory: pixels along a side, (width, height), or "auto", which takes
        the largest that the context's memory limit has room for."""
        return self._vae("imagine_vae_decode", latents, tile, _choice("dtype", {"u1": 1, "f4": 6}, dtype))

    def encode(self, frames, tile=None):
        """Latents of uint8 [frames, height, width, 3] or float32 [3, frames, height, width] in [-1, 1]. `tile` as for
        decode()."""
        return self._vae("imagine_vae_encode", frames, tile)

    def _vae(self, function, value, tile, *arguments):
        vae, result = ctypes.c_void_p(), ctypes.c_void_p()
        given, options = Buffer.copy_of(self.context, value), _api.VaeOptions()
        _lib().imagine_vae_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.tile_width, options.tile_height = _tile(tile)
        _call("imagine_vae_create", ctypes.byref(vae), self._pointer, ctypes.byref(options))
        try:
            _call(function, vae, given._pointer, *arguments, ctypes.byref(result))
        finally:
            _lib().imagine_vae_destroy(ctypes.byref(vae))
        return Buffer(result.value).array

    def encode_text(self, prompt):
        """(token ids int32 [length], embeddings float32 [length, text_dim]) of a prompt."""
        text, ids, embeds = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        _call("imagine_text_create", ctypes.byref(text), self._pointer, None)
        try:
            _call("imagine_text_encode", text, _text("prompt", prompt), ctypes.byref(ids), ctypes.byref(embeds))
        finally:
            _lib().imagine_text_destroy(ctypes.byref(text))
        return Buffer(ids.value).array, Buffer(embeds.value).array


def _find(name):
    """A folder as given, or a pack of that name: in IMAGINE_MODELS, in this package, in the source tree, on the system."""
    given = pathlib.Path(name)
    if given.is_dir() or len(given.parts) != 1:
        return given
    here = pathlib.Path(__file__).resolve().parent
    named = os.environ.get("IMAGINE_MODELS")
    places = ([pathlib.Path(named)] if named else []) + [here / "models", here.parents[2] / "models",
                                                         pathlib.Path("/usr/local/share/imagine/models"),
                                                         pathlib.Path("/usr/share/imagine/models")]
    for place in places:
        if (place / name).is_dir():
            return place / name
    return given


def open(name, context=None):
    """Opens a model pack: a folder, or the name of one that is installed, as "tiny"."""
    return Model(_find(name), context)


def save(path, frames, fps=8.0, context=None):
    """Writes uint8 [frames, height, width, 3] as a PNG (one frame) or an animated PNG."""
    context = context or Context(threads=1)
    buffer = Buffer.copy_of(context, frames)  # named, so that it lives until the call returns
    _call("imagine_picture_save", context._pointer, os.fsencode(path), buffer._pointer, fps)


def load(path, context=None):
    """Frames of a PNG, an animated PNG or a folder of PNGs, uint8 [frames, height, width, 3]."""
    context = context or Context(threads=1)
    pointer = ctypes.c_void_p()
    _call("imagine_picture_load", ctypes.byref(pointer), context._pointer, os.fsencode(path))
    return Buffer(pointer.value).array
