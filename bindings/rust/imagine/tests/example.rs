// SPDX-License-Identifier: MIT
//! The example as a program: cargo builds it beside the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/generate")
}

#[test]
fn it_writes_a_png() {
    let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/packs/two-layer");
    if !pack.exists() || !program().exists() {
        eprintln!("skipped: no pack, or the example was not built");
        return;
    }
    let file = std::env::temp_dir().join(format!("imagine-example-{}.png", std::process::id()));
    let done = Command::new(program()).arg(pack).arg("a red apple").arg(&file).arg("7").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let png = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.windows(4).any(|chunk| chunk == b"acTL"));
}

/// The text between a fence of this kind and its end, each time there is one.
fn blocks<'a>(text: &'a str, fence: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(fence).skip(1).filter_map(|rest| rest.split("```").next())
}

/// What README.md tells a program that depends on the crate to write, as a program.
#[test]
fn the_readme_is_a_program() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().unwrap();
    if !tree.join("models/tiny/imagine.json").exists() {
        eprintln!("skipped: no model");
        return;
    }
    let readme = std::fs::read_to_string(tree.join("bindings/rust/README.md")).unwrap();
    let readme = readme.replace("../libimagine", tree.to_str().unwrap());
    let dependencies: String = blocks(&readme, "```toml\n").collect();
    let sources: Vec<&str> = blocks(&readme, "```rust\n").collect();
    let folder = std::env::temp_dir().join(format!("imagine-readme-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let package = "[package]\nname = \"reader\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    std::fs::write(folder.join("Cargo.toml"), format!("{package}{dependencies}")).unwrap();
    std::fs::write(folder.join("src/main.rs"), sources[0]).unwrap();
    std::fs::write(folder.join("build.rs"), sources[1]).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--offline", "--quiet"]).current_dir(&folder).env("CARGO_TARGET_DIR", folder.join("target"));
    let done = cargo.env_remove("LD_LIBRARY_PATH").output().unwrap();
    let png = std::fs::read(folder.join("apple.png"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(png.unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
}

#[test]
fn it_says_what_is_wrong() {
    if !program().exists() {
        return;
    }
    let done = Command::new(program()).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    let done = Command::new(program()).args(["no-such-pack", "a", "x.png"]).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("no-such-pack"));
}

#[test]
fn a_folder_that_is_not_the_callers_is_told() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../imagine-sys/build.rs");
    let program = std::env::temp_dir().join(format!("imagine-build-{}", std::process::id()));
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = match Command::new(compiler).arg("--edition=2021").arg(&script).arg("-o").arg(&program).output() {
        Ok(built) if script.exists() => built,
        _ => return eprintln!("skipped: no rustc, or no build.rs of imagine-sys"),
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let says = |folder: &str| {
        let done = Command::new(&program).env("IMAGINE_LIB_DIR", folder).current_dir("/").output().unwrap();
        (done.status.success(), String::from_utf8(done.stderr).unwrap())
    };
    let (relative, absolute) = (says("no/such"), says("/no/such"));
    std::fs::remove_file(&program).unwrap();
    let message = "IMAGINE_LIB_DIR: no libimagine.so in no/such as seen from /; give the whole path\n";
    assert_eq!(relative, (false, message.to_owned()));
    assert_eq!(absolute, (false, "IMAGINE_LIB_DIR: no libimagine.so in /no/such\n".to_owned()));
}
