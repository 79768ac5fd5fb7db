// SPDX-License-Identifier: MIT
use std::fmt;
use std::mem::{align_of, size_of};
use std::os::raw::{c_char, c_void};
use std::path::Path;

use imagine_sys as sys;

use crate::handle::{check, count, path as c_path, text, Handle, Plain};
use crate::{Context, Device, Error, Result};

/// The type of a [`Buffer`]'s elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dtype {
    /// `u8`.
    U8,
    /// `i32`.
    I32,
    /// `i64`.
    I64,
    /// IEEE half precision, which Rust has no type for: see [`Buffer::as_bytes`].
    F16,
    /// bfloat16, likewise.
    Bf16,
    /// `f32`.
    F32,
    /// `f64`.
    F64,
}

impl Dtype {
    fn number(self) -> sys::imagine_dtype {
        match self {
            Dtype::U8 => sys::IMAGINE_U8,
            Dtype::I32 => sys::IMAGINE_I32,
            Dtype::I64 => sys::IMAGINE_I64,
            Dtype::F16 => sys::IMAGINE_F16,
            Dtype::Bf16 => sys::IMAGINE_BF16,
            Dtype::F32 => sys::IMAGINE_F32,
            Dtype::F64 => sys::IMAGINE_F64,
        }
    }

    fn from_number(number: sys::imagine_dtype) -> Option<Self> {
        Some(match number {
            sys::IMAGINE_U8 => Dtype::U8,
            sys::IMAGINE_I32 => Dtype::I32,
            sys::IMAGINE_I64 => Dtype::I64,
            sys::IMAGINE_F16 => Dtype::F16,
            sys::IMAGINE_BF16 => Dtype::Bf16,
            sys::IMAGINE_F32 => Dtype::F32,
            sys::IMAGINE_F64 => Dtype::F64,
            _ => return None,
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that a [`Buffer`] can hold: `u8`, `i32`, `i64`, `f32` and `f64`.
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    /// What the library calls it.
    const DTYPE: Dtype;
    #[doc(hidden)]
    const NUMBER: i32;
}

macro_rules! elements {
    ($($rust:ty: $dtype:ident, $number:ident;)*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: Dtype = Dtype::$dtype;
            const NUMBER: i32 = sys::$number;
        }
    )*};
}

elements! {
    u8: U8, IMAGINE_U8;
    i32: I32, IMAGINE_I32;
    i64: I64, IMAGINE_I64;
    f32: F32, IMAGINE_F32;
    f64: F64, IMAGINE_F64;
}

/// A dense, row-major tensor that never changes. Clones share the memory, which lives as long as one of them does,
/// whatever becomes of the job, model or context that it came from.
#[derive(Clone)]
pub struct Buffer {
    handle: Handle<sys::imagine_buffer>,
    // As imagine_buffer_get_info told once: none of it ever changes.
    dtype: Dtype,
    ndim: usize,
    shape: [usize; sys::IMAGINE_MAX_DIMS],
    data: *const u8,
    size: usize,
    device: Device,
}

// SAFETY: the bytes are only read once a Buffer exists, and its handle may be used from any thread.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// Drops the vector that imagine_buffer_wrap was given.
unsafe extern "C" fn drop_vec<T>(user_data: *mut c_void, _data: *mut c_void) {
    // SAFETY: the pointer is the one of Box::into_raw in from_vec, and the library calls this once.
    drop(unsafe { Box::from_raw(user_data.cast::<Vec<T>>()) });
}

/// The shape as the library takes it, if it has as many elements as there are.
fn shape_of(shape: &[usize], elements: usize) -> Result<Vec<i64>> {
    let all = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
    if all != Some(elements) {
        return Err(Error::invalid(format!("shape: {:?} does not hold {} elements", shape, elements)));
    }
    let wide = |n: &usize| i64::try_from(*n).map_err(|_| Error::invalid(format!("shape: {} is too large", n)));
    shape.iter().map(wide).collect()
}

fn dims(shape: &[i64]) -> Result<i32> {
    i32::try_from(shape.len()).map_err(|_| Error::invalid(format!("shape: {} dimensions", shape.len())))
}

impl Buffer {
    pub(crate) fn new(handle: Handle<sys::imagine_buffer>) -> Result<Self> {
        let strange = |what| Error::new(sys::IMAGINE_ERROR_UNSUPPORTED, 0, format!("a buffer with {}", what));
        let mut info = sys::imagine_buffer_info::sized();
        // SAFETY: the buffer is alive, and `info` says its own size.
        check(|error| unsafe { sys::imagine_buffer_get_info(handle.raw(), &mut info, error) })?;
        let dtype = Dtype::from_number(info.dtype).ok_or_else(|| strange("elements that are not known"))?;
        let ndim = usize::try_from(info.ndim).unwrap_or(usize::MAX);
        let mut shape = [0; sys::IMAGINE_MAX_DIMS];
        if ndim > shape.len() {
            return Err(strange("more dimensions than are known"));
        }
        for (to, from) in shape.iter_mut().zip(info.shape) {
            *to = usize::try_from(from).map_err(|_| strange("a negative dimension"))?;
        }
        let size = usize::try_from(info.size).map_err(|_| strange("more bytes than can be addressed"))?;
        // A device's pointer is not for the host to follow.
        let (device, data) = match info.device {
            sys::IMAGINE_DEVICE_CPU => (Device::Cpu, info.data as *const u8),
            sys::IMAGINE_DEVICE_CUDA => (Device::Cuda(count(info.device_number)), std::ptr::null()),
            _ => return Err(strange("data on a device that is not known")),
        };
        Ok(Buffer { handle, dtype, ndim, shape, data, size, device })
    }

    pub(crate) fn make(
        call: impl FnOnce(*mut *mut sys::imagine_buffer, *mut sys::imagine_error) -> sys::imagine_status,
    ) -> Result<Self> {
        Self::new(Handle::make(call)?)
    }

    pub(crate) fn raw(&self) -> *mut sys::imagine_buffer {
        self.handle.raw()
    }

    /// A buffer with a copy of `values`.
    pub fn from_slice<T: Element>(context: &Context, values: &[T], shape: &[usize]) -> Result<Self> {
        let shape = shape_of(shape, values.len())?;
        let ndim = dims(&shape)?;
        let buffer = Self::make(|buffer, error| {
            // SAFETY: the context is alive, the shape has as many elements as is said.
            unsafe { sys::imagine_buffer_create(buffer, context.0.raw(), T::NUMBER, ndim, shape.as_ptr(), error) }
        })?;
        if !values.is_empty() {
            // SAFETY: the new buffer has room for the elements, which were counted, and is not shared yet.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), buffer.data as *mut u8, buffer.size) };
        }
        Ok(buffer)
    }

    /// A buffer over the memory of `values`, without a copy; the vector is dropped with the last reference.
    pub fn from_vec<T: Element>(context: &Context, values: Vec<T>, shape: &[usize]) -> Result<Self> {
        let shape = shape_of(shape, values.len())?;
        let ndim = dims(&shape)?;
        let mut values = Box::new(values);
        let data = values.as_mut_ptr().cast::<c_void>();
        let owner = Box::into_raw(values);
        let made = Handle::make(|buffer, error| {
            // SAFETY: the data is aligned, as large as the shape says, and lives until drop_vec is called.
            unsafe {
                sys::imagine_buffer_wrap(
                    buffer,
                    context.0.raw(),
                    T::NUMBER,
                    ndim,
                    shape.as_ptr(),
                    data,
                    Some(drop_vec::<T>),
                    owner.cast(),
                    error,
                )
            }
        });
        match made {
            Ok(handle) => Self::new(handle),
            Err(error) => {
                // SAFETY: after a failure the release function is not called, so the vector is still ours.
                drop(unsafe { Box::from_raw(owner) });
                Err(error)
            }
        }
    }

    /// The tensor for another library that speaks DLPack 1.x, without a copy. Whoever gets it calls its deleter, and does
    /// not write into it: other clones of this buffer are being read.
    pub fn to_dlpack(&self) -> Result<*mut sys::DLManagedTensorVersioned> {
        let mut tensor = std::ptr::null_mut();
        // SAFETY: the buffer is alive; the tensor holds a reference of its own.
        check(|error| unsafe { sys::imagine_buffer_to_dlpack(self.raw(), &mut tensor, error) })?;
        Ok(tensor)
    }

    /// A buffer over another library's dense tensor in host memory or on the context's GPU, without a copy; the tensor's
    /// deleter is called with the last reference. After an error the tensor still belongs to the caller.
    ///
    /// # Safety
    /// The tensor must be valid and belong to the caller, nobody may write into it any more, and its deleter may be called
    /// from any thread.
    pub unsafe fn from_dlpack(context: &Context, tensor: *mut sys::DLManagedTensorVersioned) -> Result<Self> {
        // SAFETY: the context is alive, the tensor is valid by this function's own contract.
        Self::make(|buffer, error| unsafe { sys::imagine_buffer_from_dlpack(buffer, context.0.raw(), tensor, error) })
    }

    /// A tensor of a safetensors file; `name` may be None where the file has only one.
    pub fn load(context: &Context, path: impl AsRef<Path>, name: Option<&str>) -> Result<Self> {
        let path = c_path(path.as_ref())?;
        let name = name.map(|name| text("name", name)).transpose()?;
        let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        // SAFETY: the context and both strings live during the call.
        Self::make(|buffer, error| unsafe {
            sys::imagine_buffer_load(buffer, context.0.raw(), path.as_ptr(), name, error)
        })
    }

    /// Writes tensors into a safetensors file: to a temporary name first, then renamed.
    pub fn save(context: &Context, path: impl AsRef<Path>, tensors: &[(&str, &Buffer)]) -> Result<()> {
        let path = c_path(path.as_ref())?;
        let names = tensors.iter().map(|(name, _)| text("name", name)).collect::<Result<Vec<_>>>()?;
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let buffers: Vec<_> = tensors.iter().map(|(_, buffer)| buffer.raw()).collect();
        let count = u32::try_from(tensors.len()).map_err(|_| Error::invalid("tensors: too many".to_owned()))?;
        check(|error| {
            let (buffers, names) = (buffers.as_ptr(), names.as_ptr());
            // SAFETY: both arrays have `count` elements, and what they point to lives during the call.
            unsafe { sys::imagine_buffer_save(context.0.raw(), path.as_ptr(), count, buffers, names, error) }
        })?;
        Ok(())
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The dimensions, the last of which is contiguous.
    pub fn shape(&self) -> &[usize] {
        self.shape.get(..self.ndim).unwrap_or(&[])
    }

    /// Where the data lies.
    pub fn device(&self) -> Device {
        self.device
    }

    /// A copy on the host.
    pub fn to_host(&self, context: &Context) -> Result<Self> {
        let wide = |n: &usize| i64::try_from(*n).map_err(|_| Error::invalid(format!("shape: {} is too large", n)));
        let shape: Vec<i64> = self.shape().iter().map(wide).collect::<Result<_>>()?;
        let ndim = dims(&shape)?;
        // SAFETY: the context and the shape live during the call.
        let made = Self::make(|buffer, error| unsafe {
            let dtype = self.dtype.number();
            sys::imagine_buffer_create(buffer, context.0.raw(), dtype, ndim, shape.as_ptr(), error)
        })?;
        // SAFETY: both buffers are alive, and nobody else knows the new one.
        check(|error| unsafe { sys::imagine_buffer_copy(made.raw(), self.raw(), error) })?;
        Ok(made)
    }

    /// All bytes, without a copy; none of a buffer on a GPU, see [`Buffer::to_host`].
    pub fn as_bytes(&self) -> &[u8] {
        if self.data.is_null() || self.size == 0 {
            return &[];
        }
        // SAFETY: the library says that there are so many bytes, which live as long as the handle and do not change.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }

    /// All elements, without a copy; an error when they are of another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if self.dtype != T::DTYPE {
            return Err(Error::invalid(format!("wanted a buffer of {:?}, this one is {:?}", T::DTYPE, self.dtype)));
        }
        let bytes = self.as_bytes();
        if bytes.is_empty() {
            return Ok(&[]);
        }
        if bytes.as_ptr() as usize % align_of::<T>() != 0 {
            return Err(Error::invalid(format!("a buffer of {:?} that is not aligned", self.dtype)));
        }
        // SAFETY: the elements are of this type, aligned, and any bits are a value of it.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), bytes.len() / size_of::<T>()) })
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("dtype", &self.dtype).field("shape", &self.shape()).finish()
    }
}
