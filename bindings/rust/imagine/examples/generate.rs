// SPDX-License-Identifier: MIT
//! A prompt to a PNG: `cargo run --example generate -- <model folder> "<prompt>" <file.png> [seed]`.

use std::env;
use std::process::ExitCode;

use imagine::{save_picture, Event, Frames, JobOptions, Model};

fn generate(folder: &str, prompt: &str, file: &str, seed: u64) -> imagine::Result<()> {
    let model = Model::open(folder)?;
    let (mut rgb, mut width, mut height) = (Vec::new(), 0, 0);
    for event in model.job(&JobOptions::new(prompt).seed(seed))? {
        match event? {
            Event::Step { step, steps, seconds, .. } => eprintln!("step {} of {}, {:.1} s", step, steps, seconds),
            Event::Frames { frames, .. } => {
                (width, height) = (frames.width(), frames.height());
                rgb.extend_from_slice(frames.rgb());
            }
            _ => {}
        }
    }
    let frames = Frames::from_rgb(model.context(), rgb, width, height)?;
    save_picture(model.context(), file, &frames, model.info()?.frames_per_second)?;
    println!("{}: {} frames of {}x{}", file, frames.count(), frames.width(), frames.height());
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let seed = arguments.get(3).map_or(Ok(0), |seed| seed.parse());
    let done = match (arguments.as_slice(), seed) {
        ([folder, prompt, file] | [folder, prompt, file, _], Ok(seed)) => generate(folder, prompt, file, seed),
        _ => {
            eprintln!("usage: generate <model folder> \"<prompt>\" <file.png> [seed]");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = done {
        eprintln!("{}", error);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
