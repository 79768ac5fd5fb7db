// SPDX-License-Identifier: MIT
use std::ops::Deref;
use std::path::Path;

use imagine_sys as sys;

use crate::handle::{check, path as c_path};
use crate::{Buffer, Context, Dtype, Error, Result};

/// Pictures of one size as `u8 [frames, height, width, 3]` in sRGB. A [`Buffer`] known to be that.
#[derive(Clone, Debug)]
pub struct Frames(Buffer);

impl Frames {
    /// Frames over the memory of `rgb`, which holds whole pictures of `width` times `height`, without a copy.
    pub fn from_rgb(context: &Context, rgb: Vec<u8>, width: usize, height: usize) -> Result<Self> {
        let frame = width.checked_mul(height).and_then(|n| n.checked_mul(3)).filter(|n| *n > 0);
        let frame = frame.ok_or_else(|| Error::invalid(format!("size: {}x{} is no picture", width, height)))?;
        let count = rgb.len() / frame;
        Buffer::from_vec(context, rgb, &[count, height, width, 3]).map(Frames)
    }

    fn dim(&self, index: usize) -> usize {
        self.0.shape().get(index).copied().unwrap_or(0)
    }

    /// How many pictures there are.
    pub fn count(&self) -> usize {
        self.dim(0)
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.dim(1)
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.dim(2)
    }

    /// Red, green and blue of all pixels of all frames, without a copy.
    pub fn rgb(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// One picture, without a copy; None when there are not so many.
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        let size = self.rgb().len().checked_div(self.count())?;
        let first = index.checked_mul(size)?;
        self.rgb().get(first..first.checked_add(size)?).filter(|_| index < self.count())
    }

    /// The same as a tensor.
    pub fn into_buffer(self) -> Buffer {
        self.0
    }
}

impl Deref for Frames {
    type Target = Buffer;
    fn deref(&self) -> &Buffer {
        &self.0
    }
}

impl TryFrom<Buffer> for Frames {
    type Error = Error;
    fn try_from(buffer: Buffer) -> Result<Self> {
        match (buffer.dtype(), buffer.shape()) {
            (Dtype::U8, [_, _, _, 3]) => Ok(Frames(buffer)),
            (dtype, shape) => Err(Error::invalid(format!(
                "frames: wanted are U8 [frames, height, width, 3], not {:?} {:?}",
                dtype, shape
            ))),
        }
    }
}

/// Writes a plain PNG (one frame) or an animated PNG that loops (several), to a temporary name first, then renamed.
pub fn save_picture(context: &Context, path: impl AsRef<Path>, frames: &Frames, frames_per_second: f64) -> Result<()> {
    let path = c_path(path.as_ref())?;
    check(|error| {
        // SAFETY: the context, the path and the buffer live during the call.
        unsafe { sys::imagine_picture_save(context.0.raw(), path.as_ptr(), frames.raw(), frames_per_second, error) }
    })?;
    Ok(())
}

/// Frames of a PNG, an animated PNG, or a folder of PNGs of one size in the order of their names' bytes, where
/// 10.png comes before 2.png.
pub fn load_picture(context: &Context, path: impl AsRef<Path>) -> Result<Frames> {
    let path = c_path(path.as_ref())?;
    // SAFETY: the context and the path live during the call.
    Buffer::make(|frames, error| unsafe { sys::imagine_picture_load(frames, context.0.raw(), path.as_ptr(), error) })?
        .try_into()
}
