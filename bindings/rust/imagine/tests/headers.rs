// SPDX-License-Identifier: MIT
//! imagine-sys against include/imagine: functions with their arguments, constants, and the layout of every struct as a
//! C compiler says.

use std::collections::BTreeMap;
use std::mem::{size_of, MaybeUninit};
use std::os::raw::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;

use imagine_sys as sys;

const DECLARED: &str = include_str!("../../imagine-sys/src/lib.rs");

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../include")
}

/// The text of all headers without comments; None, with a message, outside the source tree.
fn headers() -> Option<String> {
    let folder = include().join("imagine");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(_) => {
            eprintln!("skipped: no headers in {}", folder.display());
            return None;
        }
    };
    let mut text = String::new();
    for entry in entries {
        text += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    let mut bare = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        bare += before;
        rest = after.split_once("*/").unwrap().1;
    }
    Some(bare + rest)
}

/// What a C program with these lines in main prints; None, with a message, where there is no C compiler.
fn c_prints(name: &str, lines: &str) -> Option<String> {
    let program = std::env::temp_dir().join(format!("imagine-rust-{}-{}", name, std::process::id()));
    let source = program.with_extension("c");
    let kind = "#define KIND(x) _Generic((x), int32_t: \"i32\", uint32_t: \"u32\", int64_t: \"i64\", \
                uint64_t: \"u64\", double: \"f64\", default: \"pointer\")\n";
    let head = "#include <stddef.h>\n#include <stdio.h>\n#include <imagine/imagine.h>\n";
    std::fs::write(&source, format!("{}{}int main(void) {{\n{}return 0; }}\n", head, kind, lines)).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(compiler).arg("-I").arg(include()).arg(&source).arg("-o").arg(&program).output();
    let _ = std::fs::remove_file(&source);
    let built = match built {
        Ok(built) => built,
        Err(_) => {
            eprintln!("skipped: no C compiler");
            return None;
        }
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let done = Command::new(&program).output().unwrap();
    std::fs::remove_file(&program).unwrap();
    Some(String::from_utf8(done.stdout).unwrap())
}

/// A type of C as imagine-sys writes it.
fn rust_type(c: &str) -> String {
    let spaced = c.replace('*', " * ");
    let mut words = spaced.split_whitespace().filter(|word| *word != "struct").peekable();
    let mut constant = words.next_if_eq(&"const").is_some();
    let name = words.next().unwrap();
    let mut result = match name {
        "int32_t" => "i32",
        "uint32_t" => "u32",
        "int64_t" => "i64",
        "uint64_t" => "u64",
        "double" => "f64",
        "size_t" => "usize",
        "char" => "c_char",
        "void" => "c_void",
        own => own,
    }
    .to_owned();
    for word in words {
        match word {
            "*" if name.ends_with("_fn") => {} // these are Options of function pointers already
            "*" => {
                result = format!("{} {}", if constant { "*const" } else { "*mut" }, result);
                constant = false;
            }
            "const" => constant = true,
            other => panic!("{} in {}", other, c),
        }
    }
    result
}

/// "name(argument: type, ...) -> type" of every IMAGINE_API function, by name.
fn functions_of_headers(headers: &str) -> BTreeMap<String, String> {
    let code: String =
        headers.lines().filter(|line| !line.trim_start().starts_with('#')).map(|l| format!("{} ", l)).collect();
    let mut all = BTreeMap::new();
    for piece in code.split("IMAGINE_API ").skip(1) {
        let (before, rest) = piece.split_once('(').unwrap();
        let (inside, _) = rest.split_once(')').unwrap();
        let split = |text: &str| {
            let at = text.rfind(|c: char| !c.is_alphanumeric() && c != '_').unwrap() + 1;
            (text[..at].trim().to_owned(), text[at..].to_owned())
        };
        let (result, name) = split(before.trim());
        let arguments: Vec<String> = inside
            .split(',')
            .map(|argument| argument.trim())
            .filter(|argument| *argument != "void")
            .map(split)
            .map(|(kind, name)| format!("{}: {}", name, rust_type(&kind)))
            .collect();
        let result = if result == "void" { String::new() } else { format!(" -> {}", rust_type(&result)) };
        all.insert(name.clone(), format!("{}({}){}", name, arguments.join(", "), result));
    }
    all
}

fn functions_declared() -> BTreeMap<String, String> {
    let code = DECLARED.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean = |text: &str| text.replace("( ", "(").replace(", )", ")");
    let all = code.split("pub fn ").skip(1).map(|piece| clean(piece.split_once(';').unwrap().0));
    all.map(|text| (text.split_once('(').unwrap().0.to_owned(), text)).collect()
}

#[test]
fn functions_are_those_of_the_headers() {
    let headers = match headers() {
        Some(headers) => headers,
        None => return,
    };
    let wanted = functions_of_headers(&headers);
    assert!(wanted.len() > 50, "{} functions found", wanted.len());
    assert_eq!(functions_declared(), wanted);
}

/// (name, type, value) of every constant that imagine-sys declares.
fn constants() -> Vec<(&'static str, &'static str, &'static str)> {
    let lines = DECLARED.lines().filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix(';'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once(": ").unwrap();
            let (kind, value) = rest.split_once(" = ").unwrap();
            (name, kind, value)
        })
        .collect()
}

#[test]
fn constants_are_those_of_the_headers() {
    let headers = match headers() {
        Some(headers) => headers,
        None => return,
    };
    for line in headers.lines().filter_map(|line| line.trim().strip_prefix("#define IMAGINE_")) {
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if value.trim().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            let name = format!("IMAGINE_{}", name);
            assert!(constants().iter().any(|(declared, ..)| *declared == name), "{} is not declared", name);
        }
    }
    let line = |(name, ..): &(&str, &str, &str)| format!("printf(\"{} %lld\\n\", (long long)({}));\n", name, name);
    let declared: String = constants().iter().map(|(name, _, value)| format!("{} {}\n", name, value)).collect();
    if let Some(printed) = c_prints("constants", &constants().iter().map(line).collect::<String>()) {
        assert_eq!(printed, declared);
    }
}

#[test]
fn statuses_are_those_of_the_headers() {
    let headers = match headers() {
        Some(headers) => headers,
        None => return,
    };
    let mut count = 0;
    for line in headers.lines().filter_map(|line| line.trim().strip_prefix("X(")) {
        let mut parts = line.split(',').map(str::trim);
        let (name, number) = (parts.next().unwrap(), parts.next().unwrap());
        let full = format!("IMAGINE_{}", name);
        assert!(constants().contains(&(full.as_str(), "imagine_status", number)), "{} {}", name, number);
        // SAFETY: accepts every number and returns a constant.
        let known = unsafe { std::ffi::CStr::from_ptr(sys::imagine_status_name(number.parse().unwrap())) };
        assert_eq!(known.to_str().unwrap(), name);
        count += 1;
    }
    assert_eq!(count, constants().iter().filter(|(_, kind, _)| *kind == "imagine_status").count());
}

/// What C's KIND says of a field.
trait Kind {
    const KIND: &'static str;
}

macro_rules! kinds {
    ($($kind:ty: $name:literal)*) => {$(impl Kind for $kind { const KIND: &'static str = $name; })*};
}
kinds! { i32: "i32" u32: "u32" i64: "i64" u64: "u64" f64: "f64" }
kinds! { sys::imagine_alloc_fn: "pointer" sys::imagine_free_fn: "pointer" sys::imagine_log_fn: "pointer" }
impl<T> Kind for *const T {
    const KIND: &'static str = "pointer";
}
impl<T> Kind for *mut T {
    const KIND: &'static str = "pointer";
}
impl<T, const N: usize> Kind for [T; N] {
    const KIND: &'static str = "pointer"; // as an array becomes one
}

fn kind_of<S, T: Kind>(_: fn(&S) -> &T) -> &'static str {
    T::KIND
}

/// Field size through its getter's type.
fn size_in<S, T>(_: fn(&S) -> &T) -> usize {
    size_of::<T>()
}

macro_rules! layouts {
    ($($name:ident { $($field:ident),* })*) => {
        const STRUCTS: &[&str] = &[$(stringify!($name)),*];

        /// Does not compile when a field of imagine-sys is not in the list.
        #[allow(dead_code)]
        mod complete {
            $(pub fn $name(value: &imagine_sys::$name) {
                let imagine_sys::$name { $($field: _),* } = value;
            })*
        }

        fn layouts() -> (String, String) {
            let (mut c, mut rust) = (String::new(), String::new());
            $(
                let name = stringify!($name);
                c += &format!("printf(\"{0} %zu\\n\", sizeof({0}));\n", name);
                rust += &format!("{} {}\n", name, size_of::<sys::$name>());
                let value = MaybeUninit::<sys::$name>::zeroed();
                $(
                    let field = stringify!($field);
                    c += &format!("printf(\"{0}.{1} %zu %zu %s\\n\", offsetof({0}, {1}), sizeof((({0} *)0)->{1}), \
                                   KIND((({0} *)0)->{1}));\n", name, field);
                    // SAFETY: only the address of a field of memory that is there.
                    let at = unsafe { std::ptr::addr_of!((*value.as_ptr()).$field) };
                    rust += &format!("{}.{} {} {} {}\n", name, field, at as usize - value.as_ptr() as usize,
                                     size_in(|s: &sys::$name| &s.$field), kind_of(|s: &sys::$name| &s.$field));
                )*
            )*
            (c, rust)
        }
    };
}

layouts! {
    imagine_error { struct_size, status, native_code, reserved0, message }
    imagine_context_options { struct_size, device, threads, cpu_level, memory_limit, allocate, release, allocator_data,
                              log, log_data, log_level, reserved0, device_number, precision, stream,
                              graphs, reserved1 }
    imagine_context_info { struct_size, device, threads, cpu_level, memory_used, memory_peak, device_memory_used,
                           device_memory_peak, device_number, reserved0 }
    imagine_buffer_info { struct_size, dtype, ndim, reserved0, shape, data, size, flags, reserved1, device,
                          device_number }
    imagine_model_options { struct_size, reserved0, weights, reserved1 }
    imagine_model_info { struct_size, stages, width, height, frames, steps, guidance, frames_per_second, latent_channels,
                         spatial_factor, temporal_factor, size_multiple, text_length, text_dim, layers, width_hidden,
                         parameters_text, parameters_sampler, parameters_vae, bytes }
    imagine_text_options { struct_size, reserved0, cancel }
    imagine_vae_options { struct_size, reserved0, cancel, tile_width, tile_height }
    imagine_sampler_options { struct_size, batch, width, height, frames, steps, seed, guidance, shift, schedule, step_rule,
                              cfg_mode, sigma_count, sigmas, cancel, eta, guidance_rescale, guidance_start,
                              guidance_stop, guidance_audio, strength, known_mode, reserved0, guidance_2 }
    imagine_step_info { struct_size, step, steps, reserved0, sigma, seconds }
    imagine_job_options { struct_size, events, prompt, negative_prompt, sampler, prompt_embeds, negative_embeds, noise,
                          latents, cancel, preview_every, decode, renoise, init_latents, known_latents, known_mask,
                          init_frames, mask_frames, first_frames, last_frame, tile_width, tile_height, state,
                          state_every, reserved0 }
    imagine_event { struct_size, kind, step, steps, first_frame, frame_count, sigma, seconds, frames, latents }
    imagine_job_info { struct_size, stage, width, height, frames, steps, guidance, seconds, memory_peak }
    imagine_estimate {
        struct_size, fits, width, height, frames, steps, guidance, peak_bytes, held_bytes, limit_bytes, stage_peak,
        stage_weights, stage_work, streamed, gives_back, in_turn, nearest_width, nearest_height, nearest_frames,
        tile, reserved0
    }
    imagine_bench_row { struct_size, reserved0, name, kind, gflops, share, seconds, peak, device, size, peak_f32,
                        bandwidth, value, unit, emulated, reserved1, left_out, device_name }
}

#[test]
fn structs_are_those_of_the_headers() {
    let headers = match headers() {
        Some(headers) => headers,
        None => return,
    };
    for piece in headers.split("typedef struct ").skip(1) {
        let (name, rest) = piece.split_once(' ').unwrap();
        assert!(!rest.starts_with('{') || STRUCTS.contains(&name), "{} is not compared", name);
    }
    let (lines, expected) = layouts();
    if let Some(printed) = c_prints("layout", &lines) {
        assert_eq!(printed, expected);
    }
}

#[test]
fn callbacks_are_those_of_the_headers() {
    let headers = match headers() {
        Some(headers) => headers,
        None => return,
    };
    let headers = headers.split_whitespace().collect::<Vec<_>>().join(" ");
    for declaration in [
        "typedef void *imagine_alloc_fn(void *user_data, size_t size, size_t alignment);",
        "typedef void imagine_free_fn(void *user_data, void *pointer, size_t size);",
        "typedef void imagine_log_fn(void *user_data, imagine_log_level level, const char *text);",
        "typedef void imagine_buffer_release_fn(void *user_data, void *data);",
    ] {
        assert!(headers.contains(declaration), "{}", declaration);
    }
    assert_eq!(headers.matches("_fn(void *user_data").count(), 4);
    unsafe extern "C" fn allocate(_: *mut c_void, _: usize, _: usize) -> *mut c_void {
        std::ptr::null_mut()
    }
    unsafe extern "C" fn free(_: *mut c_void, _: *mut c_void, _: usize) {}
    unsafe extern "C" fn log(_: *mut c_void, _: i32, _: *const c_char) {}
    unsafe extern "C" fn release(_: *mut c_void, _: *mut c_void) {}
    let _: (sys::imagine_alloc_fn, sys::imagine_free_fn) = (Some(allocate), Some(free));
    let _: (sys::imagine_log_fn, sys::imagine_buffer_release_fn) = (Some(log), Some(release));
}
