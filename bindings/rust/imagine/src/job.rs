// SPDX-License-Identifier: MIT
use std::fmt;
use std::os::unix::io::RawFd;
use std::time::Duration;

use imagine_sys as sys;

use crate::handle::{check, count, Handle, Owned, Plain};
use crate::{Buffer, CancelToken, Frames, JobOptions, Model, Result};

/// What a [`Job`] reports. Payloads are references to the library's memory, not copies, and may be kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A step of the sampler is done.
    Step {
        /// Steps done.
        step: u32,
        /// Steps in all.
        steps: u32,
        /// Of the latents now.
        sigma: f64,
        /// Since the job was started.
        seconds: f64,
    },
    /// The first frame of the estimate so far.
    Preview(Frames),
    /// Sampling is over: `f32 [channels, frames, height, width]`.
    Latents(Buffer),
    /// The next frames of the clip.
    Frames {
        /// The number of the first of them.
        first: usize,
        /// The pictures.
        frames: Frames,
    },
    /// The job succeeded: the last event. A job that failed or was cancelled ends with the error instead.
    Done {
        /// Frames of the whole clip.
        frames: usize,
    },
}

impl Event {
    /// The event with references of its own to the payload; None for a kind that this crate does not know.
    ///
    /// # Safety
    /// The payloads must be NULL or alive.
    unsafe fn from_raw(raw: &sys::imagine_event) -> Result<Option<Self>> {
        // SAFETY: this function's own contract.
        let (frames, latents) = unsafe { (Handle::retained(raw.frames), Handle::retained(raw.latents)) };
        let frames = frames.map(|handle| Buffer::new(handle).and_then(Frames::try_from)).transpose()?;
        let latents = latents.map(Buffer::new).transpose()?;
        let first = usize::try_from(raw.first_frame).unwrap_or(0);
        Ok(match (raw.kind, frames, latents) {
            (sys::IMAGINE_EVENT_STEP, ..) => {
                let (step, steps) = (count(raw.step), count(raw.steps));
                Some(Event::Step { step, steps, sigma: raw.sigma, seconds: raw.seconds })
            }
            (sys::IMAGINE_EVENT_PREVIEW, Some(frames), _) => Some(Event::Preview(frames)),
            (sys::IMAGINE_EVENT_LATENTS, _, Some(latents)) => Some(Event::Latents(latents)),
            (sys::IMAGINE_EVENT_FRAMES, Some(frames), _) => Some(Event::Frames { first, frames }),
            (sys::IMAGINE_EVENT_DONE, ..) => {
                Some(Event::Done { frames: usize::try_from(raw.frame_count).unwrap_or(0) })
            }
            _ => None,
        })
    }
}

/// What a [`Job`] is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobStage {
    /// Nothing: not begun yet, or over.
    Idle,
    /// Reading weights.
    Load,
    /// Encoding the prompt.
    Text,
    /// Taking steps.
    Sample,
    /// Decoding the latents.
    Decode,
    /// Encoding the pictures that it was given.
    Encode,
    /// One that this crate does not know.
    Other(i32),
}

/// How a [`Job`] was settled and what it has spent so far.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct JobInfo {
    /// At work now.
    pub stage: JobStage,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Length of the clip.
    pub frames: u32,
    /// Steps of the sampler.
    pub steps: u32,
    /// Scale of the guidance.
    pub guidance: f64,
    /// Seconds of reading weights.
    pub seconds_load: f64,
    /// Seconds of encoding the prompt.
    pub seconds_text: f64,
    /// Seconds of taking steps.
    pub seconds_sample: f64,
    /// Seconds of decoding.
    pub seconds_decode: f64,
    /// Encoding the pictures that it was given.
    pub seconds_encode: f64,
    /// Most bytes that the context held while the job ran.
    pub memory_peak: u64,
}

/// What a stage of a job needs of the context's memory, in bytes; all 0 for a stage that the job leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageEstimate {
    /// The most that the context will hold during the stage.
    pub peak: u64,
    /// Of these, the stage's weights.
    pub weights: u64,
    /// Of these, what the stage takes apart from weights: activations, latents, frames.
    pub work: u64,
}

/// What a job will need of the context's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Whether `peak` is within the context's limit.
    pub fits: bool,
    /// The most that the context will hold at once: what it holds now and what the job adds.
    pub peak: u64,
    /// What it holds now.
    pub held: u64,
    /// The context's limit; 0 is none.
    pub limit: u64,
    /// Whether weights are read block by block, to keep within the limit.
    pub streamed: bool,
    /// Whether the two predictions of guidance are computed one after the other, to keep within the limit.
    pub in_turn: bool,
    /// Whether weights are freed when their stage is done, to keep within the limit.
    pub gives_back: bool,
    /// Pixels along a side of the tiles that frames are decoded in, to keep within the limit; 0 is whole.
    pub tile: u32,
    /// Width, height and frames of the largest job like this one that fits, where it does not.
    pub nearest: Option<(u32, u32, u32)>,
    /// Encoding the prompt.
    pub text: StageEstimate,
    /// Taking steps.
    pub sample: StageEstimate,
    /// Decoding.
    pub decode: StageEstimate,
    /// Encoding the pictures that it is given.
    pub encode: StageEstimate,
}

impl Estimate {
    pub(crate) fn new(model: &Model, options: &JobOptions) -> Result<Self> {
        let token = CancelToken::new(model.context())?;
        let mut raw = sys::imagine_estimate::sized();
        options.with_raw(&token, |options| {
            // SAFETY: the model is alive and the options with all they point to live during the call; `raw` says its
            // own size.
            check(|error| unsafe { sys::imagine_job_estimate(model.handle.raw(), options, &mut raw, error) })
        })?;
        let stage = |number: sys::imagine_job_stage| {
            let of =
                |bytes: &[u64; 8]| usize::try_from(number).ok().and_then(|i: usize| bytes.get(i)).copied().unwrap_or(0);
            StageEstimate { peak: of(&raw.stage_peak), weights: of(&raw.stage_weights), work: of(&raw.stage_work) }
        };
        Ok(Estimate {
            fits: raw.fits != 0,
            peak: raw.peak_bytes,
            held: raw.held_bytes,
            limit: raw.limit_bytes,
            streamed: raw.streamed != 0,
            in_turn: raw.in_turn != 0,
            gives_back: raw.gives_back != 0,
            tile: count(raw.tile),
            nearest: Some((count(raw.nearest_width), count(raw.nearest_height), count(raw.nearest_frames)))
                .filter(|size| size.2 > 0),
            text: stage(sys::IMAGINE_JOB_TEXT),
            sample: stage(sys::IMAGINE_JOB_SAMPLE),
            decode: stage(sys::IMAGINE_JOB_DECODE),
            encode: stage(sys::IMAGINE_JOB_ENCODE),
        })
    }
}

/// One generation, prompt to frames, at work in the background: iterate over it for its events. Dropping it cancels
/// what is running and waits for its end, within 50 ms; on a GPU as [`CancelToken::cancel`] says.
///
/// A job may be sent to another thread and is used by one at a time; to cancel it from elsewhere there is
/// [`Job::cancel_token`].
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<imagine::Job>();
/// ```
pub struct Job {
    handle: Owned<sys::imagine_job>,
    token: CancelToken,
    over: bool,
}

impl Job {
    /// Checks the options against the model and starts.
    pub fn start(model: &Model, options: &JobOptions) -> Result<Self> {
        let token = match &options.cancel {
            Some(token) => token.clone(),
            None => CancelToken::new(model.context())?,
        };
        let handle = options.with_raw(&token, |raw| {
            // SAFETY: the model is alive and the options with all they point to live during the call.
            Owned::make(|job, error| unsafe { sys::imagine_job_create(job, model.handle.raw(), raw, error) })
        })?;
        Ok(Job { handle, token, over: false })
    }

    /// The next event that this crate knows; None after `nanoseconds`, which below 0 are for ever.
    fn wait(&mut self, nanoseconds: i64) -> Result<Option<Event>> {
        loop {
            let mut raw = sys::imagine_event::sized();
            // SAFETY: the job is alive and ours alone, `raw` says its own size.
            let status =
                check(|error| unsafe { sys::imagine_job_next(self.handle.raw(), &mut raw, nanoseconds, error) })?;
            if status == sys::IMAGINE_TIMEOUT {
                return Ok(None);
            }
            // SAFETY: the payload is alive until the next call on the job.
            let event = unsafe { Event::from_raw(&raw) }?;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// The next event, or None when there was none within `timeout`. After the last, [`Event::Done`] comes again; after
    /// a failure, the failure.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.wait(i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Waits for the end and gives the latents.
    pub fn finish(mut self) -> Result<Buffer> {
        for event in &mut self {
            event?;
        }
        self.latents()
    }

    /// Asks the job to stop and returns at once; iterating then ends with
    /// [`Error::Cancelled`](crate::Error::Cancelled). Other work that was given the same token goes on.
    pub fn cancel(&self) {
        // SAFETY: the job is alive.
        unsafe { sys::imagine_job_cancel(self.handle.raw()) }
    }

    /// The token that cancels this job from any thread: the one it was given, or its own.
    pub fn cancel_token(&self) -> CancelToken {
        self.token.clone()
    }

    /// The latents after the last whole step, also after a job that was cancelled or failed: nothing sampled is lost.
    /// [`Error::State`](crate::Error::State) before the first step is done. The memory is shared with the job, not a copy.
    pub fn latents(&self) -> Result<Buffer> {
        // SAFETY: the job is alive and, not being Sync, used by this thread alone.
        Buffer::make(|latents, error| unsafe { sys::imagine_job_get_latents(self.handle.raw(), latents, error) })
    }

    /// What a job that was cancelled or failed while it sampled can be gone on from, in this process or another:
    /// `u8 [bytes]` for [`JobOptions::resume`]. With [`JobOptions::state_every`] also while it samples.
    /// [`Error::State`](crate::Error::State) while it samples without, before the first step is done, and where sampling was
    /// over: then the latents are all there is.
    pub fn state(&self) -> Result<Buffer> {
        // SAFETY: as for latents.
        Buffer::make(|state, error| unsafe { sys::imagine_job_get_state(self.handle.raw(), state, error) })
    }

    /// How the job was settled and what it has spent so far.
    pub fn info(&self) -> Result<JobInfo> {
        let mut raw = sys::imagine_job_info::sized();
        // SAFETY: as for latents; `raw` says its own size.
        check(|error| unsafe { sys::imagine_job_get_info(self.handle.raw(), &mut raw, error) })?;
        let seconds =
            |stage| usize::try_from(stage).ok().and_then(|i: usize| raw.seconds.get(i)).copied().unwrap_or(0.0);
        Ok(JobInfo {
            stage: match raw.stage {
                0 => JobStage::Idle,
                sys::IMAGINE_JOB_LOAD => JobStage::Load,
                sys::IMAGINE_JOB_TEXT => JobStage::Text,
                sys::IMAGINE_JOB_SAMPLE => JobStage::Sample,
                sys::IMAGINE_JOB_DECODE => JobStage::Decode,
                sys::IMAGINE_JOB_ENCODE => JobStage::Encode,
                other => JobStage::Other(other),
            },
            width: count(raw.width),
            height: count(raw.height),
            frames: count(raw.frames),
            steps: count(raw.steps),
            guidance: raw.guidance,
            seconds_load: seconds(sys::IMAGINE_JOB_LOAD),
            seconds_text: seconds(sys::IMAGINE_JOB_TEXT),
            seconds_sample: seconds(sys::IMAGINE_JOB_SAMPLE),
            seconds_decode: seconds(sys::IMAGINE_JOB_DECODE),
            seconds_encode: seconds(sys::IMAGINE_JOB_ENCODE),
            memory_peak: raw.memory_peak,
        })
    }

    /// A descriptor to poll, readable while there is an event. It belongs to the job; never read or close it.
    pub fn event_fd(&self) -> Option<RawFd> {
        // SAFETY: the job is alive.
        Some(unsafe { sys::imagine_job_fd(self.handle.raw()) }).filter(|fd| *fd >= 0)
    }
}

/// All events up to and with [`Event::Done`], or the failure that ended the job; each is waited for.
impl Iterator for Job {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let event = self.wait(-1).transpose()?;
        self.over = matches!(event, Err(_) | Ok(Event::Done { .. }));
        Some(event)
    }
}

impl std::iter::FusedIterator for Job {}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.handle.raw()).finish()
    }
}
