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
