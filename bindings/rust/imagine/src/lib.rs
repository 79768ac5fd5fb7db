// SPDX-License-Identifier: MIT
//! Pictures and video from a prompt, through libimagine.
//!
//! ```
//! # fn main() -> imagine::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/packs/two-layer");
//! use imagine::{save_picture, Event, JobOptions, Model};
//!
//! let model = Model::open(folder)?;
//! for event in model.job(&JobOptions::new("a red apple bouncing").seed(7))? {
//!     match event? {
//!         Event::Step { step, steps, .. } => println!("{step}/{steps}"),
//!         Event::Frames { first, frames } => println!("frame {first}: {:?}", &frames.rgb()[..3]),
//!         _ => {}
//!     }
//! }
//!
//! // Or all at once:
//! let frames = model.generate(&JobOptions::new("a red apple bouncing").seed(7))?;
//! # let apple = std::env::temp_dir().join(format!("imagine-doc-{}.png", std::process::id()));
//! # let path = &apple;
//! save_picture(model.context(), path, &frames, model.info()?.frames_per_second)?;
//! # let _ = std::fs::remove_file(path);
//! # Ok(())
//! # }
//! ```
//!
//! - [`Context`], [`Model`], [`Buffer`], [`Frames`] and [`CancelToken`] are references that are counted: a clone is the
//!   same thing, and any thread may use it.
//! - [`Job`], [`Text`] and [`Vae`] are used by one thread at a time: they are `Send` and not `Sync`.
//! - Memory from the library is seen as slices of a [`Buffer`] or [`Frames`], never copied, and lives as long as
//!   they do.
//! - Every failure is an [`Error`] with the library's own message; nothing here panics on bad input.

#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_debug_implementations)]

mod buffer;
mod context;
mod error;
mod frames;
mod handle;
mod job;
mod model;
mod options;
mod stages;

pub use imagine_sys as sys;

pub use buffer::{Buffer, Dtype, Element};
pub use context::{CancelToken, Context, ContextInfo, ContextOptions, CpuLevel, Device, LogLevel, Precision};
pub use error::{Detail, Error};
pub use frames::{load_picture, save_picture, Frames};
pub use job::{Estimate, Event, Job, JobInfo, JobStage, StageEstimate};
pub use model::{Model, ModelInfo, Weights};
pub use options::{CfgMode, JobOptions, KnownMode, Schedule, StepRule};
pub use stages::{Text, Tile, Vae};

/// What everything that can fail returns.
pub type Result<T> = std::result::Result<T, Error>;

/// The version of the library that is running, as `"0.2.0"`.
pub fn version() -> &'static str {
    // SAFETY: takes nothing and returns a constant.
    unsafe { handle::constant(sys::imagine_version_string()) }
}
