// SPDX-License-Identifier: MIT
use std::ffi::CString;
use std::ptr::{null, null_mut};

use imagine_sys as sys;

use crate::handle::{int, text, Plain};
use crate::{Buffer, CancelToken, Error, Result, Tile};

/// What fills in the sigmas and the step rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schedule {
    /// The pack's own.
    Default,
    /// Linear from 1, shifted, with Euler steps.
    Flow,
    /// Wan's: shifted, with UniPC steps.
    WanUnipc,
    /// Self-Forcing, LongLive, LightX2V: 4 steps.
    SelfForcing,
    /// CausVid, FastWan: 3 steps.
    Causvid,
    /// rCM, TurboDiffusion: 4 steps, or 1 to 3.
    Rcm,
    /// sCM: 2 steps, or any number.
    Scm,
    /// Latent consistency: 4 steps, or up to 50.
    Lcm,
    /// LTX-2 distilled: 8 steps.
    Ltx2,
    /// Its second stage: 3 steps.
    Ltx2Second,
    /// FLUX.1-schnell: 4 steps, or any number.
    Schnell,
    /// Z-Image-Turbo: 8 steps, or any number.
    ZImage,
}

impl Schedule {
    fn raw(self) -> sys::imagine_schedule {
        match self {
            Schedule::Default => sys::IMAGINE_SCHEDULE_DEFAULT,
            Schedule::Flow => sys::IMAGINE_SCHEDULE_FLOW,
            Schedule::WanUnipc => sys::IMAGINE_SCHEDULE_WAN_UNIPC,
            Schedule::SelfForcing => sys::IMAGINE_SCHEDULE_SELF_FORCING,
            Schedule::Causvid => sys::IMAGINE_SCHEDULE_CAUSVID,
            Schedule::Rcm => sys::IMAGINE_SCHEDULE_RCM,
            Schedule::Scm => sys::IMAGINE_SCHEDULE_SCM,
            Schedule::Lcm => sys::IMAGINE_SCHEDULE_LCM,
            Schedule::Ltx2 => sys::IMAGINE_SCHEDULE_LTX2,
            Schedule::Ltx2Second => sys::IMAGINE_SCHEDULE_LTX2_SECOND,
            Schedule::Schnell => sys::IMAGINE_SCHEDULE_SCHNELL,
            Schedule::ZImage => sys::IMAGINE_SCHEDULE_Z_IMAGE,
        }
    }
}

/// How a step goes from one sigma to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepRule {
    /// The schedule's own.
    Default,
    /// Euler.
    Euler,
    /// UniPC of order 2, with corrector.
    Unipc,
    /// Heun: two predictions a step.
    Heun,
    /// The estimate, noised again.
    Renoise,
    /// Euler to below the next sigma and up again with noise.
    Ancestral,
    /// As [`StepRule::Renoise`], begun with sigma times the noise.
    Trigflow,
    /// As [`StepRule::Renoise`], with LCM's boundary scaling.
    Lcm,
}

impl StepRule {
    fn raw(self) -> sys::imagine_step_rule {
        match self {
            StepRule::Default => sys::IMAGINE_STEP_DEFAULT,
            StepRule::Euler => sys::IMAGINE_STEP_EULER,
            StepRule::Unipc => sys::IMAGINE_STEP_UNIPC,
            StepRule::Heun => sys::IMAGINE_STEP_HEUN,
            StepRule::Renoise => sys::IMAGINE_STEP_RENOISE,
            StepRule::Ancestral => sys::IMAGINE_STEP_ANCESTRAL,
            StepRule::Trigflow => sys::IMAGINE_STEP_TRIGFLOW,
            StepRule::Lcm => sys::IMAGINE_STEP_LCM,
        }
    }
}

/// How known latents are kept while the others are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KnownMode {
    /// The pack's.
    Auto,
    /// Clean, with timestep 0 for their tokens: for models trained so.
    Clean,
    /// Noised to the present sigma before each step: for any model.
    Renoised,
}

impl KnownMode {
    fn raw(self) -> sys::imagine_known_mode {
        match self {
            KnownMode::Auto => sys::IMAGINE_KNOWN_AUTO,
            KnownMode::Clean => sys::IMAGINE_KNOWN_CLEAN,
            KnownMode::Renoised => sys::IMAGINE_KNOWN_RENOISED,
        }
    }
}

/// How the two predictions of guidance are computed, with the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CfgMode {
    /// Together up to 8,192 tokens, else in turn; or as the memory limit asks.
    Auto,
    /// Together: faster.
    Batched,
    /// One after the other: less memory.
    InTurn,
}

impl CfgMode {
    fn raw(self) -> sys::imagine_cfg_mode {
        match self {
            CfgMode::Auto => sys::IMAGINE_CFG_AUTO,
            CfgMode::Batched => sys::IMAGINE_CFG_BATCHED,
            CfgMode::InTurn => sys::IMAGINE_CFG_IN_TURN,
        }
    }
}

/// What a [`Job`](crate::Job) is to do: `JobOptions::new("a red apple").seed(7).steps(20)`. What is not set is the
/// pack's default. Checked when the job is started.
#[derive(Clone, Debug)]
#[must_use]
pub struct JobOptions {
    prompt: String,
    negative: Option<String>,
    seed: u64,
    width: u32,
    height: u32,
    frames: u32,
    steps: u32,
    guidance: Option<f64>,
    guidance_2: Option<f64>,
    guidance_rescale: Option<f64>,
    guidance_interval: Option<(f64, f64)>,
    cfg_mode: CfgMode,
    shift: Option<f64>,
    schedule: Schedule,
    step_rule: StepRule,
    eta: Option<f64>,
    sigmas: Option<Vec<f64>>,
    embeds: Option<Buffer>,
    negative_embeds: Option<Buffer>,
    noise: Option<Buffer>,
    renoise: Option<Buffer>,
    init_latents: Option<Buffer>,
    known_latents: Option<Buffer>,
    known_mask: Option<Buffer>,
    init_frames: Option<Buffer>,
    mask_frames: Option<Buffer>,
    first_frames: Option<Buffer>,
    last_frame: Option<Buffer>,
    tile: (Tile, Tile),
    strength: Option<f64>,
    known_mode: KnownMode,
    latents: Option<Buffer>,
    state: Option<Buffer>,
    state_every: u32,
    pub(crate) cancel: Option<CancelToken>,
    previews: u32,
    decode: bool,
}

impl JobOptions {
    /// A generation for a prompt, with seed 0 and the pack's defaults.
    pub fn new(prompt: impl Into<String>) -> Self {
        JobOptions {
            prompt: prompt.into(),
            negative: None,
            seed: 0,
            width: 0,
            height: 0,
            frames: 0,
            steps: 0,
            guidance: None,
            guidance_2: None,
            guidance_rescale: None,
            guidance_interval: None,
            cfg_mode: CfgMode::Auto,
            shift: None,
            schedule: Schedule::Default,
            step_rule: StepRule::Default,
            eta: None,
            sigmas: None,
            embeds: None,
            negative_embeds: None,
            noise: None,
            renoise: None,
            init_latents: None,
            known_latents: None,
            known_mask: None,
            init_frames: None,
            mask_frames: None,
            first_frames: None,
            last_frame: None,
            tile: (Tile::Auto, Tile::Auto),
            strength: None,
            known_mode: KnownMode::Auto,
            latents: None,
            state: None,
            state_every: 0,
            cancel: None,
            previews: 0,
            decode: true,
        }
    }

    /// What the pictures should not look like. It counts where the guidance is other than 1.
    pub fn negative(mut self, prompt: impl Into<String>) -> Self {
        self.negative = Some(prompt.into());
        self
    }

    /// Where the noise comes from: the same seed gives the same bytes.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Width and height in pixels.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.width = width;
        self.height = height;
        self
    }

    /// Length of the clip; 1 is a picture.
    pub fn frames(mut self, frames: u32) -> Self {
        self.frames = frames;
        self
    }

    /// Steps of the sampler, 1 to 1000.
    pub fn steps(mut self, steps: u32) -> Self {
        self.steps = steps;
        self
    }

    /// Scale of the classifier-free guidance; 1 is without.
    pub fn guidance(mut self, scale: f64) -> Self {
        self.guidance = Some(scale);
        self
    }

    /// The scale of the second expert (little noise), where a pack has two.
    pub fn guidance_2(mut self, scale: f64) -> Self {
        self.guidance_2 = Some(scale);
        self
    }

    /// How far the guided prediction is brought back to the deviation of the prompt's alone, 0 to 1.
    pub fn guidance_rescale(mut self, share: f64) -> Self {
        self.guidance_rescale = Some(share);
        self
    }

    /// The share of the steps, from 0 to 1, between which there is guidance.
    pub fn guidance_interval(mut self, start: f64, stop: f64) -> Self {
        self.guidance_interval = Some((start, stop));
        self
    }

    /// Shift of the schedule.
    pub fn shift(mut self, shift: f64) -> Self {
        self.shift = Some(shift);
        self
    }

    /// The preset that fills in the sigmas.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// The step rule, where it is not to be the schedule's own.
    pub fn step_rule(mut self, rule: StepRule) -> Self {
        self.step_rule = rule;
        self
    }

    /// Share of new noise in [`StepRule::Ancestral`], 0 to 1; 1 unless set.
    pub fn eta(mut self, eta: f64) -> Self {
        self.eta = Some(eta);
        self
    }

    /// Sigmas of your own instead of a schedule and its shift: one more than steps, from at most 1 downwards.
    pub fn sigmas(mut self, sigmas: impl Into<Vec<f64>>) -> Self {
        self.sigmas = Some(sigmas.into());
        self
    }

    /// Text conditioning, as [`Text::encode`](crate::Text::encode) gives, instead of the prompt.
    pub fn prompt_embeds(mut self, embeds: &Buffer) -> Self {
        self.embeds = Some(embeds.clone());
        self
    }

    /// The same instead of the negative prompt.
    pub fn negative_embeds(mut self, embeds: &Buffer) -> Self {
        self.negative_embeds = Some(embeds.clone());
        self
    }

    /// Noise of your own instead of the seed's, `f32 [channels, frames, height, width]` in latents.
    pub fn noise(mut self, noise: &Buffer) -> Self {
        self.noise = Some(noise.clone());
        self
    }

    /// What the steps add, where the rule adds noise, `f32 [count, channels, frames, height, width]`: one for each step run
    /// that does not end at sigma 0.
    pub fn renoise(mut self, noise: &Buffer) -> Self {
        self.renoise = Some(noise.clone());
        self
    }

    /// Latents to begin with; [`JobOptions::strength`] tells how much is made anew.
    pub fn init_latents(mut self, latents: &Buffer) -> Self {
        self.init_latents = Some(latents.clone());
        self
    }

    /// Pictures to begin with, `u8 [frames, height, width, 3]`, which the job encodes.
    pub fn init_frames(mut self, frames: &Buffer) -> Self {
        self.init_frames = Some(frames.clone());
        self
    }

    /// With initial pictures or latents: what is bright is made anew, the rest stays.
    pub fn mask_frames(mut self, frames: &Buffer) -> Self {
        self.mask_frames = Some(frames.clone());
        self
    }

    /// 4k+1 pictures that the clip begins with.
    pub fn first_frames(mut self, frames: &Buffer) -> Self {
        self.first_frames = Some(frames.clone());
        self
    }

    /// The picture that the clip ends with.
    pub fn last_frame(mut self, picture: &Buffer) -> Self {
        self.last_frame = Some(picture.clone());
        self
    }

    /// Pictures are coded in tiles of at most this width and height, with the same bytes (near them with bf16 on a GPU) for
    /// less memory; the clip's frames then come all at once. Without it: where the memory limit asks for tiles, the largest
    /// that fit.
    pub fn tiles(mut self, width: Tile, height: Tile) -> Self {
        self.tile = (width, height);
        self
    }

    /// Latents to keep, where the mask is 1; without a mask fewer frames than the clip's, its first ones.
    pub fn known(mut self, latents: &Buffer, mask: Option<&Buffer>) -> Self {
        self.known_latents = Some(latents.clone());
        self.known_mask = mask.cloned();
        self
    }

    /// How the two predictions of guidance are computed.
    pub fn cfg_mode(mut self, mode: CfgMode) -> Self {
        self.cfg_mode = mode;
        self
    }

    /// How known latents are kept.
    pub fn known_mode(mut self, mode: KnownMode) -> Self {
        self.known_mode = mode;
        self
    }

    /// With initial pictures or latents: the share of the steps that is run, above 0 to 1.
    pub fn strength(mut self, strength: f64) -> Self {
        self.strength = Some(strength);
        self
    }

    /// Finished latents: the job only decodes these.
    pub fn latents(mut self, latents: &Buffer) -> Self {
        self.latents = Some(latents.clone());
        self
    }

    /// Goes on from [`Job::state`](crate::Job::state) of a job with these same options, and makes the very bytes that it would
    /// have made.
    pub fn resume(mut self, state: &Buffer) -> Self {
        self.state = Some(state.clone());
        self
    }

    /// Keeps a [`Job::state`](crate::Job::state) while the job samples, after every so many steps; 0 keeps one only where it ends
    /// early.
    pub fn state_every(mut self, steps: u32) -> Self {
        self.state_every = steps;
        self
    }

    /// Asks for [`Event::Preview`](crate::Event::Preview) after every so many steps; 0 is never.
    pub fn previews(mut self, every: u32) -> Self {
        self.previews = every;
        self
    }

    /// Whether the latents are decoded to frames; true unless set.
    pub fn decode(mut self, decode: bool) -> Self {
        self.decode = decode;
        self
    }

    /// A token that cancels the job, instead of one of the job's own.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    fn sampler(&self) -> Result<sys::imagine_sampler_options> {
        let mut raw = sys::imagine_sampler_options::initialized(sys::imagine_sampler_options_init);
        raw.width = int("width", self.width)?;
        raw.height = int("height", self.height)?;
        raw.frames = int("frames", self.frames)?;
        raw.steps = int("steps", self.steps)?;
        raw.seed = self.seed;
        raw.guidance = self.guidance.unwrap_or(raw.guidance);
        raw.guidance_2 = self.guidance_2.unwrap_or(raw.guidance_2);
        raw.guidance_rescale = self.guidance_rescale.unwrap_or(raw.guidance_rescale);
        if let Some((start, stop)) = self.guidance_interval {
            raw.guidance_start = start;
            raw.guidance_stop = stop;
        }
        raw.cfg_mode = self.cfg_mode.raw();
        raw.shift = self.shift.unwrap_or(raw.shift);
        raw.schedule = if self.sigmas.is_some() { sys::IMAGINE_SCHEDULE_SIGMAS } else { self.schedule.raw() };
        raw.step_rule = self.step_rule.raw();
        raw.eta = self.eta.unwrap_or(raw.eta);
        raw.strength = self.strength.unwrap_or(raw.strength);
        raw.known_mode = self.known_mode.raw();
        if let Some(sigmas) = &self.sigmas {
            if self.schedule != Schedule::Default {
                return Err(Error::invalid(
                    "sigmas: they take the place of a schedule; leave schedule at its default".to_owned(),
                ));
            }
            raw.sigmas = sigmas.as_ptr();
            raw.sigma_count = u32::try_from(sigmas.len()).map_err(|_| Error::invalid("sigmas: too many".to_owned()))?;
        }
        Ok(raw)
    }

    /// Lets `call` see the options in C, which live no longer than that, with `token` as the job's.
    pub(crate) fn with_raw<T>(
        &self,
        token: &CancelToken,
        call: impl FnOnce(&sys::imagine_job_options) -> Result<T>,
    ) -> Result<T> {
        let buffer = |buffer: &Option<Buffer>| buffer.as_ref().map_or(null_mut(), Buffer::raw);
        let prompt = text("prompt", &self.prompt)?;
        let negative: Option<CString> = self.negative.as_deref().map(|n| text("negative prompt", n)).transpose()?;
        let sampler = self.sampler()?;
        let mut raw = sys::imagine_job_options::initialized(sys::imagine_job_options_init);
        raw.prompt = prompt.as_ptr();
        raw.negative_prompt = negative.as_ref().map_or(null(), |n| n.as_ptr());
        raw.sampler = &sampler;
        raw.prompt_embeds = buffer(&self.embeds);
        raw.negative_embeds = buffer(&self.negative_embeds);
        raw.noise = buffer(&self.noise);
        raw.renoise = buffer(&self.renoise);
        raw.init_latents = buffer(&self.init_latents);
        raw.known_latents = buffer(&self.known_latents);
        raw.known_mask = buffer(&self.known_mask);
        raw.init_frames = buffer(&self.init_frames);
        raw.mask_frames = buffer(&self.mask_frames);
        raw.first_frames = buffer(&self.first_frames);
        raw.last_frame = buffer(&self.last_frame);
        (raw.tile_width, raw.tile_height) = (self.tile.0.raw(), self.tile.1.raw());
        raw.latents = buffer(&self.latents);
        raw.state = buffer(&self.state);
        raw.state_every = int("state_every", self.state_every)?;
        raw.cancel = token.0.raw();
        raw.decode = i32::from(self.decode);
        raw.events = [sys::IMAGINE_EVENT_STEP, sys::IMAGINE_EVENT_LATENTS, sys::IMAGINE_EVENT_FRAMES]
            .iter()
            .fold(0, |events, kind| events | 1 << kind);
        if self.previews > 0 {
            raw.events |= 1 << sys::IMAGINE_EVENT_PREVIEW;
            raw.preview_every = int("previews", self.previews)?;
        }
        call(&raw)
    }
}
