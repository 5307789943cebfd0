//! Writes a pack's recogniser as an ONNX file, to run it in another runtime: `network <pack folder>
//! <float32|float16|int8> <file>`.

use std::error::Error;
use std::path::Path;

use kith_vision::{Pack, recogniser_file};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: network <pack> <precision> <file>")
    };
    let pack = Pack::load(Path::new(&next()?))?;
    let network = recogniser_file(&pack, next()?.parse()?)?;
    Ok(std::fs::write(next()?, network)?)
}
