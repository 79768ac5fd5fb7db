// SPDX-License-Identifier: MIT
//! The C interface of libimagine, as `include/imagine` declares it: the same names, the same order, nothing added.
//!
//! The headers document every function: shapes and units, who owns what, which thread may call. The safe crate
//! `imagine` is what most programs want. Its tests compare this file with the headers: every function with its
//! arguments, every constant, and the offset, size and kind of every field.
//!
//! A callback type is an `Option`, as C's may be NULL.

#![allow(non_camel_case_types)]

use std::marker::{PhantomData, PhantomPinned};
use std::os::raw::{c_char, c_void};

/// An incomplete C type: only ever behind a pointer, neither Send nor Sync by itself.
macro_rules! opaque {
    ($name:ident) => {
        #[repr(C)]
        pub struct $name {
            _bytes: [u8; 0],
            _marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    };
}

// Version: imagine/version.h.

pub const IMAGINE_VERSION_MAJOR: u32 = 0;
pub const IMAGINE_VERSION_MINOR: u32 = 2;
pub const IMAGINE_VERSION_PATCH: u32 = 0;

extern "C" {
    pub fn imagine_version_number() -> u32;
    pub fn imagine_version_string() -> *const c_char;
}

// Status codes and errors: imagine/status.h.

pub type imagine_status = i32;
pub const IMAGINE_OK: imagine_status = 0;
pub const IMAGINE_TIMEOUT: imagine_status = 1;
pub const IMAGINE_ERROR_INVALID_ARGUMENT: imagine_status = -1;
pub const IMAGINE_ERROR_NO_MEMORY: imagine_status = -2;
pub const IMAGINE_ERROR_CANCELLED: imagine_status = -3;
pub const IMAGINE_ERROR_STATE: imagine_status = -4;
pub const IMAGINE_ERROR_UNSUPPORTED: imagine_status = -5;
pub const IMAGINE_ERROR_FORKED: imagine_status = -6;
pub const IMAGINE_ERROR_INTERNAL: imagine_status = -7;
pub const IMAGINE_ERROR_IO: imagine_status = -20;
pub const IMAGINE_ERROR_NOT_FOUND: imagine_status = -21;
pub const IMAGINE_ERROR_FORMAT: imagine_status = -22;
pub const IMAGINE_ERROR_MODEL: imagine_status = -23;
pub const IMAGINE_ERROR_THREAD: imagine_status = -40;
pub const IMAGINE_ERROR_NOT_FINITE: imagine_status = -60;
pub const IMAGINE_ERROR_DEVICE: imagine_status = -80;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_error {
    pub struct_size: u32,
    pub status: imagine_status,
    pub native_code: i32,
    pub reserved0: u32,
    pub message: [c_char; 496],
}

extern "C" {
    pub fn imagine_status_name(status: imagine_status) -> *const c_char;
    pub fn imagine_status_text(status: imagine_status) -> *const c_char;
}

// Contexts and cancel tokens: imagine/context.h.

opaque!(imagine_context);
opaque!(imagine_cancel);
pub type imagine_device = i32;
pub type imagine_cpu_level = i32;
pub type imagine_precision = i32;
pub type imagine_graphs = i32;
pub type imagine_log_level = i32;
pub const IMAGINE_DEVICE_CPU: imagine_device = 1;
pub const IMAGINE_DEVICE_CUDA: imagine_device = 2;
pub const IMAGINE_PRECISION_F32: imagine_precision = 0;
pub const IMAGINE_PRECISION_BF16: imagine_precision = 1;
pub const IMAGINE_GRAPHS_AUTO: imagine_graphs = 0;
pub const IMAGINE_GRAPHS_OFF: imagine_graphs = 1;
pub const IMAGINE_CPU_BEST: imagine_cpu_level = 0;
pub const IMAGINE_CPU_PLAIN: imagine_cpu_level = 1;
pub const IMAGINE_CPU_AVX2: imagine_cpu_level = 2;
pub const IMAGINE_CPU_AVX512: imagine_cpu_level = 3;
pub const IMAGINE_CPU_AVX512BF16: imagine_cpu_level = 4;
pub const IMAGINE_CPU_AMX: imagine_cpu_level = 5;
pub const IMAGINE_LOG_ERROR: imagine_log_level = 1;
pub const IMAGINE_LOG_WARNING: imagine_log_level = 2;
pub const IMAGINE_LOG_INFO: imagine_log_level = 3;
pub const IMAGINE_LOG_DEBUG: imagine_log_level = 4;

pub type imagine_alloc_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, size: usize, alignment: usize) -> *mut c_void>;
pub type imagine_free_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, pointer: *mut c_void, size: usize)>;
pub type imagine_log_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: imagine_log_level, text: *const c_char)>;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_context_options {
    pub struct_size: u32,
    pub device: imagine_device,
    pub threads: i32,
    pub cpu_level: imagine_cpu_level,
    pub memory_limit: u64,
    pub allocate: imagine_alloc_fn,
    pub release: imagine_free_fn,
    pub allocator_data: *mut c_void,
    pub log: imagine_log_fn,
    pub log_data: *mut c_void,
    pub log_level: imagine_log_level,
    pub reserved0: u32,
    pub device_number: i32,
    pub precision: imagine_precision,
    pub stream: *mut c_void,
    pub graphs: imagine_graphs,
    pub reserved1: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_context_info {
    pub struct_size: u32,
    pub device: imagine_device,
    pub threads: i32,
    pub cpu_level: imagine_cpu_level,
    pub memory_used: u64,
    pub memory_peak: u64,
    pub device_memory_used: u64,
    pub device_memory_peak: u64,
    pub device_number: i32,
    pub reserved0: u32,
}

extern "C" {
    pub fn imagine_context_options_init(options: *mut imagine_context_options, size: usize);
    pub fn imagine_context_create(
        context: *mut *mut imagine_context,
        options: *const imagine_context_options,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_context_retain(context: *mut imagine_context) -> *mut imagine_context;
    pub fn imagine_context_release(context: *mut *mut imagine_context);
    pub fn imagine_context_get_info(
        context: *const imagine_context,
        info: *mut imagine_context_info,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_context_reset_peak(context: *mut imagine_context);
    pub fn imagine_cancel_create(
        cancel: *mut *mut imagine_cancel,
        context: *mut imagine_context,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_cancel_retain(cancel: *mut imagine_cancel) -> *mut imagine_cancel;
    pub fn imagine_cancel_release(cancel: *mut *mut imagine_cancel);
    pub fn imagine_cancel_fire(cancel: *mut imagine_cancel);
    pub fn imagine_cancel_reset(cancel: *mut imagine_cancel);
    pub fn imagine_cancel_fired(cancel: *const imagine_cancel) -> i32;
}

// Buffers and pictures: imagine/buffer.h.

opaque!(imagine_buffer);
pub type imagine_dtype = i32;
pub const IMAGINE_U8: imagine_dtype = 1;
pub const IMAGINE_I32: imagine_dtype = 2;
pub const IMAGINE_I64: imagine_dtype = 3;
pub const IMAGINE_F16: imagine_dtype = 4;
pub const IMAGINE_BF16: imagine_dtype = 5;
pub const IMAGINE_F32: imagine_dtype = 6;
pub const IMAGINE_F64: imagine_dtype = 7;
pub const IMAGINE_MAX_DIMS: usize = 8;
pub const IMAGINE_BUFFER_READ_ONLY: u32 = 1;
pub type imagine_buffer_release_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, data: *mut c_void)>;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_buffer_info {
    pub struct_size: u32,
    pub dtype: imagine_dtype,
    pub ndim: i32,
    pub reserved0: u32,
    pub shape: [i64; IMAGINE_MAX_DIMS],
    pub data: *mut c_void,
    pub size: u64,
    pub flags: u32,
    pub reserved1: u32,
    pub device: imagine_device,
    pub device_number: i32,
}

// DLPack's own, defined by its header dlpack.h.
opaque!(DLManagedTensor);
opaque!(DLManagedTensorVersioned);

extern "C" {
    pub fn imagine_buffer_create(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        dtype: imagine_dtype,
        ndim: i32,
        shape: *const i64,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_wrap(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        dtype: imagine_dtype,
        ndim: i32,
        shape: *const i64,
        data: *mut c_void,
        release: imagine_buffer_release_fn,
        user_data: *mut c_void,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_wrap_read_only(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        dtype: imagine_dtype,
        ndim: i32,
        shape: *const i64,
        data: *const c_void,
        release: imagine_buffer_release_fn,
        user_data: *mut c_void,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_create_on(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        device: imagine_device,
        dtype: imagine_dtype,
        ndim: i32,
        shape: *const i64,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_wrap_on(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        device: imagine_device,
        dtype: imagine_dtype,
        ndim: i32,
        shape: *const i64,
        data: *mut c_void,
        release: imagine_buffer_release_fn,
        user_data: *mut c_void,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_copy(
        to: *mut imagine_buffer,
        from: *const imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_retain(buffer: *mut imagine_buffer) -> *mut imagine_buffer;
    pub fn imagine_buffer_release(buffer: *mut *mut imagine_buffer);
    pub fn imagine_buffer_get_info(
        buffer: *const imagine_buffer,
        info: *mut imagine_buffer_info,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_data(buffer: *const imagine_buffer) -> *mut c_void;
    pub fn imagine_buffer_size(buffer: *const imagine_buffer) -> u64;
    pub fn imagine_buffer_to_dlpack(
        buffer: *mut imagine_buffer,
        tensor: *mut *mut DLManagedTensorVersioned,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_to_dlpack_unversioned(
        buffer: *mut imagine_buffer,
        tensor: *mut *mut DLManagedTensor,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_from_dlpack(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        tensor: *mut DLManagedTensorVersioned,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_from_dlpack_unversioned(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        tensor: *mut DLManagedTensor,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_load(
        buffer: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        path: *const c_char,
        name: *const c_char,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_buffer_save(
        context: *mut imagine_context,
        path: *const c_char,
        count: u32,
        buffers: *const *mut imagine_buffer,
        names: *const *const c_char,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_picture_load(
        frames: *mut *mut imagine_buffer,
        context: *mut imagine_context,
        path: *const c_char,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_picture_save(
        context: *mut imagine_context,
        path: *const c_char,
        frames: *const imagine_buffer,
        frames_per_second: f64,
        error: *mut imagine_error,
    ) -> imagine_status;
}

// Models: imagine/model.h.

opaque!(imagine_model);
pub type imagine_weights = i32;
pub const IMAGINE_WEIGHTS_AUTO: imagine_weights = 0;
pub const IMAGINE_WEIGHTS_RESIDENT: imagine_weights = 1;
pub const IMAGINE_WEIGHTS_STREAMED: imagine_weights = 2;
pub const IMAGINE_STAGE_TEXT: u32 = 1;
pub const IMAGINE_STAGE_SAMPLER: u32 = 2;
pub const IMAGINE_STAGE_VAE: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_model_options {
    pub struct_size: u32,
    pub reserved0: u32,
    pub weights: imagine_weights,
    pub reserved1: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_model_info {
    pub struct_size: u32,
    pub stages: u32,
    pub width: i32,
    pub height: i32,
    pub frames: i32,
    pub steps: i32,
    pub guidance: f64,
    pub frames_per_second: f64,
    pub latent_channels: i32,
    pub spatial_factor: i32,
    pub temporal_factor: i32,
    pub size_multiple: i32,
    pub text_length: i32,
    pub text_dim: i32,
    pub layers: i32,
    pub width_hidden: i32,
    pub parameters_text: u64,
    pub parameters_sampler: u64,
    pub parameters_vae: u64,
    pub bytes: u64,
}

extern "C" {
    pub fn imagine_model_options_init(options: *mut imagine_model_options, size: usize);
    pub fn imagine_model_open(
        model: *mut *mut imagine_model,
        context: *mut imagine_context,
        path: *const c_char,
        options: *const imagine_model_options,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_model_retain(model: *mut imagine_model) -> *mut imagine_model;
    pub fn imagine_model_release(model: *mut *mut imagine_model);
    pub fn imagine_model_get_info(
        model: *const imagine_model,
        info: *mut imagine_model_info,
        error: *mut imagine_error,
    ) -> imagine_status;
}

// The text stage: imagine/text.h.

opaque!(imagine_text);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_text_options {
    pub struct_size: u32,
    pub reserved0: u32,
    pub cancel: *mut imagine_cancel,
}

extern "C" {
    pub fn imagine_text_options_init(options: *mut imagine_text_options, size: usize);
    pub fn imagine_text_create(
        text: *mut *mut imagine_text,
        model: *mut imagine_model,
        options: *const imagine_text_options,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_text_destroy(text: *mut *mut imagine_text);
    pub fn imagine_text_tokenize(
        text: *mut imagine_text,
        prompt: *const c_char,
        max_length: i32,
        ids: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_model_tokenize(
        model: *mut imagine_model,
        prompt: *const c_char,
        max_length: i32,
        cancel: *const imagine_cancel,
        ids: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_text_encode(
        text: *mut imagine_text,
        prompt: *const c_char,
        ids: *mut *mut imagine_buffer,
        embeds: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
}

// The VAE stage: imagine/vae.h.

opaque!(imagine_vae);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_vae_options {
    pub struct_size: u32,
    pub reserved0: u32,
    pub cancel: *mut imagine_cancel,
    pub tile_width: i32,
    pub tile_height: i32,
}

pub const IMAGINE_VAE_WHOLE: i32 = 0;
pub const IMAGINE_VAE_TILE_AUTO: i32 = -1;

extern "C" {
    pub fn imagine_vae_options_init(options: *mut imagine_vae_options, size: usize);
    pub fn imagine_vae_create(
        vae: *mut *mut imagine_vae,
        model: *mut imagine_model,
        options: *const imagine_vae_options,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_vae_destroy(vae: *mut *mut imagine_vae);
    pub fn imagine_vae_encode(
        vae: *mut imagine_vae,
        frames: *const imagine_buffer,
        latents: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_vae_decode(
        vae: *mut imagine_vae,
        latents: *const imagine_buffer,
        dtype: imagine_dtype,
        frames: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_vae_decode_next(
        vae: *mut imagine_vae,
        latents: *const imagine_buffer,
        dtype: imagine_dtype,
        frames: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_vae_encode_next(
        vae: *mut imagine_vae,
        frames: *const imagine_buffer,
        latents: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_vae_reset(vae: *mut imagine_vae);
}

// The sampler stage: imagine/sampler.h.

opaque!(imagine_sampler);
pub type imagine_schedule = i32;
pub type imagine_step_rule = i32;
pub type imagine_cfg_mode = i32;
pub type imagine_known_mode = i32;
pub const IMAGINE_SCHEDULE_DEFAULT: imagine_schedule = 0;
pub const IMAGINE_SCHEDULE_FLOW: imagine_schedule = 1;
pub const IMAGINE_SCHEDULE_WAN_UNIPC: imagine_schedule = 2;
pub const IMAGINE_SCHEDULE_SIGMAS: imagine_schedule = 3;
pub const IMAGINE_SCHEDULE_SELF_FORCING: imagine_schedule = 4;
pub const IMAGINE_SCHEDULE_CAUSVID: imagine_schedule = 5;
pub const IMAGINE_SCHEDULE_RCM: imagine_schedule = 6;
pub const IMAGINE_SCHEDULE_SCM: imagine_schedule = 7;
pub const IMAGINE_SCHEDULE_LCM: imagine_schedule = 8;
pub const IMAGINE_SCHEDULE_LTX2: imagine_schedule = 9;
pub const IMAGINE_SCHEDULE_LTX2_SECOND: imagine_schedule = 10;
pub const IMAGINE_SCHEDULE_SCHNELL: imagine_schedule = 11;
pub const IMAGINE_SCHEDULE_Z_IMAGE: imagine_schedule = 12;
pub const IMAGINE_STEP_DEFAULT: imagine_step_rule = 0;
pub const IMAGINE_STEP_EULER: imagine_step_rule = 1;
pub const IMAGINE_STEP_UNIPC: imagine_step_rule = 2;
pub const IMAGINE_STEP_HEUN: imagine_step_rule = 3;
pub const IMAGINE_STEP_RENOISE: imagine_step_rule = 4;
pub const IMAGINE_STEP_ANCESTRAL: imagine_step_rule = 5;
pub const IMAGINE_STEP_TRIGFLOW: imagine_step_rule = 6;
pub const IMAGINE_STEP_LCM: imagine_step_rule = 7;
pub const IMAGINE_CFG_AUTO: imagine_cfg_mode = 0;
pub const IMAGINE_CFG_BATCHED: imagine_cfg_mode = 1;
pub const IMAGINE_CFG_IN_TURN: imagine_cfg_mode = 2;
pub const IMAGINE_KNOWN_AUTO: imagine_known_mode = 0;
pub const IMAGINE_KNOWN_CLEAN: imagine_known_mode = 1;
pub const IMAGINE_KNOWN_RENOISED: imagine_known_mode = 2;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_sampler_options {
    pub struct_size: u32,
    pub batch: i32,
    pub width: i32,
    pub height: i32,
    pub frames: i32,
    pub steps: i32,
    pub seed: u64,
    pub guidance: f64,
    pub shift: f64,
    pub schedule: imagine_schedule,
    pub step_rule: imagine_step_rule,
    pub cfg_mode: imagine_cfg_mode,
    pub sigma_count: u32,
    pub sigmas: *const f64,
    pub cancel: *mut imagine_cancel,
    pub eta: f64,
    pub guidance_rescale: f64,
    pub guidance_start: f64,
    pub guidance_stop: f64,
    pub guidance_audio: f64,
    pub strength: f64,
    pub known_mode: imagine_known_mode,
    pub reserved0: u32,
    pub guidance_2: f64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_step_info {
    pub struct_size: u32,
    pub step: i32,
    pub steps: i32,
    pub reserved0: u32,
    pub sigma: f64,
    pub seconds: f64,
}

extern "C" {
    pub fn imagine_schedule_name(schedule: imagine_schedule) -> *const c_char;
    pub fn imagine_step_rule_name(rule: imagine_step_rule) -> *const c_char;
    pub fn imagine_sampler_options_init(options: *mut imagine_sampler_options, size: usize);
    pub fn imagine_sampler_create(
        sampler: *mut *mut imagine_sampler,
        model: *mut imagine_model,
        options: *const imagine_sampler_options,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_destroy(sampler: *mut *mut imagine_sampler);
    pub fn imagine_sampler_set_text(
        sampler: *mut imagine_sampler,
        positive: *const imagine_buffer,
        negative: *const imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_begin(
        sampler: *mut imagine_sampler,
        noise: *const imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_set_init(
        sampler: *mut imagine_sampler,
        latents: *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_set_known(
        sampler: *mut imagine_sampler,
        latents: *mut imagine_buffer,
        mask: *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_set_renoise(
        sampler: *mut imagine_sampler,
        noise: *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_step(
        sampler: *mut imagine_sampler,
        info: *mut imagine_step_info,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_get_latents(
        sampler: *mut imagine_sampler,
        index: i32,
        latents: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_get_estimate(
        sampler: *mut imagine_sampler,
        index: i32,
        latents: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_get_state(
        sampler: *mut imagine_sampler,
        state: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_resume(
        sampler: *mut imagine_sampler,
        state: *const imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_sampler_get_sigmas(sampler: *const imagine_sampler, sigmas: *mut f64, count: u32) -> u32;
    pub fn imagine_sampler_denoise(
        sampler: *mut imagine_sampler,
        hidden_states: *const imagine_buffer,
        timestep: *const imagine_buffer,
        encoder_hidden_states: *const imagine_buffer,
        sample: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
}

// Jobs: imagine/job.h.

opaque!(imagine_job);
pub type imagine_event_kind = i32;
pub type imagine_job_stage = i32;
pub const IMAGINE_EVENT_STEP: imagine_event_kind = 1;
pub const IMAGINE_EVENT_PREVIEW: imagine_event_kind = 2;
pub const IMAGINE_EVENT_LATENTS: imagine_event_kind = 3;
pub const IMAGINE_EVENT_FRAMES: imagine_event_kind = 4;
pub const IMAGINE_EVENT_DONE: imagine_event_kind = 5;
pub const IMAGINE_JOB_LOAD: imagine_job_stage = 1;
pub const IMAGINE_JOB_TEXT: imagine_job_stage = 2;
pub const IMAGINE_JOB_SAMPLE: imagine_job_stage = 3;
pub const IMAGINE_JOB_DECODE: imagine_job_stage = 4;
pub const IMAGINE_JOB_ENCODE: imagine_job_stage = 5;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_job_options {
    pub struct_size: u32,
    pub events: u32,
    pub prompt: *const c_char,
    pub negative_prompt: *const c_char,
    pub sampler: *const imagine_sampler_options,
    pub prompt_embeds: *mut imagine_buffer,
    pub negative_embeds: *mut imagine_buffer,
    pub noise: *mut imagine_buffer,
    pub latents: *mut imagine_buffer,
    pub cancel: *mut imagine_cancel,
    pub preview_every: i32,
    pub decode: i32,
    pub renoise: *mut imagine_buffer,
    pub init_latents: *mut imagine_buffer,
    pub known_latents: *mut imagine_buffer,
    pub known_mask: *mut imagine_buffer,
    pub init_frames: *mut imagine_buffer,
    pub mask_frames: *mut imagine_buffer,
    pub first_frames: *mut imagine_buffer,
    pub last_frame: *mut imagine_buffer,
    pub tile_width: i32,
    pub tile_height: i32,
    pub state: *mut imagine_buffer,
    pub state_every: i32,
    pub reserved0: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_event {
    pub struct_size: u32,
    pub kind: imagine_event_kind,
    pub step: i32,
    pub steps: i32,
    pub first_frame: i32,
    pub frame_count: i32,
    pub sigma: f64,
    pub seconds: f64,
    pub frames: *mut imagine_buffer,
    pub latents: *mut imagine_buffer,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_job_info {
    pub struct_size: u32,
    pub stage: imagine_job_stage,
    pub width: i32,
    pub height: i32,
    pub frames: i32,
    pub steps: i32,
    pub guidance: f64,
    pub seconds: [f64; 8],
    pub memory_peak: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_estimate {
    pub struct_size: u32,
    pub fits: i32,
    pub width: i32,
    pub height: i32,
    pub frames: i32,
    pub steps: i32,
    pub guidance: f64,
    pub peak_bytes: u64,
    pub held_bytes: u64,
    pub limit_bytes: u64,
    pub stage_peak: [u64; 8],
    pub stage_weights: [u64; 8],
    pub stage_work: [u64; 8],
    pub streamed: u32,
    pub gives_back: i32,
    pub in_turn: i32,
    pub nearest_width: i32,
    pub nearest_height: i32,
    pub nearest_frames: i32,
    pub tile: i32,
    pub reserved0: u32,
}

extern "C" {
    pub fn imagine_job_options_init(options: *mut imagine_job_options, size: usize);
    pub fn imagine_job_create(
        job: *mut *mut imagine_job,
        model: *mut imagine_model,
        options: *const imagine_job_options,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_job_next(
        job: *mut imagine_job,
        event: *mut imagine_event,
        timeout_ns: i64,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_job_cancel(job: *mut imagine_job);
    pub fn imagine_job_fd(job: *const imagine_job) -> i32;
    pub fn imagine_job_get_latents(
        job: *mut imagine_job,
        latents: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_job_get_state(
        job: *mut imagine_job,
        state: *mut *mut imagine_buffer,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_job_get_info(
        job: *mut imagine_job,
        info: *mut imagine_job_info,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_job_destroy(job: *mut *mut imagine_job);
    pub fn imagine_job_estimate(
        model: *mut imagine_model,
        options: *const imagine_job_options,
        estimate: *mut imagine_estimate,
        error: *mut imagine_error,
    ) -> imagine_status;
}

// Measurements: imagine/bench.h.

pub type imagine_bench_size = i32;
pub const IMAGINE_BENCH_USUAL: imagine_bench_size = 0;
pub const IMAGINE_BENCH_TINY: imagine_bench_size = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct imagine_bench_row {
    pub struct_size: u32,
    pub reserved0: u32,
    pub name: [c_char; 96],
    pub kind: [c_char; 16],
    pub gflops: f64,
    pub share: f64,
    pub seconds: f64,
    pub peak: f64,
    pub device: imagine_device,
    pub size: imagine_bench_size,
    pub peak_f32: f64,
    pub bandwidth: f64,
    pub value: f64,
    pub unit: [c_char; 16],
    pub emulated: i32,
    pub reserved1: i32,
    pub left_out: [c_char; 136],
    pub device_name: [c_char; 64],
}

extern "C" {
    pub fn imagine_bench(
        context: *mut imagine_context,
        index: i32,
        row: *mut imagine_bench_row,
        error: *mut imagine_error,
    ) -> imagine_status;
    pub fn imagine_bench_describe(index: i32, row: *mut imagine_bench_row, error: *mut imagine_error)
        -> imagine_status;
}
