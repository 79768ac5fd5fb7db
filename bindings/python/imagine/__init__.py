# SPDX-License-Identifier: MIT
"""Pictures and video from a prompt, through libimagine.

    import imagine
    frames = imagine.open("tiny").generate("a red apple bouncing")   # numpy, uint8 [frames, height, width, 3]

Arrays that come from here are views of the library's memory, which lives as long as an array does. What fails raises
imagine.Error or one of its subclasses, with the library's own message."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import os
import pathlib
import select
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union, cast

from . import _api
from ._clip import Clip, load, rate as _rate, save
from ._errors import (Cancelled, Error, FileError, FileNotFound, FormatError, InvalidArgument, InvalidType, ModelError,
                      NotFinite, NotFound, OutOfMemory, StateError, TimeoutReached, Unsupported)
from ._errors import call as _call, choice as _choice, closed as _closed, integer as _integer, invalid as _invalid, lib as _lib
from ._errors import Path as _Path, number as _number, numbers as _numbers, path as _path, text as _text
from ._handles import Array, Buffer, Cancel, Context
from ._handles import Handle as _Handle, as_array as _as_array, child as _child, given as _given
from ._handles import interruptible as _interruptible, need_numpy as _need_numpy, of as _of

Tile = Union[None, int, str, Tuple[int, int]]  # of a VAE: see Model.decode

__all__ = ["open", "version", "Context", "Cancel", "Model", "Job", "Event", "Buffer", "Clip", "save", "load", "Error",
           "InvalidArgument", "InvalidType", "OutOfMemory", "Cancelled", "StateError", "Unsupported", "NotFound", "FileNotFound",
           "FormatError", "ModelError", "FileError", "NotFinite", "TimeoutReached"]


__version__: str  # what version() tells; the library is loaded for it


def version() -> str:
    """The version of the library, as "0.2.0"."""
    return str(_lib().imagine_version_string().decode())


if not TYPE_CHECKING:  # to whom the module would have any name then
    def __getattr__(name):
        if name == "__version__":
            return version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _tile(value: Tile) -> Dict[str, int]:
    """Fields of the C API: 0 is the whole side, -1 chosen by the library."""
    if value is None or isinstance(value, str):
        side = 0 if value is None else _choice("tile", {"auto": -1}, value)
        return {"tile_width": side, "tile_height": side}
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2:
        raise _invalid(f"tile: wanted are a width and a height, not {len(sides)} numbers")
    return {"tile_width": _integer("tile", sides[0], -1), "tile_height": _integer("tile", sides[1], -1)}


def _mask(field: str, value: Any) -> Any:
    """A mask as the library takes it: true is bright in one of pictures and 1 in one of latents, and one without frames, or of
    pictures without channels, is of one."""
    if value is None or isinstance(value, Buffer):
        return value
    array = _as_array(field, value)
    if array.dtype == bool:
        array = array.astype("uint8") * (1 if field == "known_mask" else 255)
    if field == "known_mask":
        return array[None] if array.ndim == 2 else array
    plain = array.ndim == 2 or (array.ndim == 3 and array.shape[2] not in (1, 3))  # no picture is so narrow
    return array[..., None] if plain else array


def _read_only(array: Optional[Array]) -> Optional[Array]:
    """The same memory in a buffer of its own, which says so to whoever is given that."""
    if array is None:
        return None
    array.flags.writeable = False
    return Buffer.wrap(array).array


class Event:
    """What a job reports: `kind` is "step", "preview", "latents", "frames" or "done"; the rest as in imagine_event. `latents` are
    what the job goes on with, and read-only: copy() makes some that are not."""

    _KINDS = {1: "step", 2: "preview", 3: "latents", 4: "frames", 5: "done"}

    frames: Optional[Array]
    latents: Optional[Array]

    def __init__(self, raw: _api.Event) -> None:
        self.kind = self._KINDS.get(raw.kind, "unknown")
        self.step, self.steps, self.sigma, self.seconds = raw.step, raw.steps, raw.sigma, raw.seconds
        self.first_frame, self.frame_count = raw.first_frame, raw.frame_count
        self.frames, self.latents = self._keep(raw.frames), _read_only(self._keep(raw.latents))

    @staticmethod
    def _keep(pointer: Optional[int]) -> Optional[Array]:
        """The payload as an array that stays valid after the next event."""
        return Buffer._owner(_lib().imagine_buffer_retain(pointer)).array if pointer else None

    def __repr__(self) -> str:
        if self.kind == "step":
            return f"<imagine.Event step {self.step}/{self.steps}>"
        return f"<imagine.Event {self.kind}>"


class _Descriptor:
    """One that becomes readable when a job has an event, under a number of its own: it is good for who waits, also when the job
    is closed meanwhile."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)

    @classmethod
    def of(cls, number: int) -> Optional[_Descriptor]:
        """None where there is none, or no number left for it."""
        try:
            return cls(os.dup(number)) if number >= 0 else None
        except OSError:
            return None


_LOOK = 0.02  # seconds between two looks at a job without a descriptor
_LONGEST = 0.5  # seconds of waiting at once: a signal just before would not be seen until it ends


class Job(_Handle):
    """One running generation: iterate over it for its events, with `for` or, in a coroutine, `async for`. cancel() may be called
    from any thread; Ctrl-C while waiting for an event cancels as well. Leaving a `with` block ends the job, and so does the end
    of the program, to which Python comes once all threads have ended that are no daemons: what such a thread generates is done
    first. Everything else may be called from any thread too, also while others wait for an event; close() cancels, so that it
    waits shortly."""

    _free, _name = "imagine_job_destroy", "job"

    def __init__(self, model: Model, options: _api.JobOptions, keep: List[Any]) -> None:
        _need_numpy()  # for what its events hold
        self._temporal_factor = model.info["temporal_factor"]  # asked now: the model may be closed while the job works
        self._done, self._closing = False, False
        super().__init__()
        _call("imagine_job_create", self._out(), model, ctypes.byref(options))
        self._ready = _Descriptor.of(_lib().imagine_job_fd(self._pointer))
        _jobs.add(self)
        del keep  # what the options pointed to: the library has its own copies now

    def _renew(self) -> None:
        super()._renew()
        self._turn = threading.RLock()  # used by one thread at a time, cancelling apart

    def close(self) -> None:
        """Ends the job, which is cancelled where it still runs; calls in other threads end with an exception first."""
        if getattr(self, "_pointer", None):
            self._closing = True
            self.cancel()
            with self._turn:
                super().close()
            self._ready = None

    @contextlib.contextmanager
    def _open(self) -> Iterator[ctypes.c_void_p]:
        """The pointer, which is this thread's until the block is left."""
        with self._turn:
            if self._closing or not self._pointer:
                raise _closed("the job")
            yield self._pointer

    def next(self, timeout: Optional[float] = None) -> Event:
        """The next event; TimeoutReached after `timeout` seconds (None waits for ever, what is below 0 is 0)."""
        seconds = float("inf") if timeout is None else _number("timeout", timeout)
        if seconds != seconds:
            raise _invalid("timeout: wanted are seconds, not nan")
        end = time.monotonic() + max(seconds, 0)
        try:
            while True:
                event = self._take()
                if event is not None:
                    return event
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutReached("no event yet", _api.STATUS_TIMEOUT, "TIMEOUT")
                self._wait(left)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def _take(self) -> Optional[Event]:
        """The next event where there is one."""
        raw = _api.Event(struct_size=ctypes.sizeof(_api.Event))
        with self._open() as pointer:
            status = _call("imagine_job_next", pointer, ctypes.byref(raw), 0)
            return Event(raw) if status != _api.STATUS_TIMEOUT else None

    def _wait(self, seconds: float) -> None:
        """Until there may be an event, and no longer than that. It is no call of the library's: those of other threads, which
        it would keep waiting, and Ctrl-C get through."""
        ready = self._ready
        if ready is None:
            time.sleep(min(seconds, _LOOK))
            return
        poll = select.poll()
        poll.register(ready.number, select.POLLIN)
        poll.poll(min(seconds, _LONGEST) * 1000)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        event = self.next()
        self._done = event.kind == "done"
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """As __next__, in an event loop, without a thread: other tasks go on meanwhile. A task that is cancelled while it waits
        cancels the job."""
        import asyncio
        if self._done:
            raise StopAsyncIteration
        try:
            await asyncio.sleep(0)  # other tasks have their turn also where events come faster than they are used
            while (event := self._take()) is None:
                await self._readable()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._done = event.kind == "done"
        return event

    async def _readable(self) -> None:
        """Until there may be an event. Each task has a descriptor of its own, for a loop calls one function for each."""
        import asyncio
        shared = self._ready
        ready = shared and _Descriptor.of(shared.number)
        if ready is None:
            await asyncio.sleep(_LOOK)
            return
        loop = asyncio.get_running_loop()
        there = loop.create_future()

        def wake() -> None:
            if not there.done():
                there.set_result(None)

        loop.add_reader(ready.number, wake)
        try:
            await there
        finally:
            loop.remove_reader(ready.number)

    def cancel(self) -> None:
        """Asks the job to stop; iterating then raises Cancelled."""
        with self._lock:
            if self._pointer:
                _lib().imagine_job_cancel(self._pointer)

    @property
    def latents(self) -> Array:
        """The latents after the last whole step, float32 [channels, frames, height, width], read-only: they are shared with
        the job, which works with them."""
        made = Buffer()
        with self._open() as job:
            _call("imagine_job_get_latents", job, made._out())
        return cast("Array", _read_only(made.array))

    @property
    def state(self) -> Array:
        """What a job that was cancelled or failed while it sampled can be gone on from, in this process or another: uint8 [bytes],
        for job() or generate() as `state`, with the same options. With `state_every` also while it samples. StateError where
        there is none."""
        made = Buffer()
        with self._open() as job:
            _call("imagine_job_get_state", job, made._out())
        return cast("Array", _read_only(made.array))

    @property
    def info(self) -> Dict[str, Any]:
        """A dict: the settled sizes, the stage at work now ("load", "encode", "text", "sample", "decode", or None), seconds per stage,
        memory_peak."""
        info = _api.JobInfo(struct_size=ctypes.sizeof(_api.JobInfo))
        with self._open() as job:
            _call("imagine_job_get_info", job, ctypes.byref(info))
        stages = {name: info.seconds[i] for name, i in _api.JOB_STAGES.items()}
        now = {number: name for name, number in _api.JOB_STAGES.items()}.get(info.stage, "unknown" if info.stage else None)
        return {"width": info.width, "height": info.height, "frames": info.frames, "steps": info.steps,
                "guidance": info.guidance, "stage": now, "seconds": stages, "memory_peak": info.memory_peak}

    def _join(self, whole: Optional[Array], event: Event) -> Array:
        """The clip so far with one more piece of it, which may be all. It lies in a context of its own: what this one may
        hold was settled without it."""
        import numpy
        piece, begin = cast("Array", event.frames), event.first_frame
        if whole is None:
            latent_frames = self.latents.shape[1]
            count = (latent_frames - 1) * self._temporal_factor + 1
            if count == len(piece):
                return piece
            whole = Buffer._create(Context(threads=1), 1, (count,) + piece.shape[1:]).array
        numpy.copyto(whole[begin:begin + len(piece)], piece)
        return whole


def _estimate(model: Model, options: _api.JobOptions, keep: List[Any]) -> Dict[str, Any]:
    raw = _api.Estimate(struct_size=ctypes.sizeof(_api.Estimate))
    _call("imagine_job_estimate", model, ctypes.byref(options), ctypes.byref(raw))
    del keep
    names = ("width", "height", "frames", "steps", "guidance", "peak_bytes", "held_bytes", "limit_bytes")
    nearest = (raw.nearest_width, raw.nearest_height, raw.nearest_frames) if raw.nearest_frames else None
    stages = {name: {"peak": raw.stage_peak[i], "weights": raw.stage_weights[i], "work": raw.stage_work[i]}
              for name, i in _api.JOB_STAGES.items() if name != "load"}
    return {**{name: getattr(raw, name) for name in names}, "fits": bool(raw.fits), "stages": stages,
            "streamed": bool(raw.streamed), "in_turn": bool(raw.in_turn), "gives_back": bool(raw.gives_back), "tile": raw.tile,
            "nearest": nearest}


_jobs: weakref.WeakSet[Job] = weakref.WeakSet()
os.register_at_fork(after_in_child=_jobs.clear)  # they are the parent's


@atexit.register
def _end_jobs() -> None:
    """Ends what still runs while there is an interpreter that callbacks could be given to."""
    left: Optional[List[Job]] = None
    while left is None:
        with contextlib.suppress(RuntimeError):  # a daemon has begun another one meanwhile
            left = list(_jobs)
    for job in left:
        job.close()


class Model(_Handle):
    """An opened model pack. May be shared between threads. `weights` says where those of the text encoder and transformer
    are while they are used: "resident" in memory, "streamed" block by block from the file, "auto" as the context's memory
    limit wants it."""

    _free, _retain, _name = "imagine_model_release", "imagine_model_retain", "model"

    def __init__(self, path: _Path, context: Optional[Context] = None, weights: str = "auto") -> None:
        options = _api.ModelOptions(struct_size=ctypes.sizeof(_api.ModelOptions),
                                    weights=_choice("weights", _api.WEIGHTS, weights))
        self._own = context is None
        self.context = _of("context", Context, context) or Context()
        self._context = self.context._reference()  # the caller may close theirs
        self._context._name = "model"  # which closes it, and nobody else
        super().__init__()
        try:
            _call("imagine_model_open", self._out(), self._context, _path(path), ctypes.byref(options), filename=path)
        except BaseException:
            self.close()  # a traceback would keep the threads
            raise
        self.path = os.fsdecode(path)

    def close(self) -> None:
        """Frees the model now, once what works with it is done, and the context that it has made where none was given, with its
        threads; otherwise the garbage collector does."""
        super().close()
        if hasattr(self, "_context"):
            self._context.close()
            if self._own:
                self.context.close()

    def __del__(self) -> None:
        self._own = False  # who has taken `context` goes on with it
        super().__del__()

    @property
    def info(self) -> Dict[str, Any]:
        """A dict of what imagine_model_info says."""
        info = _api.ModelInfo(struct_size=ctypes.sizeof(_api.ModelInfo))
        _call("imagine_model_get_info", self, ctypes.byref(info))
        return {name: getattr(info, name) for name, *_ in info._fields_ if name != "struct_size"}

    def job(self, prompt: str = "", negative_prompt: Optional[str] = None, *, seed: int = 0, width: int = 0,
            height: int = 0, frames: int = 0, steps: int = 0, guidance: float = -1.0, guidance_2: float = -1.0,
            guidance_rescale: float = 0.0, guidance_start: float = 0.0, guidance_stop: float = 1.0, cfg: str = "auto",
            shift: float = 0.0, schedule: str = "default", step_rule: str = "default", eta: float = 1.0,
            sigmas: Optional[Sequence[float]] = None, noise: Any = None, renoise: Any = None, latents: Any = None,
            prompt_embeds: Any = None, negative_embeds: Any = None, first_frames: Any = None, last_frame: Any = None,
            init_frames: Any = None, init_latents: Any = None, strength: float = 1.0, mask_frames: Any = None,
            known_latents: Any = None, known_mask: Any = None, known_mode: str = "auto",
            previews: Union[bool, int] = False, decode: bool = True, tile: Tile = None, cancel: Optional[Cancel] = None, state: Any = None,
            state_every: int = 0, _use: Callable[[Model, _api.JobOptions, List[Any]], Any] = Job) -> Job:
        """Starts a generation and returns its Job: `for event in model.job("a dog"): ...`. Sizes of 0 are the pack's
        defaults. `previews` asks for those after every so many steps, True after each. `cfg` "batched" computes guidance's two
        predictions together, "in-turn" one after the other for less memory, "auto" together up to 8,192 tokens, else in turn, or
        as the memory limit asks. `noise`, `latents` and the embeds are
        anything that numpy makes an array of real or whole numbers of. Pictures to begin with or to keep are uint8 [frames,
        height, width, 3]: `first_frames` (1 for picture to video, more to go on with a clip), `last_frame`, and `init_frames`
        with `strength`, of which `mask_frames` marks by brightness, or true, what is made anew: [height, width] for all frames,
        or [frames, height, width]. `known_latents` stay where `known_mask`, [frames] or [frames, height, width] in latents, is 1
        or true.
        With sizes for `tile` (as for decode()) pictures are coded in tiles, and the clip's frames come all at once; "auto",
        as None, leaves to the library whether the memory limit asks for tiles. Firing `cancel` cancels the job too. A negative
        prompt only has an effect when guidance is not 1. Distilled packs, like the shipped one, use 1, so pass e.g. guidance=3.
        With the `state` of a job that was cancelled, and its other options, it goes on, and makes the very bytes that that one
        would have made. After every `state_every` steps the job keeps such a state while it runs; 0: only where it ends early."""
        sampler = _api.SamplerOptions()
        _lib().imagine_sampler_options_init(ctypes.byref(sampler), ctypes.sizeof(sampler))
        sampler.seed = _integer("seed", seed, -2**63, 2**64 - 1) & (2**64 - 1)
        for name, size in (("width", width), ("height", height), ("frames", frames), ("steps", steps)):
            setattr(sampler, name, _integer(name, size))
        for name, number in (("guidance", guidance), ("guidance_2", guidance_2), ("guidance_rescale", guidance_rescale),
                             ("guidance_start", guidance_start), ("guidance_stop", guidance_stop), ("shift", shift),
                             ("eta", eta), ("strength", strength)):
            setattr(sampler, name, _number(name, number))
        sampler.cfg_mode = _choice("cfg", _api.CFG_MODES, cfg)
        sampler.known_mode = _choice("known_mode", _api.KNOWN_MODES, known_mode)
        if sigmas is not None and schedule not in ("default", "sigmas"):
            raise _invalid(f"schedule: {schedule!r} has no use with sigmas of your own; leave it at its default")
        sampler.schedule = _choice("schedule", _api.SCHEDULES, "sigmas" if sigmas is not None else schedule)
        sampler.step_rule = _choice("step_rule", _api.STEP_RULES, step_rule)
        keep: List[Any] = [sampler]
        if sigmas is not None:
            array = _numbers("sigmas", sigmas)
            sampler.sigmas, sampler.sigma_count = array, len(array)
            keep.append(array)
        options = _api.JobOptions()
        _lib().imagine_job_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.prompt, options.negative_prompt = _text("prompt", prompt), _text("negative_prompt", negative_prompt)
        options.sampler, options.decode = ctypes.pointer(sampler), int(bool(decode))
        options.state_every = _integer("state_every", state_every)
        for field, size in _tile(tile).items():
            setattr(options, field, size)
        options.events = 1 << _api.EVENT_STEP | 1 << _api.EVENT_LATENTS | 1 << _api.EVENT_FRAMES
        if previews:
            options.events |= 1 << _api.EVENT_PREVIEW
            options.preview_every = 1 if previews == 1 else _integer("previews", previews)  # True, numpy's too, is every step
        given = _given("cancel", Cancel, cancel)
        if given is not None:
            keep.append(given._reference())
            options.cancel = keep[-1]._pointer
        for field, value in (("noise", noise), ("renoise", renoise), ("latents", latents), ("prompt_embeds", prompt_embeds),
                             ("negative_embeds", negative_embeds), ("first_frames", first_frames),
                             ("last_frame", last_frame), ("init_frames", init_frames), ("init_latents", init_latents),
                             ("mask_frames", _mask("mask_frames", mask_frames)), ("known_latents", known_latents),
                             ("known_mask", _mask("known_mask", known_mask)), ("state", state)):
            if value is not None:
                dtype = "uint8" if "frame" in field or field == "state" else "float32"
                keep.append(Buffer.copy_of(self._context, value, field, dtype)._reference())
                setattr(options, field, keep[-1]._pointer)
        made: Job = _use(self, options, keep)
        return made

    def estimate(self, prompt: str = "", negative_prompt: Optional[str] = None, *,
                 progress: Optional[Callable[[int, int], None]] = None, preview: Optional[Callable[[Array], None]] = None,
                 **options: Any) -> Dict[str, Any]:
        """What job() or generate() with the same would need, as a dict: peak_bytes, held_bytes and limit_bytes of the context,
        fits, and the peak, weights and work of each stage in bytes. Within the limit of a context, `streamed` tells
        whether weights are read block by block, `in_turn` whether guidance's two halves are computed one after the other,
        `tile` the side of the VAE's tiles or 0, and where nothing helps `nearest` is the (width, height, frames)
        that would fit, or None. Nothing of it is allocated, and no function called; the text is taken to be as long as it may
        be."""
        if preview is not None:
            options["previews"] = True
        return cast(Dict[str, Any], self.job(prompt, negative_prompt, _use=_estimate, **options))

    def generate(self, prompt: str = "", negative_prompt: Optional[str] = None, *,
                 progress: Optional[Callable[[int, int], None]] = None, preview: Optional[Callable[[Array], None]] = None,
                 **options: Any) -> Array:
        """The frames for a prompt, uint8 [frames, height, width, 3]. After a step `progress(step, steps)` is called, and
        `preview(frames)` with the first frame as it is so far, uint8 [1, height, width, 3]; where steps are faster than these
        functions, some steps are left out. Options as for job(). What it holds within the context's memory limit is what
        estimate() tells; frames that come in pieces are put together in memory outside of it."""
        whole: Optional[Array] = None
        with self.job(prompt, negative_prompt, decode=True, previews=preview is not None, **options) as job:
            for event in job:
                if event.kind == "step" and progress:
                    progress(event.step, event.steps)
                if event.kind == "preview" and preview and event.frames is not None:
                    preview(event.frames)
                if event.kind == "frames" and event.frames is not None:
                    whole = job._join(whole, event)
                event.frames = None  # or it would stay until the next one is there
        assert whole is not None
        return whole

    def clip(self, prompt: str = "", negative_prompt: Optional[str] = None, *, fps: float = 0.0, **options: Any) -> Clip:
        """What generate() gives as a Clip, which a notebook shows by itself. `fps` 0 is the pack's."""
        rate = _rate(_number("fps", fps) or self.info["frames_per_second"] or 8.0)  # asked first: the model may be closed meanwhile
        return Clip(self.generate(prompt, negative_prompt, **options), rate)

    def decode(self, latents: Any, dtype: str = "u1", tile: Tile = None, cancel: Optional[Cancel] = None) -> Array:
        """Frames of latents: "u1" gives uint8 [frames, height, width, 3], "f4" float32 [3, frames, height, width].
        With `tile`, the same in tiles, for less memory: pixels along a side, (width, height), or "auto", which takes
        the largest that the context's memory limit has room for. Firing `cancel` ends it with Cancelled."""
        return self._vae("imagine_vae_decode", latents, tile, cancel, _choice("dtype", {"u1": 1, "f4": 6}, dtype))

    def encode(self, frames: Any, tile: Tile = None, cancel: Optional[Cancel] = None) -> Array:
        """Latents of uint8 [frames, height, width, 3] or float32 [3, frames, height, width] in [-1, 1]. `tile` and
        `cancel` as for decode()."""
        return self._vae("imagine_vae_encode", frames, tile, cancel)

    def _stage(self, kind: str, settings: Dict[str, int], options: Any, cancel: Optional[Cancel],
               use: Callable[[ctypes.c_void_p], Any]) -> Any:
        """What `use` returns for a stage's handle, which is ended afterwards; Ctrl-C cancels it, as the token does."""
        _need_numpy()
        with _child(self._context, _given("cancel", Cancel, cancel)) as own:
            getattr(_lib(), f"imagine_{kind}_options_init")(ctypes.byref(options), ctypes.sizeof(options))
            options.cancel = own._pointer
            for name, value in settings.items():
                setattr(options, name, value)

            def work() -> Any:
                handle = ctypes.c_void_p()
                _call(f"imagine_{kind}_create", ctypes.byref(handle), self, ctypes.byref(options))
                try:
                    return use(handle)
                finally:
                    getattr(_lib(), f"imagine_{kind}_destroy")(ctypes.byref(handle))

            return _interruptible(own, work)

    def _vae(self, function: str, value: Any, tile: Tile, cancel: Optional[Cancel], *arguments: Any) -> Array:
        what = ("latents", "float32") if function == "imagine_vae_decode" else ("frames", "uint8")
        given = Buffer.copy_of(self._context, value, *what)
        made = Buffer()
        self._stage("vae", _tile(tile), _api.VaeOptions(), cancel,
                    lambda vae: _call(function, vae, given, *arguments, made._out()))
        return made.array

    def tokenize(self, prompt: str, max_length: int = 0, cancel: Optional[Cancel] = None) -> Array:
        """Token ids int32 [length] of a prompt, cut to `max_length` unless that is 0. Of the model only the tokenizer is read; it sees
        info["text_length"] tokens. `cancel` as for decode()."""
        _need_numpy()
        ids, data, length = Buffer(), _text("prompt", prompt), _integer("max_length", max_length)
        with _child(self._context, _given("cancel", Cancel, cancel)) as own:
            _interruptible(own, lambda: _call("imagine_model_tokenize", self, data, length, own._pointer, ids._out()))
        return ids.array

    def encode_text(self, prompt: str, cancel: Optional[Cancel] = None) -> Tuple[Array, Array]:
        """(token ids int32 [length], embeddings float32 [length, text_dim]) of a prompt. `cancel` as for decode()."""
        ids, embeds, data = Buffer(), Buffer(), _text("prompt", prompt)
        self._stage("text", {}, _api.TextOptions(), cancel,
                    lambda text: _call("imagine_text_encode", text, data, ids._out(), embeds._out()))
        return ids.array, embeds.array


def _find(name: _Path) -> pathlib.Path:
    """A folder as given, or a pack of that name: in IMAGINE_MODELS, in this package, in the source tree, on the system."""
    given = pathlib.Path(os.fsdecode(_path(name)))
    if os.path.isdir(given) or len(given.parts) != 1:  # not Path's own, which raises what the library has a message for
        return given
    here = pathlib.Path(__file__).resolve().parent
    named = os.environ.get("IMAGINE_MODELS")
    places = ([pathlib.Path(named)] if named else []) + [here / "models", here.parent.parent.parent / "models",
                                                         pathlib.Path("/usr/local/share/imagine/models"),
                                                         pathlib.Path("/usr/share/imagine/models")]
    for place in places:
        if os.path.isdir(place / given):
            return place / given
    if not os.path.exists(given):
        raise FileNotFound(f'there is no model "{given}" here, in IMAGINE_MODELS, the package or /usr/share/imagine/models: give a '
                           "model's folder, or name the folder that holds it in IMAGINE_MODELS", -21, "ERROR_NOT_FOUND", errno.ENOENT, name)
    return given


def open(name: _Path, context: Optional[Context] = None) -> Model:
    """Opens a model pack: a folder, or the name of one that is installed, as "tiny"."""
    return Model(_find(name) if name else name, context)  # "", which is no folder, would be a Path of "."
