// SPDX-License-Identifier: MIT
//! A library that is newer than the crate: it tells of what the crate does not know.

use std::os::raw::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use imagine::{Buffer, Context, Error};
use imagine_sys as sys;

const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;

extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// What the library says instead of its own device and type; 0: these.
static DEVICE: AtomicI32 = AtomicI32::new(0);
static DTYPE: AtomicI32 = AtomicI32::new(0);

type GetInfo =
    unsafe extern "C" fn(*const sys::imagine_buffer, *mut sys::imagine_buffer_info, *mut sys::imagine_error) -> c_int;

/// Found before the library's own, which it calls.
///
/// # Safety
/// As the library's.
#[no_mangle]
pub unsafe extern "C" fn imagine_buffer_get_info(
    buffer: *const sys::imagine_buffer,
    info: *mut sys::imagine_buffer_info,
    error: *mut sys::imagine_error,
) -> c_int {
    // SAFETY: the function of that name has this type, and the caller's arguments are its arguments.
    let status = unsafe {
        let real = dlsym(RTLD_NEXT, b"imagine_buffer_get_info\0".as_ptr().cast());
        std::mem::transmute::<*mut c_void, GetInfo>(real)(buffer, info, error)
    };
    for (value, field) in
        [(&DEVICE, std::ptr::addr_of_mut!((*info).device)), (&DTYPE, std::ptr::addr_of_mut!((*info).dtype))]
    {
        let value = value.load(Ordering::Relaxed);
        if value != 0 {
            // SAFETY: a field of the caller's struct.
            unsafe { *field = value };
        }
    }
    status
}

#[test]
fn buffers() {
    let context = Context::new().unwrap();
    let make = || Buffer::from_vec(&context, vec![1u8, 2, 3], &[3]);
    assert_eq!(make().unwrap().as_bytes(), [1, 2, 3]);
    for (field, what) in [(&DEVICE, "a device that is not known"), (&DTYPE, "elements that are not known")] {
        field.store(77, Ordering::Relaxed);
        match make() {
            Err(Error::Unsupported(_)) => assert!(make().unwrap_err().message().ends_with(what)),
            other => panic!("{:?}", other.map(|buffer| buffer.as_bytes().len())),
        }
        field.store(0, Ordering::Relaxed);
    }
}
