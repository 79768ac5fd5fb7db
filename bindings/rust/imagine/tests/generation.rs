// SPDX-License-Identifier: MIT
//! The crate on the two-layer pack.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use imagine::{
    load_picture, save_picture, Buffer, CancelToken, CfgMode, Context, ContextOptions, CpuLevel, Dtype, Error, Event,
    Frames, Job, JobOptions, JobStage, KnownMode, LogLevel, Model, Schedule, StepRule, Text, Tile, Vae, Weights,
};

fn pack() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/packs/two-layer")
}

fn model() -> Model {
    Model::open(pack()).unwrap()
}

fn options() -> JobOptions {
    JobOptions::new("a b c").seed(5).steps(3)
}

/// Work that is not done before a test has stopped it, however busy the machine is.
fn long() -> JobOptions {
    JobOptions::new("a").size(96, 96).frames(9).steps(1000)
}

/// A file of this test alone, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Scratch(std::env::temp_dir().join(format!("imagine-rust-{}-{}", std::process::id(), name)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn version_and_info() {
    assert_eq!(imagine::version().split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3);
    let info = model().info().unwrap();
    assert!(info.has_text && info.has_sampler && info.has_vae);
    assert_eq!((info.width, info.height, info.frames, info.steps), (32, 32, 5, 4));
    assert_eq!((info.guidance, info.frames_per_second, info.text_length), (3.0, 8.0, 24));
    assert!(info.bytes > 0 && info.parameters_vae > 0 && info.layers == 2);
}

#[test]
fn estimates() {
    let model = model();
    let small = model.estimate(&options()).unwrap();
    let large = model.estimate(&options().size(64, 64)).unwrap();
    assert!(small.fits && small.limit == 0 && small.held > 0 && small.held < small.peak);
    assert_eq!(small.peak, small.text.peak.max(small.sample.peak).max(small.decode.peak));
    assert!(large.peak > small.peak && large.decode.work > small.decode.work);
    assert_eq!(large.decode.weights, small.decode.weights);
    let mut job = model.job(&options()).unwrap();
    while let Some(event) = job.next() {
        event.unwrap();
    }
    assert!(job.info().unwrap().memory_peak <= small.peak);
}

#[test]
fn weights_and_limits() {
    let whole = model().generate(&options()).unwrap();
    let streamed = Model::open_with(&Context::new().unwrap(), pack(), Weights::Streamed).unwrap();
    assert!(streamed.estimate(&options()).unwrap().streamed);
    assert_eq!(streamed.generate(&options()).unwrap().rgb(), whole.rgb());
    let in_turn = options().guidance(3.0).cfg_mode(CfgMode::InTurn);
    let batched = in_turn.clone().cfg_mode(CfgMode::Batched);
    assert!(streamed.estimate(&in_turn).unwrap().sample.work < streamed.estimate(&batched).unwrap().sample.work);
    assert_eq!(streamed.generate(&in_turn).unwrap().rgb(), streamed.generate(&batched).unwrap().rgb());
    let limited = Context::with(&ContextOptions::new().threads(1).memory_limit(4_000_000)).unwrap();
    let model = Model::open_in(&limited, pack()).unwrap();
    let large = options().size(512, 512);
    let told = model.estimate(&large).unwrap();
    assert!(!told.fits && told.limit == 4_000_000 && told.peak > told.limit);
    assert!(told.in_turn && told.gives_back && told.tile > 0);
    let (width, height, frames) = told.nearest.unwrap();
    let error = model.job(&large).unwrap_err();
    assert!(error.to_string().contains(&format!("{}x{} with {} frame", width, height, frames)), "{}", error);
    let job = model.job(&options().size(width, height).frames(frames)).unwrap();
    assert!(job.finish().is_ok());
}

#[test]
fn generate_keeps_within_what_estimate_tells() {
    let size = options().size(96, 96).frames(33).steps(1);
    let alone = ContextOptions::new().threads(1);
    let free = Model::open_in(&Context::with(&alone).unwrap(), pack()).unwrap();
    let whole = free.generate(&size).unwrap();
    assert_eq!(whole.shape(), [33, 96, 96, 3]);
    free.context().reset_peak();
    let tiles = size.clone().tiles(Tile::Pixels(16), Tile::Pixels(16));
    assert_eq!(free.generate(&tiles).unwrap().rgb(), whole.rgb());
    let (told, tiled) = (free.estimate(&size).unwrap(), free.context().info().unwrap().memory_peak);
    assert!(tiled < told.decode.peak, "{} {}", tiled, told.decode.peak);
    for limit in [told.peak, told.peak / 5 * 4] {
        let context = Context::with(&alone.memory_limit(limit)).unwrap();
        let model = Model::open_in(&context, pack()).unwrap();
        let told = model.estimate(&size).unwrap();
        assert!(told.fits);
        assert_eq!(model.generate(&size).unwrap().rgb(), whole.rgb());
        assert!(context.info().unwrap().memory_peak <= told.peak);
    }
}

#[test]
fn generate_gives_frames() {
    let frames = model().generate(&options()).unwrap();
    assert_eq!(frames.shape(), [5, 32, 32, 3]);
    assert_eq!((frames.count(), frames.height(), frames.width()), (5, 32, 32));
    assert_eq!(frames.rgb().len(), 5 * 32 * 32 * 3);
    assert!(frames.rgb().iter().any(|value| *value != frames.rgb()[0]));
    assert_eq!(frames.frame(4).unwrap(), &frames.rgb()[4 * 32 * 32 * 3..]);
    assert!(frames.frame(5).is_none() && frames.frame(usize::MAX).is_none());
}

#[test]
fn same_seed_same_bytes() {
    let context = Context::with(&ContextOptions::new().threads(1)).unwrap();
    let first = model().generate(&options()).unwrap();
    let second = Model::open_in(&context, pack()).unwrap().generate(&options()).unwrap();
    assert_eq!(first.rgb(), second.rgb());
    assert_ne!(first.rgb(), model().generate(&options().seed(6)).unwrap().rgb());
    assert_ne!(first.rgb(), model().generate(&options().guidance(1.0)).unwrap().rgb());
    assert_ne!(first.rgb(), model().generate(&options().negative("c b a")).unwrap().rgb());
}

#[test]
fn sizes_are_obeyed() {
    let picture = model().generate(&options().size(48, 16).frames(1)).unwrap();
    assert_eq!(picture.shape(), [1, 16, 48, 3]);
}

#[test]
fn events_and_pieces() {
    let model = model();
    let whole = model.generate(&options()).unwrap();
    let (mut steps, mut previews, mut latents, mut pieces, mut end) = (Vec::new(), 0, None, Vec::new(), None);
    let mut job = model.job(&options().previews(1)).unwrap();
    for event in &mut job {
        assert!(end.is_none());
        match event.unwrap() {
            Event::Step { step, steps: of, sigma, seconds } => {
                assert!(of == 3 && sigma < 1.0 && seconds >= 0.0);
                steps.push(step);
            }
            Event::Preview(frames) => {
                assert_eq!(frames.shape(), [1, 32, 32, 3]);
                previews += 1;
            }
            Event::Latents(buffer) => latents = Some(buffer),
            Event::Frames { first, frames } => {
                assert_eq!(first, pieces.iter().map(Frames::count).sum::<usize>());
                pieces.push(frames);
            }
            Event::Done { frames } => end = Some(frames),
            other => panic!("{:?}", other),
        }
    }
    assert_eq!(end, Some(5));
    assert_eq!(steps.last(), Some(&3));
    assert!(previews > 0 && pieces.len() > 1);
    assert!(job.next().is_none());
    assert!(matches!(job.next_timeout(Duration::ZERO), Ok(Some(Event::Done { frames: 5 }))));

    // Pieces are the whole decode, to the byte, and so are pieces decoded by the stage alone.
    let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece.rgb().iter().copied()).collect();
    assert_eq!(joined, whole.rgb());
    let latents = latents.unwrap();
    assert_eq!(latents.as_slice::<f32>().unwrap(), job.latents().unwrap().as_slice::<f32>().unwrap());
    let mut vae = Vae::new(&model).unwrap();
    assert_eq!(vae.decode(&latents).unwrap().rgb(), whole.rgb());
    let again = model.job(&JobOptions::new("").latents(&latents)).unwrap();
    let decoded: Vec<u8> = again
        .filter_map(|event| match event.unwrap() {
            Event::Frames { frames, .. } => Some(frames.rgb().to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(decoded, whole.rgb());
    assert_eq!(model.generate(&JobOptions::new("").latents(&latents)).unwrap().rgb(), whole.rgb());
    let tiled = JobOptions::new("").latents(&latents).tiles(Tile::Pixels(8), Tile::Whole);
    assert_eq!(model.generate(&tiled).unwrap().rgb(), whole.rgb());

    let info = job.info().unwrap();
    assert_eq!((info.width, info.height, info.frames, info.steps, info.guidance), (32, 32, 5, 3, 3.0));
    assert!(info.seconds_sample > 0.0 && info.seconds_decode > 0.0 && info.memory_peak > 0);
    assert_eq!(info.stage, JobStage::Idle);
}

#[test]
fn clips_in_pieces() {
    let model = model();
    let job = model.job(&options().decode(false)).unwrap();
    let latents = job.finish().unwrap();
    let (values, shape) = (latents.as_slice::<f32>().unwrap(), latents.shape());
    let (count, plane) = (shape[1], shape[2] * shape[3]);
    let mut vae = Vae::new(&model).unwrap();
    let whole = vae.decode(&latents).unwrap();
    for _ in 0..2 {
        let mut joined = Vec::new();
        for k in 0..count {
            let frame = (0..shape[0]).flat_map(|c| &values[(c * count + k) * plane..(c * count + k + 1) * plane]);
            let piece: Vec<f32> = frame.copied().collect();
            let piece = Buffer::from_vec(model.context(), piece, &[shape[0], 1, shape[2], shape[3]]).unwrap();
            joined.extend_from_slice(vae.decode_next(&piece).unwrap().rgb());
        }
        assert_eq!(joined, whole.rgb());
        vae.reset();
    }
    let floats = vae.decode_f32(&latents).unwrap();
    assert_eq!(floats.shape(), [3, 5, 32, 32]);
    assert!(floats.as_slice::<f32>().unwrap().iter().all(|value| (-1.0..=1.0).contains(value)));
    let encoded = vae.encode(&whole).unwrap();
    assert_eq!(encoded.shape(), shape);
    let bytes = |from, to: usize| {
        let piece = whole.rgb()[from * 32 * 32 * 3..to * 32 * 32 * 3].to_vec();
        Buffer::from_vec(model.context(), piece, &[to - from, 32, 32, 3]).unwrap()
    };
    let pieces = [vae.encode_next(&bytes(0, 1)).unwrap(), vae.encode_next(&bytes(1, 5)).unwrap()];
    for (k, piece) in pieces.iter().enumerate() {
        let of_whole = (0..shape[0])
            .flat_map(|c| &encoded.as_slice::<f32>().unwrap()[(c * count + k) * plane..(c * count + k + 1) * plane]);
        assert!(piece.as_slice::<f32>().unwrap().iter().eq(of_whole));
    }
    assert!(matches!(vae.encode_next(&bytes(0, 1)), Err(Error::InvalidArgument(_))));
    vae.reset();
    let peak = |side| model.estimate(&JobOptions::new("a").size(256, 256).tiles(side, side)).unwrap().decode.peak;
    assert!(peak(Tile::Pixels(0)) == peak(Tile::Pixels(1)) && peak(Tile::Pixels(0)) < peak(Tile::Whole));
    for tile in [Tile::Pixels(8), Tile::Auto, Tile::Whole] {
        let mut tiled = Vae::in_tiles(&model, tile, Tile::Pixels(24)).unwrap();
        assert_eq!(tiled.decode(&latents).unwrap().rgb(), whole.rgb());
        assert_eq!(tiled.encode(&whole).unwrap().as_slice::<f32>().unwrap(), encoded.as_slice::<f32>().unwrap());
    }
    let token = CancelToken::new(model.context()).unwrap();
    let mut tiled = Vae::in_tiles_with_cancel(&model, Tile::Pixels(8), Tile::Whole, &token).unwrap();
    token.cancel();
    assert!(matches!(tiled.decode(&latents), Err(Error::Cancelled(_))));
}

fn latents(model: &Model, options: JobOptions) -> Vec<f32> {
    let mut job = model.job(&options.decode(false)).unwrap();
    for event in &mut job {
        event.unwrap();
    }
    let made = job.latents().unwrap();
    made.as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn pictures_to_begin_with_and_to_keep() {
    let model = model();
    let mut vae = Vae::new(&model).unwrap();
    let values: Vec<u8> = (0..9 * 32 * 32 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let clip = Buffer::from_slice(model.context(), &values, &[9, 32, 32, 3]).unwrap();
    let first = Buffer::from_slice(model.context(), &values[..32 * 32 * 3], &[1, 32, 32, 3]).unwrap();
    let known = vae.encode(&clip).unwrap();
    let encoded = known.as_slice::<f32>().unwrap();
    let base = || JobOptions::new("a").frames(9);
    let begun = latents(&model, base().first_frames(&first).known_mode(KnownMode::Clean));
    let area = 16;
    for channel in 0..16 {
        let at = channel * 3 * area;
        assert_eq!(begun[at..at + area], encoded[at..at + area]);
        assert_ne!(begun[at + area..at + 2 * area], encoded[at + area..at + 2 * area]);
    }
    let mask = Buffer::from_slice(model.context(), &[0f32, 1.0, 1.0], &[3]).unwrap();
    let kept = latents(&model, base().known(&known, Some(&mask)));
    assert!((0..kept.len()).all(|i| (kept[i] == encoded[i]) == (i / area % 3 > 0)));
    let weak = latents(&model, base().init_frames(&clip).strength(0.25));
    assert_eq!(weak, latents(&model, base().init_latents(&known).strength(0.25)));
    assert_ne!(weak, latents(&model, base().init_latents(&known).strength(0.5)));
    let bright = Buffer::from_slice(model.context(), &[255u8; 32 * 32], &[32, 32, 1]).unwrap();
    let anew = latents(&model, base().init_frames(&clip).mask_frames(&bright).last_frame(&first));
    assert!(anew[..area] != encoded[..area]);
    assert!(model.job(&base().strength(0.5)).is_err());
}

#[test]
fn schedules_and_guidance() {
    let model = model();
    let runs = [
        options(),
        options().schedule(Schedule::Rcm),
        options().step_rule(StepRule::Heun),
        options().step_rule(StepRule::Ancestral).eta(0.5),
        options().guidance_rescale(0.7),
        options().guidance_interval(0.0, 0.5),
    ];
    let made: Vec<_> = runs.into_iter().map(|run| latents(&model, run)).collect();
    for (i, one) in made.iter().enumerate() {
        assert!(made[..i].iter().all(|other| other != one));
    }
}

#[test]
fn text_noise_and_sigmas_from_outside() {
    let model = model();
    let mut text = Text::new(&model).unwrap();
    let (ids, embeds) = text.encode("a b c").unwrap();
    assert_eq!(ids.dtype(), Dtype::I32);
    assert_eq!(embeds.shape(), [ids.shape()[0], model.info().unwrap().text_dim as usize]);
    let tokens = text.tokenize("a b c", None).unwrap();
    assert_eq!(tokens.as_slice::<i32>().unwrap(), ids.as_slice::<i32>().unwrap());
    assert_eq!(text.tokenize("a b c", Some(2)).unwrap().shape(), [2]);
    assert_eq!(model.tokenize("a b c", None).unwrap().as_slice::<i32>().unwrap(), ids.as_slice::<i32>().unwrap());
    assert_eq!(model.tokenize("a b c", Some(2)).unwrap().shape(), [2]);
    assert!(model.tokenize("a\0b", None).is_err());
    let token = CancelToken::new(model.context()).unwrap();
    token.cancel();
    assert!(model.tokenize_with_cancel("a b c", None, &token).is_err());

    let (_, empty) = text.encode("").unwrap();
    let given = JobOptions::new("").seed(5).steps(3).prompt_embeds(&embeds).negative_embeds(&empty);
    assert_eq!(model.generate(&given).unwrap().rgb(), model.generate(&options()).unwrap().rgb());

    let shape = model.job(&options()).unwrap().finish().unwrap().shape().to_vec();
    let noise: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.7).sin() * 1.4).collect();
    let noise = Buffer::from_slice(model.context(), &noise, &shape).unwrap();
    let given = JobOptions::new("a").noise(&noise).sigmas([1.0, 0.5, 0.0]);
    let first = model.generate(&given.clone().seed(1)).unwrap();
    assert_eq!(first.rgb(), model.generate(&given.clone().seed(2)).unwrap().rgb());
    assert_ne!(first.rgb(), model.generate(&given.sigmas([1.0, 0.7, 0.0])).unwrap().rgb());
    let euler = model.generate(&options().schedule(Schedule::Flow).step_rule(StepRule::Euler).shift(5.0)).unwrap();
    let unipc = model.generate(&options().schedule(Schedule::WanUnipc).step_rule(StepRule::Unipc).shift(5.0)).unwrap();
    assert_ne!(euler.rgb(), unipc.rgb());
}

#[test]
fn cancel_from_another_thread() {
    let model = model();
    let mut job = model.job(&long()).unwrap();
    let token = job.cancel_token();
    let firing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        token.cancel();
    });
    let last = job.by_ref().last().unwrap();
    firing.join().unwrap();
    let error = last.unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{:?}", error);
    assert_eq!((error.status(), error.name()), (-3, "ERROR_CANCELLED"));
    assert!(job.cancel_token().is_cancelled());
    assert!(job.next().is_none());
    assert!(matches!(job.next_timeout(Duration::ZERO), Err(Error::Cancelled(_))));
}

#[test]
fn one_token_for_many() {
    let model = model();
    let token = CancelToken::new(model.context()).unwrap();
    let stopped = long().cancel(&token);
    let mut jobs: Vec<Job> = (0..2).map(|_| model.job(&stopped).unwrap()).collect();
    let mut alone = model.job(&options()).unwrap();
    token.clone().cancel();
    for job in &mut jobs {
        assert!(matches!(job.last().unwrap(), Err(Error::Cancelled(_))));
    }
    assert!(matches!(alone.by_ref().last(), Some(Ok(Event::Done { frames: 5 }))));
    assert!(matches!(model.generate(&options().cancel(&token)), Err(Error::Cancelled(_))));
    let latents = alone.latents().unwrap();
    let cancelled = Vae::with_cancel(&model, &token).and_then(|mut vae| vae.decode(&latents));
    assert!(matches!(cancelled, Err(Error::Cancelled(_))));
    let cancelled = Text::with_cancel(&model, &token).and_then(|mut text| text.encode("a"));
    assert!(matches!(cancelled, Err(Error::Cancelled(_))));
}

#[test]
fn cancel_on_the_own_thread_keeps_the_latents() {
    let mut job = model().job(&long()).unwrap();
    assert!(matches!(job.next(), Some(Ok(Event::Step { .. }))));
    job.cancel();
    assert!(matches!(job.by_ref().last(), Some(Err(Error::Cancelled(_)))));
    assert!(job.latents().unwrap().as_slice::<f32>().unwrap().iter().all(|value| value.is_finite()));
}

/// In another process: through bytes, and with another context and model.
#[test]
fn cancelled_jobs_are_gone_on_with() {
    let options = options().size(96, 96).steps(60).schedule(Schedule::WanUnipc).decode(false);
    let expected = model().job(&options).unwrap().finish().unwrap();
    let mut job = model().job(&options.clone().previews(1)).unwrap(); // which make a step take its time
    assert!(matches!(job.state(), Err(Error::State(_))));
    // A program that is late is told of a later step, after the preview of an earlier one.
    assert!(matches!(job.next(), Some(Ok(Event::Step { .. } | Event::Preview { .. }))));
    job.cancel();
    assert!(matches!(job.by_ref().last(), Some(Err(Error::Cancelled(_)))));
    let bytes = job.state().unwrap().as_bytes().to_vec();
    let model = model();
    let state = Buffer::from_slice(model.context(), &bytes, &[bytes.len()]).unwrap();
    let found = model.job(&options.clone().resume(&state)).unwrap().finish().unwrap();
    assert_eq!(found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
    let other = model.job(&options.seed(1).resume(&state)).unwrap_err();
    assert!(matches!(&other, Error::InvalidArgument(_)) && other.to_string().contains("seed"), "{:?}", other);
}

#[test]
fn running_jobs_keep_states() {
    let options = options().size(96, 96).steps(60).schedule(Schedule::WanUnipc).decode(false);
    let model = model();
    let (state, expected) = loop {
        let mut job = model.job(&options.clone().previews(1).state_every(20)).unwrap();
        let mut state = None;
        while let Some(event) = job.next() {
            event.unwrap();
            state = job.state().ok().or(state);
        }
        if let Some(state) = state {
            break (state, job.latents().unwrap()); // a busy machine may ask too late
        }
    };
    let found = model.job(&options.resume(&state)).unwrap().finish().unwrap();
    assert_eq!(found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
}

#[test]
fn drop_while_running() {
    let context = Context::new().unwrap();
    let empty = context.info().unwrap().memory_used;
    for wait in [0, 5, 30] {
        let model = Model::open_in(&context, pack()).unwrap();
        let job = model.job(&long()).unwrap();
        thread::sleep(Duration::from_millis(wait));
        let begin = Instant::now();
        drop(job);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    assert_eq!(context.info().unwrap().memory_used, empty);
}

#[test]
fn timeouts() {
    let mut job = model().job(&long()).unwrap();
    while job.next_timeout(Duration::ZERO).unwrap().is_some() {}
    assert!(job.event_fd().is_some());
    assert!(matches!(job.next_timeout(Duration::MAX), Ok(Some(Event::Step { .. }))));
}

#[test]
fn jobs_move_and_models_are_shared() {
    let model = model();
    let expected = model.generate(&options()).unwrap();
    let job = model.job(&options().decode(false)).unwrap();
    let moved = thread::spawn(move || job.finish()).join().unwrap().unwrap();
    assert_eq!(Vae::new(&model).unwrap().decode(&moved).unwrap().rgb(), expected.rgb());
    thread::scope(|scope| {
        let running: Vec<_> = (0..3).map(|_| scope.spawn(|| model.generate(&options()).unwrap())).collect();
        for thread in running {
            assert_eq!(thread.join().unwrap().rgb(), expected.rgb());
        }
    });
}

#[test]
fn buffers_outlive_everything_and_are_not_copied() {
    let context = Context::new().unwrap();
    let empty = context.info().unwrap().memory_used;
    let model = Model::open_in(&context, pack()).unwrap();
    let mut job = model.job(&options()).unwrap();
    let frames = job
        .find_map(|event| match event.unwrap() {
            Event::Frames { frames, .. } => Some(frames),
            _ => None,
        })
        .unwrap();
    let (copy, clone) = (frames.rgb().to_vec(), frames.clone());
    assert_eq!(clone.rgb().as_ptr(), frames.rgb().as_ptr());
    drop((job, model));
    assert_eq!(frames.rgb(), copy);
    drop(frames);
    let clone = thread::spawn(move || clone).join().unwrap();
    assert_eq!(clone.rgb(), copy);
    assert!(context.info().unwrap().memory_used > empty);
    drop(clone);
    assert_eq!(context.info().unwrap().memory_used, empty);
}

#[test]
fn buffers_from_values() {
    let context = Context::new().unwrap();
    let values = vec![1.5f64, -2.0, 0.25, 8.0, 9.0, 10.0];
    let at = values.as_ptr();
    let wrapped = Buffer::from_vec(&context, values, &[2, 3]).unwrap();
    assert_eq!(wrapped.as_slice::<f64>().unwrap().as_ptr(), at);
    let copied = Buffer::from_slice(&context, wrapped.as_slice::<f64>().unwrap(), &[3, 2]).unwrap();
    assert_eq!(copied.as_bytes(), wrapped.as_bytes());
    assert_eq!((copied.dtype(), copied.shape()), (Dtype::F64, &[3, 2][..]));
    assert_eq!(format!("{:?}", copied), "Buffer { dtype: F64, shape: [3, 2] }");
    let none = Buffer::from_vec(&context, Vec::<i64>::new(), &[0, 4]).unwrap();
    assert_eq!((none.as_slice::<i64>().unwrap().len(), none.shape()), (0, &[0, 4][..]));
    let one = Buffer::from_slice(&context, &[7i32], &[]).unwrap();
    assert_eq!((one.as_slice::<i32>().unwrap(), one.shape()), (&[7][..], &[][..]));

    for wrong in [&[5][..], &[2, 2], &[usize::MAX, 2], &[2, 3, 0]] {
        assert!(matches!(Buffer::from_slice(&context, &[1u8; 6], wrong), Err(Error::InvalidArgument(_))));
        assert!(matches!(Buffer::from_vec(&context, vec![1u8; 6], wrong), Err(Error::InvalidArgument(_))));
    }
    assert!(matches!(Buffer::from_vec(&context, vec![1u8], &[1; 9]), Err(Error::InvalidArgument(_))));
    let error = wrapped.as_slice::<f32>().unwrap_err();
    assert!(error.message().contains("F32") && error.message().contains("F64"), "{}", error);
    assert!(matches!(Frames::try_from(wrapped), Err(Error::InvalidArgument(_))));
    assert!(matches!(Frames::from_rgb(&context, vec![0; 7], 1, 1), Err(Error::InvalidArgument(_))));
    assert!(matches!(Frames::from_rgb(&context, vec![0; 7], usize::MAX, 2), Err(Error::InvalidArgument(_))));
    assert!(matches!(Frames::from_rgb(&context, vec![], 0, 2), Err(Error::InvalidArgument(_))));
}

#[test]
fn tensors_in_files() {
    let context = Context::new().unwrap();
    let file = Scratch::new("tensors.safetensors");
    let first = Buffer::from_slice(&context, &[1.0f32, 2.0], &[2]).unwrap();
    let second = Buffer::from_slice(&context, &[3i64], &[1, 1]).unwrap();
    Buffer::save(&context, &file.0, &[("first", &first), ("second", &second)]).unwrap();
    let read = Buffer::load(&context, &file.0, Some("second")).unwrap();
    assert_eq!((read.as_slice::<i64>().unwrap(), read.shape()), (&[3][..], &[1, 1][..]));
    assert!(matches!(Buffer::load(&context, &file.0, Some("third")), Err(Error::NotFound(_))));
}

#[test]
fn pictures() {
    let model = model();
    let frames = model.generate(&options()).unwrap();
    let file = Scratch::new("clip.png");
    save_picture(model.context(), &file.0, &frames, 8.0).unwrap();
    assert_eq!(std::fs::read(&file.0).unwrap()[..8], *b"\x89PNG\r\n\x1a\n");
    let read = load_picture(model.context(), &file.0).unwrap();
    assert_eq!((read.shape(), read.rgb()), (frames.shape(), frames.rgb()));
    let error = save_picture(model.context(), "no/such/folder/x.png", &frames, 8.0).unwrap_err();
    assert!(matches!(error, Error::Io(_) | Error::NotFound(_)), "{:?}", error);
    assert!(error.message().contains("no/such/folder") && error.native_code() != 0, "{:?}", error);
    assert!(matches!(save_picture(model.context(), &file.0, &frames, f64::NAN), Err(Error::InvalidArgument(_))));
}

#[test]
fn errors_are_typed_and_name_what_they_should() {
    let error = Model::open("no-such-model").unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{:?}", error);
    assert!(error.message().contains("no-such-model"), "{}", error);
    assert_eq!((error.status(), error.name()), (-21, "ERROR_NOT_FOUND"));
    let shown: Box<dyn std::error::Error> = Box::new(error.clone());
    assert_eq!(shown.to_string(), format!("{} (ERROR_NOT_FOUND)", error.message()));

    let model = model();
    let invalid = |options: JobOptions, names: &str| {
        let error = model.job(&options).and_then(Job::finish).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{:?}", error);
        assert!(error.message().contains(names), "{} does not name {}", error, names);
    };
    invalid(options().frames(6), "frames");
    invalid(options().size(3, 32), "width");
    invalid(options().size(u32::MAX, 32), "width");
    invalid(options().steps(u32::MAX), "steps");
    invalid(options().steps(1001), "steps");
    invalid(options().guidance(f64::NAN), "guidance");
    invalid(JobOptions::new("a\0b"), "prompt");
    invalid(options().negative("\0"), "negative");
    invalid(options().steps(0).sigmas([]), "sigma");
    invalid(options().steps(0).sigmas([0.5, 0.9]), "sigma");
    invalid(options().steps(0).sigmas([1.0, 0.0]).schedule(Schedule::Flow), "schedule");
    invalid(options().steps(0).sigmas([1.0, 0.0]).shift(3.0), "shift");
    invalid(options().previews(u32::MAX), "preview");
    let wrong = Buffer::from_slice(model.context(), &[0.0f32; 4], &[2, 2]).unwrap();
    invalid(options().noise(&wrong), "noise");
    invalid(options().latents(&wrong), "latents");
    assert!(matches!(Vae::new(&model).unwrap().decode(&wrong), Err(Error::InvalidArgument(_))));
    assert!(matches!(Model::open("a\0b"), Err(Error::InvalidArgument(_))));
    assert!(matches!(Text::new(&model).unwrap().encode("\0"), Err(Error::InvalidArgument(_))));
}

#[test]
fn contexts() {
    let plain = ContextOptions::new().threads(2).cpu_level(CpuLevel::Plain);
    let context = Context::with(&plain).unwrap();
    let info = context.info().unwrap();
    assert_eq!((info.threads, info.cpu_level), (2, CpuLevel::Plain));
    let held = Buffer::from_slice(&context, &[0u8; 1 << 20], &[1 << 20]).unwrap();
    assert!(context.info().unwrap().memory_used >= info.memory_used + (1 << 20));
    drop(held);
    let peak = context.info().unwrap().memory_peak;
    assert!(peak >= 1 << 20);
    context.reset_peak();
    assert!(context.info().unwrap().memory_peak <= peak - (1 << 20));
    assert!(matches!(Context::with(&ContextOptions::new().threads(1000)), Err(Error::InvalidArgument(_))));

    // A limit that leaves room for the context itself and little more.
    let alone = ContextOptions::new().threads(1);
    let limit = Context::with(&alone).unwrap().info().unwrap().memory_used + (1 << 16);
    let tight = Context::with(&alone.memory_limit(limit)).unwrap();
    let full = Model::open_in(&tight, pack()).and_then(|model| model.generate(&options()));
    assert!(matches!(full, Err(Error::NoMemory(_))), "{:?}", full);
}

#[test]
fn what_the_library_logs() {
    static LINES: std::sync::Mutex<Vec<(LogLevel, String)>> = std::sync::Mutex::new(Vec::new());
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("nor does this");
        }
    }
    fn log(level: LogLevel, line: &str) {
        LINES.lock().unwrap().push((level, line.to_string()));
        std::panic::panic_any(Bomb); // which goes no further
    }
    let folder = std::env::temp_dir().join(format!("imagine-log-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("scheduler")).unwrap();
    std::os::unix::fs::symlink(std::fs::canonicalize(pack()).unwrap().join("vae"), folder.join("vae")).unwrap();
    std::fs::write(folder.join("scheduler/scheduler_config.json"), r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
    let context = Context::with(&ContextOptions::new().threads(1).log(LogLevel::Warning, log)).unwrap();
    let opened = Model::open_in(&context, &folder);
    std::fs::remove_dir_all(&folder).unwrap();
    opened.unwrap();
    let lines = LINES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert!(lines.len() == 1 && lines[0].0 == LogLevel::Warning && lines[0].1.contains("DDIMScheduler"), "{:?}", lines);
}

#[test]
fn tensors_for_other_libraries() {
    let context = Context::new().unwrap();
    let buffer = Buffer::from_vec(&context, vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).unwrap();
    let address = buffer.as_bytes().as_ptr();
    let tensor = buffer.to_dlpack().unwrap();
    drop(buffer);
    // SAFETY: the tensor was made above, is given away here, and nobody writes into it.
    let back = unsafe { Buffer::from_dlpack(&context, tensor) }.unwrap();
    assert_eq!(back.as_bytes().as_ptr(), address);
    assert_eq!((back.shape(), back.as_slice::<f32>().unwrap()[5]), (&[2usize, 3][..], 6.0));
    // SAFETY: NULL is refused.
    assert!(unsafe { Buffer::from_dlpack(&context, std::ptr::null_mut()) }.is_err());
}
