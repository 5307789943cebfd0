//! The executable. The whole program is in the library `lib.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kithd::main()
}
