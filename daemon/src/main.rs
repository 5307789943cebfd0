//! The executable. The whole program is in the library `lib.rs`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    kithd::main()
}
