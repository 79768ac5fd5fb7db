# SPDX-License-Identifier: MIT
"""The C declarations, as ctypes sees them. Names and order are those of include/imagine; the tests compare every struct
with what a C compiler says of the headers."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
from ctypes import POINTER, c_char, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p

SONAME = "libimagine.so.0"  # the loader knows where the system has it
STATUS_OK, STATUS_TIMEOUT = 0, 1
DTYPES = {1: "u1", 2: "i4", 3: "i8", 4: "f2", 6: "f4", 7: "f8"}  # 5, bf16, has no numpy name
EVENT_STEP, EVENT_PREVIEW, EVENT_LATENTS, EVENT_FRAMES, EVENT_DONE = 1, 2, 3, 4, 5
SCHEDULES = {"default": 0, "flow": 1, "wan-unipc": 2, "sigmas": 3, "self-forcing": 4, "causvid": 5, "rcm": 6, "scm": 7,
             "lcm": 8, "ltx2": 9, "ltx2-second": 10, "schnell": 11, "z-image": 12}
WEIGHTS = {"auto": 0, "resident": 1, "streamed": 2}
STEP_RULES = {"default": 0, "euler": 1, "unipc": 2, "heun": 3, "renoise": 4, "ancestral": 5, "trigflow": 6, "lcm": 7}
BUFFER_READ_ONLY = 1
JOB_STAGES = {"load": 1, "encode": 5, "text": 2, "sample": 3, "decode": 4}
CFG_MODES = {"auto": 0, "batched": 1, "in-turn": 2}
KNOWN_MODES = {"auto": 0, "clean": 1, "renoised": 2}
DEVICES = {"cpu": 1, "cuda": 2}
PRECISIONS = {"f32": 0, "bf16": 1}
GRAPHS_OFF = 1
CPU_LEVELS = {"best": 0, "plain": 1, "avx2": 2, "avx512": 3, "avx512bf16": 4, "amx": 5}


class Error(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("status", c_int32), ("native_code", c_int32), ("reserved0", c_uint32),
                ("message", c_char * 496)]


LOG_FUNCTION = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_char_p)
LOG_LEVELS = {1: 40, 2: 30, 3: 20, 4: 10}  # the library's numbers, and those of Python's logging


class ContextOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("device", c_int32), ("threads", c_int32), ("cpu_level", c_int32),
                ("memory_limit", c_uint64), ("allocate", c_void_p), ("release", c_void_p), ("allocator_data", c_void_p),
                ("log", c_void_p), ("log_data", c_void_p), ("log_level", c_int32), ("reserved0", c_uint32),
                ("device_number", c_int32), ("precision", c_int32), ("stream", c_void_p), ("graphs", c_int32),
                ("reserved1", c_uint32)]


class ContextInfo(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("device", c_int32), ("threads", c_int32), ("cpu_level", c_int32),
                ("memory_used", c_uint64), ("memory_peak", c_uint64), ("device_memory_used", c_uint64),
                ("device_memory_peak", c_uint64), ("device_number", c_int32), ("reserved0", c_uint32)]


class BufferInfo(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("dtype", c_int32), ("ndim", c_int32), ("reserved0", c_uint32),
                ("shape", c_int64 * 8), ("data", c_void_p), ("size", c_uint64), ("flags", c_uint32),
                ("reserved1", c_uint32), ("device", c_int32), ("device_number", c_int32)]


class ModelOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("reserved0", c_uint32), ("weights", c_int32), ("reserved1", c_uint32)]


class ModelInfo(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("stages", c_uint32), ("width", c_int32), ("height", c_int32),
                ("frames", c_int32), ("steps", c_int32), ("guidance", c_double), ("frames_per_second", c_double),
                ("latent_channels", c_int32), ("spatial_factor", c_int32), ("temporal_factor", c_int32),
                ("size_multiple", c_int32), ("text_length", c_int32), ("text_dim", c_int32), ("layers", c_int32),
                ("width_hidden", c_int32), ("parameters_text", c_uint64), ("parameters_sampler", c_uint64),
                ("parameters_vae", c_uint64), ("bytes", c_uint64)]


class TextOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("reserved0", c_uint32), ("cancel", c_void_p)]


class VaeOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("reserved0", c_uint32), ("cancel", c_void_p), ("tile_width", c_int32),
                ("tile_height", c_int32)]


class SamplerOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("batch", c_int32), ("width", c_int32), ("height", c_int32),
                ("frames", c_int32), ("steps", c_int32), ("seed", c_uint64), ("guidance", c_double), ("shift", c_double),
                ("schedule", c_int32), ("step_rule", c_int32), ("cfg_mode", c_int32), ("sigma_count", c_uint32),
                ("sigmas", POINTER(c_double)), ("cancel", c_void_p), ("eta", c_double),
                ("guidance_rescale", c_double), ("guidance_start", c_double), ("guidance_stop", c_double),
                ("guidance_audio", c_double), ("strength", c_double), ("known_mode", c_int32), ("reserved0", c_uint32),
                ("guidance_2", c_double)]


class JobOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("events", c_uint32), ("prompt", c_char_p), ("negative_prompt", c_char_p),
                ("sampler", POINTER(SamplerOptions)), ("prompt_embeds", c_void_p), ("negative_embeds", c_void_p),
                ("noise", c_void_p), ("latents", c_void_p), ("cancel", c_void_p), ("preview_every", c_int32),
                ("decode", c_int32), ("renoise", c_void_p), ("init_latents", c_void_p), ("known_latents", c_void_p),
                ("known_mask", c_void_p), ("init_frames", c_void_p), ("mask_frames", c_void_p), ("first_frames", c_void_p),
                ("last_frame", c_void_p), ("tile_width", c_int32), ("tile_height", c_int32), ("state", c_void_p),
                ("state_every", c_int32), ("reserved0", c_uint32)]


class Event(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("kind", c_int32), ("step", c_int32), ("steps", c_int32),
                ("first_frame", c_int32), ("frame_count", c_int32), ("sigma", c_double), ("seconds", c_double),
                ("frames", c_void_p), ("latents", c_void_p)]


class JobInfo(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("stage", c_int32), ("width", c_int32), ("height", c_int32),
                ("frames", c_int32), ("steps", c_int32), ("guidance", c_double), ("seconds", c_double * 8),
                ("memory_peak", c_uint64)]


class Estimate(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("fits", c_int32), ("width", c_int32), ("height", c_int32),
                ("frames", c_int32), ("steps", c_int32), ("guidance", c_double), ("peak_bytes", c_uint64),
                ("held_bytes", c_uint64), ("limit_bytes", c_uint64), ("stage_peak", c_uint64 * 8),
                ("stage_weights", c_uint64 * 8), ("stage_work", c_uint64 * 8), ("streamed", c_uint32),
                ("gives_back", c_int32), ("in_turn", c_int32), ("nearest_width", c_int32),
                ("nearest_height", c_int32), ("nearest_frames", c_int32), ("tile", c_int32), ("reserved0", c_uint32)]


# C struct names for the tests.
STRUCTS = {"imagine_error": Error, "imagine_context_options": ContextOptions, "imagine_context_info": ContextInfo,
           "imagine_buffer_info": BufferInfo, "imagine_model_options": ModelOptions, "imagine_model_info": ModelInfo,
           "imagine_text_options": TextOptions,
           "imagine_vae_options": VaeOptions, "imagine_sampler_options": SamplerOptions,
           "imagine_job_options": JobOptions, "imagine_event": Event, "imagine_job_info": JobInfo, "imagine_estimate": Estimate}

_handle, _handle_out, _error = c_void_p, POINTER(c_void_p), POINTER(Error)

# name: (result, arguments)
FUNCTIONS = {
    "imagine_version_string": (c_char_p, []),
    "imagine_status_name": (c_char_p, [c_int32]),
    "imagine_context_options_init": (None, [POINTER(ContextOptions), ctypes.c_size_t]),
    "imagine_context_create": (c_int32, [_handle_out, POINTER(ContextOptions), _error]),
    "imagine_context_retain": (_handle, [_handle]),
    "imagine_context_release": (None, [_handle_out]),
    "imagine_context_reset_peak": (None, [_handle]),
    "imagine_context_get_info": (c_int32, [_handle, POINTER(ContextInfo), _error]),
    "imagine_buffer_wrap": (c_int32, [_handle_out, _handle, c_int32, c_int32, POINTER(c_int64), c_void_p, c_void_p,
                                      c_void_p, _error]),
    "imagine_buffer_wrap_read_only": (c_int32, [_handle_out, _handle, c_int32, c_int32, POINTER(c_int64), c_void_p, c_void_p,
                                                c_void_p, _error]),
    "imagine_buffer_create_on": (c_int32, [_handle_out, _handle, c_int32, c_int32, c_int32, POINTER(c_int64), _error]),
    "imagine_buffer_copy": (c_int32, [_handle, _handle, _error]),
    "imagine_buffer_to_dlpack": (c_int32, [_handle, _handle_out, _error]),
    "imagine_buffer_to_dlpack_unversioned": (c_int32, [_handle, _handle_out, _error]),
    "imagine_buffer_from_dlpack": (c_int32, [_handle_out, _handle, c_void_p, _error]),
    "imagine_buffer_from_dlpack_unversioned": (c_int32, [_handle_out, _handle, c_void_p, _error]),
    "imagine_cancel_create": (c_int32, [_handle_out, _handle, _error]),
    "imagine_cancel_fire": (None, [_handle]),
    "imagine_cancel_fired": (c_int32, [_handle]),
    "imagine_cancel_retain": (_handle, [_handle]),
    "imagine_cancel_release": (None, [_handle_out]),
    "imagine_buffer_create": (c_int32, [_handle_out, _handle, c_int32, c_int32, POINTER(c_int64), _error]),
    "imagine_buffer_retain": (_handle, [_handle]),
    "imagine_buffer_release": (None, [_handle_out]),
    "imagine_buffer_get_info": (c_int32, [_handle, POINTER(BufferInfo), _error]),
    "imagine_picture_save": (c_int32, [_handle, c_char_p, _handle, c_double, _error]),
    "imagine_picture_load": (c_int32, [_handle_out, _handle, c_char_p, _error]),
    "imagine_model_open": (c_int32, [_handle_out, _handle, c_char_p, POINTER(ModelOptions), _error]),
    "imagine_model_retain": (_handle, [_handle]),
    "imagine_model_release": (None, [_handle_out]),
    "imagine_model_get_info": (c_int32, [_handle, POINTER(ModelInfo), _error]),
    "imagine_text_options_init": (None, [POINTER(TextOptions), ctypes.c_size_t]),
    "imagine_vae_options_init": (None, [POINTER(VaeOptions), ctypes.c_size_t]),
    "imagine_text_create": (c_int32, [_handle_out, _handle, c_void_p, _error]),
    "imagine_text_destroy": (None, [_handle_out]),
    "imagine_model_tokenize": (c_int32, [_handle, c_char_p, c_int32, _handle, _handle_out, _error]),
    "imagine_text_encode": (c_int32, [_handle, c_char_p, _handle_out, _handle_out, _error]),
    "imagine_vae_create": (c_int32, [_handle_out, _handle, c_void_p, _error]),
    "imagine_vae_destroy": (None, [_handle_out]),
    "imagine_vae_encode": (c_int32, [_handle, _handle, _handle_out, _error]),
    "imagine_vae_decode": (c_int32, [_handle, _handle, c_int32, _handle_out, _error]),
    "imagine_schedule_name": (c_char_p, [c_int32]),
    "imagine_step_rule_name": (c_char_p, [c_int32]),
    "imagine_sampler_options_init": (None, [POINTER(SamplerOptions), ctypes.c_size_t]),
    "imagine_job_options_init": (None, [POINTER(JobOptions), ctypes.c_size_t]),
    "imagine_job_create": (c_int32, [_handle_out, _handle, POINTER(JobOptions), _error]),
    "imagine_job_next": (c_int32, [_handle, POINTER(Event), c_int64, _error]),
    "imagine_job_cancel": (None, [_handle]),
    "imagine_job_fd": (c_int32, [_handle]),
    "imagine_job_get_latents": (c_int32, [_handle, _handle_out, _error]),
    "imagine_job_get_state": (c_int32, [_handle, _handle_out, _error]),
    "imagine_job_get_info": (c_int32, [_handle, POINTER(JobInfo), _error]),
    "imagine_job_destroy": (None, [_handle_out]),
    "imagine_job_estimate": (c_int32, [_handle, POINTER(JobOptions), POINTER(Estimate), _error]),
}


def _candidates() -> list[str]:
    """Where libimagine.so may be: named by the user, beside this file (a wheel), in a build of this source tree, on the
    system."""
    here = pathlib.Path(__file__).resolve().parent
    if os.environ.get("IMAGINE_LIBRARY"):
        return [os.environ["IMAGINE_LIBRARY"]]
    near = [here / "lib" / "libimagine.so.0", here.parent.parent.parent / "build" / "libimagine.so.0"]
    return [str(path) for path in near if path.exists()] + [SONAME]


def _open(path: str) -> ctypes.CDLL:
    """Loads the library; where the system lacks one that it needs, a wheel has that beside it."""
    try:
        return ctypes.CDLL(path)
    except OSError:
        folder = pathlib.Path(path).parent  # of a name alone, which the system looks for, "."
        others = sorted(other for other in folder.glob("lib*.so.*") if "imagine" not in other.name) if "/" in path else []
        if not others or os.environ.get("IMAGINE_LIBRARY"):
            raise
        for other in sorted(others, key=lambda other: other.name.startswith("libpng")):  # which needs zlib
            ctypes.CDLL(str(other))
        return ctypes.CDLL(path)


def _nowhere(path: str, error: OSError) -> bool:
    """Whether the loader found no library of that name; of one that is there and cannot be loaded it says why."""
    return path == SONAME and f"{SONAME}: " in str(error) and os.strerror(errno.ENOENT) in str(error)


def load() -> ctypes.CDLL:
    """The library with every function declared. OSError with advice when it is nowhere."""
    path = _candidates()[0]
    try:
        library = _open(path)
    except OSError as error:
        if os.environ.get("IMAGINE_LIBRARY") or not _nowhere(path, error):
            raise
        raise OSError("libimagine.so was not found: build it (examples/quickstart does) or name it in IMAGINE_LIBRARY") from None
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise OSError(f"{path}: has no {name}, so it is older than these bindings: build or install the library that came "
                          "with them, or name it in IMAGINE_LIBRARY")
        function.restype, function.argtypes = result, arguments
    return library
