// SPDX-License-Identifier: MIT
use std::fmt;

use imagine_sys as sys;

use crate::handle::constant;

/// What all failures carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    status: i32,
    native_code: i32,
    message: String,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $status:ident,)*) => {
        /// A failure: one variant for each status of the library, with the library's own message.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* $variant(Detail),)*
            /// A status that this crate does not know yet.
            Other(Detail),
        }

        impl Error {
            pub(crate) fn new(status: i32, native_code: i32, message: String) -> Self {
                let detail = Detail { status, native_code, message };
                match status {
                    $(sys::$status => Error::$variant(detail),)*
                    _ => Error::Other(detail),
                }
            }

            fn detail(&self) -> &Detail {
                match self {
                    $(Error::$variant(detail) => detail,)*
                    Error::Other(detail) => detail,
                }
            }
        }
    };
}

errors! {
    /// An argument or option is not valid.
    InvalidArgument = IMAGINE_ERROR_INVALID_ARGUMENT,
    /// An allocation failed or the context's memory limit was reached.
    NoMemory = IMAGINE_ERROR_NO_MEMORY,
    /// The work was cancelled.
    Cancelled = IMAGINE_ERROR_CANCELLED,
    /// The call does not fit the state that the object is in.
    State = IMAGINE_ERROR_STATE,
    /// This library or machine cannot do what was asked.
    Unsupported = IMAGINE_ERROR_UNSUPPORTED,
    /// The object belongs to the parent process.
    Forked = IMAGINE_ERROR_FORKED,
    /// A fault of the library.
    Internal = IMAGINE_ERROR_INTERNAL,
    /// A file or device could not be read or written.
    Io = IMAGINE_ERROR_IO,
    /// A file, stage or tensor does not exist.
    NotFound = IMAGINE_ERROR_NOT_FOUND,
    /// A file is not what its format prescribes.
    Format = IMAGINE_ERROR_FORMAT,
    /// A model's configuration or weights do not fit together.
    Model = IMAGINE_ERROR_MODEL,
    /// A thread could not be created.
    Thread = IMAGINE_ERROR_THREAD,
    /// A tensor holds a NaN or an infinity.
    NotFinite = IMAGINE_ERROR_NOT_FINITE,
    /// The device reported an error.
    Device = IMAGINE_ERROR_DEVICE,
}

impl Error {
    pub(crate) fn invalid(message: String) -> Self {
        Error::new(sys::IMAGINE_ERROR_INVALID_ARGUMENT, 0, message)
    }

    pub(crate) fn memory(size: usize, what: &str) -> Self {
        let message = format!("out of memory: {} bytes for {} could not be had", size, what);
        Error::new(sys::IMAGINE_ERROR_NO_MEMORY, 0, message)
    }

    /// The library's number for this failure, always below 0.
    pub fn status(&self) -> i32 {
        self.detail().status
    }

    /// The name of the status, as `"ERROR_NOT_FOUND"`; `"UNKNOWN"` for a number that the library does not know.
    pub fn name(&self) -> &'static str {
        // SAFETY: accepts every number and returns a constant.
        unsafe { constant(sys::imagine_status_name(self.status())) }
    }

    /// What went wrong, naming the file, tensor or option and what to do.
    pub fn message(&self) -> &str {
        &self.detail().message
    }

    /// errno or the device's own code; 0 where there is none.
    pub fn native_code(&self) -> i32 {
        self.detail().native_code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.name())
    }
}

impl std::error::Error for Error {}
