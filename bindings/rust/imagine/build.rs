// SPDX-License-Identifier: MIT
//! Lets this package's own tests and examples find the libimagine.so that they were linked with. Programs that use the
//! crate set an rpath of their own, install the library, or set LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_IMAGINE_LIBDIR") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder);
    }
}
