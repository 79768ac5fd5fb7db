// SPDX-License-Identifier: MIT
use std::ffi::CStr;
use std::fmt;
use std::os::raw::{c_char, c_void};

use imagine_sys as sys;

use crate::handle::{check, count, int, Handle, Plain};
use crate::Result;

/// Instruction sets of the CPU, each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CpuLevel {
    /// What the machine has in f32.
    Best,
    /// Plain C, the specification.
    Plain,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX512-BF16: products with weights stored as bf16 round their activations to bf16. Never `Best`.
    Avx512Bf16,
    /// AMX-BF16: the same products and attention, several times as fast. Never `Best`.
    Amx,
}

impl CpuLevel {
    fn number(self) -> sys::imagine_cpu_level {
        match self {
            CpuLevel::Best => sys::IMAGINE_CPU_BEST,
            CpuLevel::Plain => sys::IMAGINE_CPU_PLAIN,
            CpuLevel::Avx2 => sys::IMAGINE_CPU_AVX2,
            CpuLevel::Avx512 => sys::IMAGINE_CPU_AVX512,
            CpuLevel::Avx512Bf16 => sys::IMAGINE_CPU_AVX512BF16,
            CpuLevel::Amx => sys::IMAGINE_CPU_AMX,
        }
    }

    fn from_number(number: sys::imagine_cpu_level) -> Self {
        match number {
            sys::IMAGINE_CPU_PLAIN => CpuLevel::Plain,
            sys::IMAGINE_CPU_AVX2 => CpuLevel::Avx2,
            sys::IMAGINE_CPU_AVX512 => CpuLevel::Avx512,
            sys::IMAGINE_CPU_AVX512BF16 => CpuLevel::Avx512Bf16,
            sys::IMAGINE_CPU_AMX => CpuLevel::Amx,
            _ => CpuLevel::Best, // a newer library's
        }
    }
}

/// Where a context computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by its number from 0.
    Cuda(u32),
}

impl Device {
    pub(crate) fn from_numbers(device: sys::imagine_device, number: i32) -> Self {
        match device {
            sys::IMAGINE_DEVICE_CUDA => Device::Cuda(count(number)),
            _ => Device::Cpu,
        }
    }
}

/// What a GPU's products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// f32.
    F32,
    /// Factors rounded to bf16, sums in f32.
    Bf16,
}

/// How much a line of the log matters, from what matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Something is lost.
    Error,
    /// Works, but not as one might expect.
    Warning,
    /// Worth knowing.
    Info,
    /// All the rest.
    Debug,
}

impl LogLevel {
    fn number(self) -> sys::imagine_log_level {
        match self {
            LogLevel::Error => sys::IMAGINE_LOG_ERROR,
            LogLevel::Warning => sys::IMAGINE_LOG_WARNING,
            LogLevel::Info => sys::IMAGINE_LOG_INFO,
            LogLevel::Debug => sys::IMAGINE_LOG_DEBUG,
        }
    }

    fn from_number(number: sys::imagine_log_level) -> Self {
        match number {
            sys::IMAGINE_LOG_ERROR => LogLevel::Error,
            sys::IMAGINE_LOG_WARNING => LogLevel::Warning,
            sys::IMAGINE_LOG_INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        }
    }
}

#[derive(Clone, Copy)]
struct Log(fn(LogLevel, &str));

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fn(LogLevel, &str)")
    }
}

/// A line of the library's log, on any thread, for the function that `data` is. A panic ends here.
extern "C" fn log_line(data: *mut c_void, level: sys::imagine_log_level, line: *const c_char) {
    // SAFETY: Context::with gave the library a function of this type.
    let log = unsafe { std::mem::transmute::<*mut c_void, fn(LogLevel, &str)>(data) };
    // SAFETY: the library gives a line that ends with a zero and lives during the call.
    let line = unsafe { CStr::from_ptr(line) }.to_string_lossy();
    if let Err(panic) = std::panic::catch_unwind(|| log(LogLevel::from_number(level), &line)) {
        std::mem::forget(panic); // dropping it may panic, too
    }
}

/// How a [`Context`] is made: `ContextOptions::new().threads(2)`.
#[derive(Clone, Copy, Debug)]
pub struct ContextOptions {
    threads: u32,
    memory_limit: u64,
    cpu_level: CpuLevel,
    device: Device,
    precision: Precision,
    graphs: bool,
    log: Option<(LogLevel, Log)>,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ContextOptions {
    /// As many threads as the process may run on, no memory limit, the best instructions.
    pub fn new() -> Self {
        ContextOptions {
            threads: 0,
            memory_limit: 0,
            cpu_level: CpuLevel::Best,
            device: Device::Cpu,
            precision: Precision::F32,
            graphs: true,
            log: None,
        }
    }

    /// Threads that compute, 1 to 256; 0: as many as this process may run on. The result does not depend on it.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// Bytes that the context may hold at once; 0: no limit.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// Uses at most this instruction set.
    #[must_use]
    pub fn cpu_level(mut self, level: CpuLevel) -> Self {
        self.cpu_level = level;
        self
    }

    /// Where to compute; refused where there is no such device.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// What a GPU's products are computed in.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Whether a GPU's launches that come again are recorded and started together; the results are the same.
    #[must_use]
    pub fn graphs(mut self, graphs: bool) -> Self {
        self.graphs = graphs;
        self
    }

    /// What the library logs up to `level` goes to `log`, from any thread, which must not call the library; silent without.
    #[must_use]
    pub fn log(mut self, level: LogLevel, log: fn(LogLevel, &str)) -> Self {
        self.log = Some((level, Log(log)));
        self
    }
}

/// What a [`Context`] has and uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextInfo {
    /// Threads that compute.
    pub threads: u32,
    /// The instruction set in use.
    pub cpu_level: CpuLevel,
    /// Bytes held now.
    pub memory_used: u64,
    /// Most bytes held since creation, the last [`Context::reset_peak`] or the last job's start.
    pub memory_peak: u64,
    /// Where the context computes.
    pub device: Device,
    /// Of the bytes held now, those on the GPU.
    pub device_memory_used: u64,
    /// Most of these.
    pub device_memory_peak: u64,
}

/// Threads and memory that models use. Clones are the same context; everything made from it keeps it alive.
#[derive(Clone)]
pub struct Context(pub(crate) Handle<sys::imagine_context>);

impl Context {
    /// A context with the default options.
    pub fn new() -> Result<Self> {
        Self::with(&ContextOptions::new())
    }

    /// A context with options of your own.
    pub fn with(options: &ContextOptions) -> Result<Self> {
        let mut raw = sys::imagine_context_options::initialized(sys::imagine_context_options_init);
        raw.threads = int("threads", options.threads)?;
        raw.memory_limit = options.memory_limit;
        raw.cpu_level = options.cpu_level.number();
        if let Device::Cuda(number) = options.device {
            raw.device = sys::IMAGINE_DEVICE_CUDA;
            raw.device_number = int("device", number)?;
        }
        if options.precision == Precision::Bf16 {
            raw.precision = sys::IMAGINE_PRECISION_BF16;
        }
        if !options.graphs {
            raw.graphs = sys::IMAGINE_GRAPHS_OFF;
        }
        if let Some((level, Log(log))) = options.log {
            raw.log = Some(log_line);
            raw.log_data = log as *mut c_void;
            raw.log_level = level.number();
        }
        // SAFETY: both outputs and the options live during the call.
        Handle::make(|context, error| unsafe { sys::imagine_context_create(context, &raw, error) }).map(Context)
    }

    /// What the context has and uses.
    pub fn info(&self) -> Result<ContextInfo> {
        let mut raw = sys::imagine_context_info::sized();
        // SAFETY: the context is alive, and `raw` says its own size.
        check(|error| unsafe { sys::imagine_context_get_info(self.0.raw(), &mut raw, error) })?;
        Ok(ContextInfo {
            threads: count(raw.threads),
            cpu_level: CpuLevel::from_number(raw.cpu_level),
            memory_used: raw.memory_used,
            memory_peak: raw.memory_peak,
            device: Device::from_numbers(raw.device, raw.device_number),
            device_memory_used: raw.device_memory_used,
            device_memory_peak: raw.device_memory_peak,
        })
    }

    /// Begins a new measurement of [`ContextInfo::memory_peak`].
    pub fn reset_peak(&self) {
        // SAFETY: the context is alive.
        unsafe { sys::imagine_context_reset_peak(self.0.raw()) }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.0.raw()).finish()
    }
}

/// Asks running work to stop, from any thread. Clones are the same token; one token may be given to several jobs and
/// stages.
#[derive(Clone)]
pub struct CancelToken(pub(crate) Handle<sys::imagine_cancel>);

impl CancelToken {
    /// A token that has not been fired.
    pub fn new(context: &Context) -> Result<Self> {
        // SAFETY: the context is alive, the outputs live during the call.
        Handle::make(|cancel, error| unsafe { sys::imagine_cancel_create(cancel, context.0.raw(), error) })
            .map(CancelToken)
    }

    /// From now on work that was given this token ends with [`Error::Cancelled`](crate::Error::Cancelled), within
    /// 50 ms; on a GPU, once what is under way is done: less than a block of a transformer, up to two of the text
    /// encoder or the VAE.
    ///
    /// Only sets a flag, so that a signal handler may call it.
    pub fn cancel(&self) {
        // SAFETY: the token is alive.
        unsafe { sys::imagine_cancel_fire(self.0.raw()) }
    }

    /// Whether the token has been fired.
    pub fn is_cancelled(&self) -> bool {
        // SAFETY: the token is alive.
        unsafe { sys::imagine_cancel_fired(self.0.raw()) != 0 }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}
