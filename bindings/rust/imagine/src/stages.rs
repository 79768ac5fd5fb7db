// SPDX-License-Identifier: MIT
use std::fmt;

use imagine_sys as sys;

use crate::handle::{int, text as c_text, Handle, Owned, Plain};
use crate::{Buffer, CancelToken, Frames, Model, Result};

/// The text stage: the tokenizer and encoder of one model. Used by one thread at a time; make one for each thread.
pub struct Text(Owned<sys::imagine_text>);

/// The visual tokenizer: frames to latents and back. Used by one thread at a time; make one for each thread.
pub struct Vae(Owned<sys::imagine_vae>);

fn token(cancel: Option<&CancelToken>) -> *mut sys::imagine_cancel {
    cancel.map_or(std::ptr::null_mut(), |token| token.0.raw())
}

impl Text {
    /// Reads the tokenizer and the encoder's weights.
    pub fn new(model: &Model) -> Result<Self> {
        Self::make(model, None)
    }

    /// The same; firing the token ends what is running.
    pub fn with_cancel(model: &Model, cancel: &CancelToken) -> Result<Self> {
        Self::make(model, Some(cancel))
    }

    fn make(model: &Model, cancel: Option<&CancelToken>) -> Result<Self> {
        let mut options = sys::imagine_text_options::initialized(sys::imagine_text_options_init);
        options.cancel = token(cancel);
        // SAFETY: the model, the options and the token live during the call.
        Owned::make(|text, error| unsafe { sys::imagine_text_create(text, model.handle.raw(), &options, error) })
            .map(Text)
    }

    /// Token ids, `i32 [length]`, ending with the end-of-text token; cut to `max_length` if there is one.
    pub fn tokenize(&mut self, prompt: &str, max_length: Option<u32>) -> Result<Buffer> {
        let prompt = c_text("prompt", prompt)?;
        let length = int("max_length", max_length.unwrap_or(0))?;
        // SAFETY: the handle is ours alone, the prompt lives during the call.
        Buffer::make(|ids, error| unsafe {
            sys::imagine_text_tokenize(self.0.raw(), prompt.as_ptr(), length, ids, error)
        })
    }

    /// Token ids, `i32 [length]`, and the encoder's hidden states, `f32 [length, text_dim]`, without padding.
    pub fn encode(&mut self, prompt: &str) -> Result<(Buffer, Buffer)> {
        let prompt = c_text("prompt", prompt)?;
        let mut raw = std::ptr::null_mut();
        let embeds = Handle::make(|embeds, error| {
            // SAFETY: the handle is ours alone; the prompt and both outputs live during the call.
            unsafe { sys::imagine_text_encode(self.0.raw(), prompt.as_ptr(), &mut raw, embeds, error) }
        })?;
        let ids = Handle::make(|ids, _| {
            // SAFETY: an output of this function's caller; the reference that the library gave is moved there.
            unsafe { *ids = raw };
            sys::IMAGINE_OK
        })?;
        Ok((Buffer::new(ids)?, Buffer::new(embeds)?))
    }
}

/// How far a tile reaches along one side of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tile {
    /// The whole side.
    #[default]
    Whole,
    /// At most so many pixels, in steps of the VAE's spatial factor and never below one of them.
    Pixels(u32),
    /// As far as the context's memory limit has room for; without a limit the whole side.
    Auto,
}

impl Tile {
    pub(crate) fn raw(self) -> i32 {
        match self {
            Tile::Whole => sys::IMAGINE_VAE_WHOLE,
            Tile::Pixels(pixels) => i32::try_from(pixels).unwrap_or(i32::MAX).max(1), // 0 is the whole side
            Tile::Auto => sys::IMAGINE_VAE_TILE_AUTO,
        }
    }
}

impl Vae {
    /// Reads the weights.
    pub fn new(model: &Model) -> Result<Self> {
        Self::make(model, [Tile::Whole; 2], None)
    }

    /// The same; firing the token ends what is running.
    pub fn with_cancel(model: &Model, cancel: &CancelToken) -> Result<Self> {
        Self::make(model, [Tile::Whole; 2], Some(cancel))
    }

    /// One that encodes and decodes in tiles of at most this width and height, for less memory. The bytes are the
    /// same; clips in pieces take no tiles.
    pub fn in_tiles(model: &Model, width: Tile, height: Tile) -> Result<Self> {
        Self::make(model, [width, height], None)
    }

    /// The same; firing the token ends what is running.
    pub fn in_tiles_with_cancel(model: &Model, width: Tile, height: Tile, cancel: &CancelToken) -> Result<Self> {
        Self::make(model, [width, height], Some(cancel))
    }

    fn make(model: &Model, [width, height]: [Tile; 2], cancel: Option<&CancelToken>) -> Result<Self> {
        let mut options = sys::imagine_vae_options::initialized(sys::imagine_vae_options_init);
        options.tile_width = width.raw();
        options.tile_height = height.raw();
        options.cancel = token(cancel);
        // SAFETY: the model, the options and the token live during the call.
        Owned::make(|vae, error| unsafe { sys::imagine_vae_create(vae, model.handle.raw(), &options, error) }).map(Vae)
    }

    /// Latents, `f32 [channels, frames, height, width]`, of [`Frames`] or of
    /// `f32 [3, frames, height, width]` in [-1, 1]. Forgets clips begun by [`Vae::decode_next`] and [`Vae::encode_next`].
    pub fn encode(&mut self, frames: &Buffer) -> Result<Buffer> {
        // SAFETY: the handle is ours alone, the frames live during the call.
        Buffer::make(|latents, error| unsafe { sys::imagine_vae_encode(self.0.raw(), frames.raw(), latents, error) })
    }

    /// Pictures of latents. Forgets clips begun by [`Vae::decode_next`] and [`Vae::encode_next`].
    pub fn decode(&mut self, latents: &Buffer) -> Result<Frames> {
        self.decode_to(latents, sys::IMAGINE_U8)?.try_into()
    }

    /// The same as `f32 [3, frames, height, width]` in [-1, 1].
    pub fn decode_f32(&mut self, latents: &Buffer) -> Result<Buffer> {
        self.decode_to(latents, sys::IMAGINE_F32)
    }

    fn decode_to(&mut self, latents: &Buffer, dtype: sys::imagine_dtype) -> Result<Buffer> {
        // SAFETY: the handle is ours alone, the latents live during the call.
        Buffer::make(|frames, error| unsafe {
            sys::imagine_vae_decode(self.0.raw(), latents.raw(), dtype, frames, error)
        })
    }

    /// The pictures of the next latent frames of a clip that comes in pieces: together they are what one
    /// [`Vae::decode`] gives, to the byte. An argument that is refused changes nothing, and the clip goes on. After any other
    /// failure call [`Vae::reset`] before the clip is begun again: until then calls may fail with
    /// [`Error::State`](crate::Error::State).
    pub fn decode_next(&mut self, latents: &Buffer) -> Result<Frames> {
        // SAFETY: the handle is ours alone, the latents live during the call.
        Buffer::make(|frames, error| unsafe {
            sys::imagine_vae_decode_next(self.0.raw(), latents.raw(), sys::IMAGINE_U8, frames, error)
        })?
        .try_into()
    }

    /// The latents of the next frames of a clip that comes in pieces, `t*k+1` frames the first time and `t*k` from then
    /// on (`t`: [`ModelInfo::temporal_factor`](crate::ModelInfo::temporal_factor)). Failures are as in
    /// [`Vae::decode_next`].
    pub fn encode_next(&mut self, frames: &Buffer) -> Result<Buffer> {
        // SAFETY: the handle is ours alone, the frames live during the call.
        Buffer::make(|latents, error| unsafe {
            sys::imagine_vae_encode_next(self.0.raw(), frames.raw(), latents, error)
        })
    }

    /// Ends clips that come in pieces: the next [`Vae::decode_next`] or [`Vae::encode_next`] begins another.
    pub fn reset(&mut self) {
        // SAFETY: the handle is ours alone.
        unsafe { sys::imagine_vae_reset(self.0.raw()) }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Text").field(&self.0.raw()).finish()
    }
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vae").field(&self.0.raw()).finish()
    }
}
