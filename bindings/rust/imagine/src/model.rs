// SPDX-License-Identifier: MIT
use std::fmt;
use std::path::Path;

use imagine_sys as sys;

use crate::handle::{check, count, int, path as c_path, text as c_text, Handle, Plain};
use crate::{Buffer, CancelToken, Context, Error, Estimate, Event, Frames, Job, JobOptions, Result};

/// What a [`Model`] is made for. Zero where the stage that says so is missing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Whether the pack has a text encoder.
    pub has_text: bool,
    /// Whether the pack has a transformer.
    pub has_sampler: bool,
    /// Whether the pack has a VAE.
    pub has_vae: bool,
    /// The default width in pixels.
    pub width: u32,
    /// The default height in pixels.
    pub height: u32,
    /// The default number of frames.
    pub frames: u32,
    /// The default number of steps.
    pub steps: u32,
    /// The default guidance scale.
    pub guidance: f64,
    /// At which the clips are meant to be shown.
    pub frames_per_second: f64,
    /// Channels of the latents.
    pub latent_channels: u32,
    /// Pixels per latent along x and y.
    pub spatial_factor: u32,
    /// Frames per latent frame, after the first.
    pub temporal_factor: u32,
    /// Width and height must be multiples of this.
    pub size_multiple: u32,
    /// Tokens that the text conditioning is padded to.
    pub text_length: u32,
    /// Numbers in the embedding of a token.
    pub text_dim: u32,
    /// Layers of the transformer.
    pub layers: u32,
    /// Width of the transformer.
    pub width_hidden: u32,
    /// Parameters of the text encoder.
    pub parameters_text: u64,
    /// Parameters of the transformer.
    pub parameters_sampler: u64,
    /// Parameters of the VAE.
    pub parameters_vae: u64,
    /// Bytes of all weight files.
    pub bytes: u64,
}

/// Where the weights of the text encoder and the transformer are while they are used. Results are the same to the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weights {
    /// In memory, unless the context's limit wants them streamed.
    Auto,
    /// In memory.
    Resident,
    /// Block by block from the file, two at a time.
    Streamed,
}

/// An opened model pack. Clones are the same model; it may be used from any number of threads at once.
#[derive(Clone)]
pub struct Model {
    pub(crate) handle: Handle<sys::imagine_model>,
    context: Context,
}

impl Model {
    /// Opens the pack in the folder `path`, with a context of its own.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(&Context::new()?, path)
    }

    /// Opens the pack in the folder `path`. What cannot run is refused with a message that names the key or tensor.
    pub fn open_in(context: &Context, path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(context, path, Weights::Auto)
    }

    /// The same, with a say in where the weights are.
    pub fn open_with(context: &Context, path: impl AsRef<Path>, weights: Weights) -> Result<Self> {
        let path = c_path(path.as_ref())?;
        let mut options = sys::imagine_model_options::sized();
        options.weights = match weights {
            Weights::Auto => sys::IMAGINE_WEIGHTS_AUTO,
            Weights::Resident => sys::IMAGINE_WEIGHTS_RESIDENT,
            Weights::Streamed => sys::IMAGINE_WEIGHTS_STREAMED,
        };
        // SAFETY: the context, the path and the options live during the call.
        let handle = Handle::make(|model, error| unsafe {
            sys::imagine_model_open(model, context.0.raw(), path.as_ptr(), &options, error)
        })?;
        Ok(Model { handle, context: context.clone() })
    }

    /// The context that the model was opened in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What the pack is made for.
    pub fn info(&self) -> Result<ModelInfo> {
        let mut raw = sys::imagine_model_info::sized();
        // SAFETY: the model is alive, and `raw` says its own size.
        check(|error| unsafe { sys::imagine_model_get_info(self.handle.raw(), &mut raw, error) })?;
        Ok(ModelInfo {
            has_text: raw.stages & sys::IMAGINE_STAGE_TEXT != 0,
            has_sampler: raw.stages & sys::IMAGINE_STAGE_SAMPLER != 0,
            has_vae: raw.stages & sys::IMAGINE_STAGE_VAE != 0,
            width: count(raw.width),
            height: count(raw.height),
            frames: count(raw.frames),
            steps: count(raw.steps),
            guidance: raw.guidance,
            frames_per_second: raw.frames_per_second,
            latent_channels: count(raw.latent_channels),
            spatial_factor: count(raw.spatial_factor),
            temporal_factor: count(raw.temporal_factor),
            size_multiple: count(raw.size_multiple),
            text_length: count(raw.text_length),
            text_dim: count(raw.text_dim),
            layers: count(raw.layers),
            width_hidden: count(raw.width_hidden),
            parameters_text: raw.parameters_text,
            parameters_sampler: raw.parameters_sampler,
            parameters_vae: raw.parameters_vae,
            bytes: raw.bytes,
        })
    }

    /// Token ids of a prompt, `i32 [length]`, cut to `max_length` if there is one. Only the tokenizer is read; the model sees
    /// [`ModelInfo::text_length`] tokens.
    pub fn tokenize(&self, prompt: &str, max_length: Option<u32>) -> Result<Buffer> {
        self.ids(prompt, max_length, std::ptr::null())
    }

    /// The same; firing the token ends it.
    pub fn tokenize_with_cancel(&self, prompt: &str, max_length: Option<u32>, cancel: &CancelToken) -> Result<Buffer> {
        self.ids(prompt, max_length, cancel.0.raw())
    }

    fn ids(&self, prompt: &str, max_length: Option<u32>, cancel: *const sys::imagine_cancel) -> Result<Buffer> {
        let prompt = c_text("prompt", prompt)?;
        let length = int("max_length", max_length.unwrap_or(0))?;
        // SAFETY: the model and the token are alive, the prompt lives during the call.
        Buffer::make(|ids, error| unsafe {
            sys::imagine_model_tokenize(self.handle.raw(), prompt.as_ptr(), length, cancel, ids, error)
        })
    }

    /// Starts a generation; the same as [`Job::start`].
    pub fn job(&self, options: &JobOptions) -> Result<Job> {
        Job::start(self, options)
    }

    /// What [`Model::job`] with these options would need of the context's memory. Nothing of it is allocated.
    pub fn estimate(&self, options: &JobOptions) -> Result<Estimate> {
        Estimate::new(self, options)
    }

    /// All frames of a generation at once. [`Model::job`] gives them piece by piece, and tells how far it is. Within the
    /// context's memory limit it takes what [`Model::estimate`] tells; the frames are put together outside of it.
    pub fn generate(&self, options: &JobOptions) -> Result<Frames> {
        let job = Job::start(self, &options.clone().decode(true))?;
        let clip = usize::try_from(job.info()?.frames).unwrap_or(0);
        let (mut rgb, mut width, mut height) = (Vec::new(), 0, 0);
        for event in job {
            if let Event::Frames { frames, .. } = event? {
                (width, height) = (frames.width(), frames.height());
                let frame = frames.rgb().len() / frames.count().max(1);
                let left = frame.saturating_mul(clip).saturating_sub(rgb.len()).max(frames.rgb().len());
                rgb.try_reserve_exact(left).map_err(|_| Error::memory(left, "the frames"))?;
                rgb.extend_from_slice(frames.rgb());
            }
        }
        Frames::from_rgb(&self.context, rgb, width, height)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Model").field(&self.handle.raw()).finish()
    }
}
