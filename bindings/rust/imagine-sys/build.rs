// SPDX-License-Identifier: MIT
//! Finds libimagine.so: in IMAGINE_LIB_DIR, in the source tree's build folder, or where pkg-config says.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LIBRARY: &str = "libimagine.so";

/// The folder that the caller named. A name that does not hold the library is an error, not a reason to look elsewhere.
fn named() -> Result<Option<PathBuf>, String> {
    let folder = match env::var_os("IMAGINE_LIB_DIR") {
        Some(value) if !value.is_empty() => PathBuf::from(value),
        _ => return Ok(None),
    };
    if folder.join(LIBRARY).exists() {
        // Absolute, since the rpath made of it is read from anywhere.
        return folder.canonicalize().map(Some).map_err(|error| format!("{}: {}", folder.display(), error));
    }
    let seen = match env::current_dir() {
        Ok(here) if folder.is_relative() => format!(" as seen from {}; give the whole path", here.display()),
        _ => String::new(),
    };
    Err(format!("IMAGINE_LIB_DIR: no {} in {}{}", LIBRARY, folder.display(), seen))
}

fn source_tree() -> Option<PathBuf> {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join("../../../build");
    if folder.join(LIBRARY).exists() {
        folder.canonicalize().ok()
    } else {
        None
    }
}

fn pkg_config() -> Option<PathBuf> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let done = Command::new(program).args(["--variable=libdir", "imagine"]).output().ok()?;
    let folder = String::from_utf8(done.stdout).ok()?;
    if done.status.success() && !folder.trim().is_empty() {
        Some(PathBuf::from(folder.trim()))
    } else {
        None
    }
}

fn find() -> Result<PathBuf, String> {
    let found = named()?.or_else(source_tree).or_else(pkg_config);
    found.ok_or_else(|| {
        format!(
            "{} was not found: build it in the source tree (meson setup build && ninja -C build), install it so that \
             `pkg-config imagine` knows it, or name its folder in IMAGINE_LIB_DIR",
            LIBRARY
        )
    })
}

fn main() -> ExitCode {
    for name in ["IMAGINE_LIB_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={}", name);
    }
    println!("cargo:rerun-if-changed=build.rs");
    let folder = match find() {
        Ok(folder) => folder,
        Err(message) => {
            eprintln!("{}", message);
            return ExitCode::FAILURE;
        }
    };
    println!("cargo:rerun-if-changed={}", folder.join(LIBRARY).display());
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib=imagine");
    // For the build scripts of crates that depend on this one: DEP_IMAGINE_LIBDIR, to set an rpath with.
    println!("cargo:libdir={}", folder.display());
    ExitCode::SUCCESS
}
