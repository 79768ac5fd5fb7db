// SPDX-License-Identifier: MIT
//! The two kinds of C handles, and the calling of functions that report an imagine_error.

use std::ffi::CString;
use std::mem::size_of;
use std::os::raw::c_char;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null_mut, NonNull};

use imagine_sys as sys;

use crate::{Error, Result};

/// A C type with retain and release functions, all of whose functions may be called from any thread.
///
/// # Safety
/// Both must be the C functions of that type.
pub(crate) unsafe trait Counted {
    /// # Safety
    /// `raw` must be alive.
    unsafe fn retain(raw: *mut Self);
    /// # Safety
    /// `*raw` must be a reference that the caller owns.
    unsafe fn release(raw: *mut *mut Self);
}

/// One reference to a counted handle.
pub(crate) struct Handle<T: Counted>(NonNull<T>);

// SAFETY: Counted promises that the functions may be called from any thread, and the count is atomic.
unsafe impl<T: Counted> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T: Counted> Sync for Handle<T> {}

impl<T: Counted> Handle<T> {
    /// Takes over the reference that `call` writes to its first argument.
    pub(crate) fn make(call: impl FnOnce(*mut *mut T, *mut sys::imagine_error) -> sys::imagine_status) -> Result<Self> {
        output(call).map(Handle)
    }

    /// Another reference to a handle that someone else owns.
    ///
    /// # Safety
    /// `raw` must be NULL or alive.
    pub(crate) unsafe fn retained(raw: *mut T) -> Option<Self> {
        let handle = NonNull::new(raw)?;
        // SAFETY: alive, by this function's own contract.
        unsafe { T::retain(raw) };
        Some(Handle(handle))
    }

    pub(crate) fn raw(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Counted> Clone for Handle<T> {
    fn clone(&self) -> Self {
        // SAFETY: self owns a reference, so the handle is alive.
        unsafe { T::retain(self.raw()) };
        Handle(self.0)
    }
}

impl<T: Counted> Drop for Handle<T> {
    fn drop(&mut self) {
        let mut raw = self.raw();
        // SAFETY: self owns this reference and is not used again.
        unsafe { T::release(&mut raw) };
    }
}

/// A C type with a destroy function, used by one thread at a time, whichever that is.
///
/// # Safety
/// `destroy` must be the C function of that type.
pub(crate) unsafe trait Single {
    /// # Safety
    /// `*raw` must be owned by the caller.
    unsafe fn destroy(raw: *mut *mut Self);
}

/// The owner of a handle that is used by one thread at a time: Send, and through its pointer not Sync.
pub(crate) struct Owned<T: Single>(NonNull<T>);

// SAFETY: Single promises that any one thread at a time may use the handle.
unsafe impl<T: Single> Send for Owned<T> {}

impl<T: Single> Owned<T> {
    pub(crate) fn make(call: impl FnOnce(*mut *mut T, *mut sys::imagine_error) -> sys::imagine_status) -> Result<Self> {
        output(call).map(Owned)
    }

    pub(crate) fn raw(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Single> Drop for Owned<T> {
    fn drop(&mut self) {
        let mut raw = self.raw();
        // SAFETY: self owns the handle and is not used again.
        unsafe { T::destroy(&mut raw) };
    }
}

macro_rules! counted {
    ($($raw:ident: $retain:ident, $release:ident;)*) => {$(
        // SAFETY: these are the functions of this type, and its header says that any thread may call them.
        unsafe impl Counted for sys::$raw {
            unsafe fn retain(raw: *mut Self) {
                // SAFETY: the caller's contract.
                unsafe { sys::$retain(raw) };
            }
            unsafe fn release(raw: *mut *mut Self) {
                // SAFETY: the caller's contract.
                unsafe { sys::$release(raw) };
            }
        }
    )*};
}

macro_rules! single {
    ($($raw:ident: $destroy:ident;)*) => {$(
        // SAFETY: this is the function of this type, and its header says one thread at a time.
        unsafe impl Single for sys::$raw {
            unsafe fn destroy(raw: *mut *mut Self) {
                // SAFETY: the caller's contract.
                unsafe { sys::$destroy(raw) };
            }
        }
    )*};
}

counted! {
    imagine_context: imagine_context_retain, imagine_context_release;
    imagine_cancel: imagine_cancel_retain, imagine_cancel_release;
    imagine_buffer: imagine_buffer_retain, imagine_buffer_release;
    imagine_model: imagine_model_retain, imagine_model_release;
}

single! {
    imagine_text: imagine_text_destroy;
    imagine_vae: imagine_vae_destroy;
    imagine_job: imagine_job_destroy;
}

/// The C structs for which all bits zero is a value, with what fills in the defaults.
///
/// # Safety
/// All bits zero must be a value of the type, and its first field must be `struct_size`.
pub(crate) unsafe trait Plain: Sized {
    /// All zero but for struct_size.
    fn sized() -> Self {
        // SAFETY: all bits zero is a value, by this trait's contract.
        let mut value: Self = unsafe { std::mem::zeroed() };
        // SAFETY: the first field of a repr(C) struct lies at its address, and it is a u32 by this trait's contract.
        unsafe { *(&mut value as *mut Self).cast::<u32>() = size_of::<Self>() as u32 };
        value
    }

    /// What the type's own _init function fills in.
    fn initialized(init: unsafe extern "C" fn(*mut Self, usize)) -> Self {
        let mut value = Self::sized();
        // SAFETY: the function writes at most the size that it is told, which is that of `value`.
        unsafe { init(&mut value, size_of::<Self>()) };
        value
    }
}

macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: integers, floats, pointers and optional functions only, struct_size first.
        unsafe impl Plain for sys::$name {}
    )*};
}

plain! {
    imagine_error imagine_context_options imagine_context_info imagine_buffer_info imagine_model_info
    imagine_text_options imagine_vae_options imagine_sampler_options imagine_job_options imagine_event imagine_job_info
    imagine_estimate imagine_model_options
}

/// Calls a function that reports an imagine_error; a status of 0 or above comes back, a failure becomes an Error.
pub(crate) fn check(call: impl FnOnce(*mut sys::imagine_error) -> sys::imagine_status) -> Result<sys::imagine_status> {
    let mut error = sys::imagine_error::sized();
    let status = call(&mut error);
    if status >= 0 {
        return Ok(status);
    }
    let text: Vec<u8> = error.message.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    Err(Error::new(status, error.native_code, String::from_utf8_lossy(&text).into_owned()))
}

/// The same for a function whose first argument receives a handle.
fn output<T>(call: impl FnOnce(*mut *mut T, *mut sys::imagine_error) -> sys::imagine_status) -> Result<NonNull<T>> {
    let mut raw = null_mut();
    check(|error| call(&mut raw, error))?;
    NonNull::new(raw).ok_or_else(|| {
        Error::new(sys::IMAGINE_ERROR_INTERNAL, 0, "the library reported success and gave no handle".to_owned())
    })
}

/// A C string; the error names the argument.
pub(crate) fn text(what: &str, value: &str) -> Result<CString> {
    CString::new(value)
        .map_err(|error| Error::invalid(format!("{}: holds a zero character at byte {}", what, error.nul_position())))
}

pub(crate) fn path(value: &Path) -> Result<CString> {
    CString::new(value.as_os_str().as_bytes())
        .map_err(|error| Error::invalid(format!("path: holds a zero character at byte {}", error.nul_position())))
}

/// The int32_t of a count or size; the error names the argument.
pub(crate) fn int(what: &str, value: u32) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::invalid(format!("{}: {} is above {}", what, value, i32::MAX)))
}

/// A number from the library that is never below zero.
pub(crate) fn count(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// A constant of the library.
///
/// # Safety
/// `raw` must be NULL or a C string that is never freed.
pub(crate) unsafe fn constant(raw: *const c_char) -> &'static str {
    if raw.is_null() {
        return "";
    }
    // SAFETY: a C string that is never freed, by this function's contract.
    unsafe { std::ffi::CStr::from_ptr(raw) }.to_str().unwrap_or("")
}
