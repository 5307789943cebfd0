//! Time of each network of a pack by itself, on one thread, and whether our operators run it:
//! `cargo bench -p kith-vision --bench networks [-- PACK_FOLDER [ROUNDS]]`. `networks.py` measures the same networks
//! in onnxruntime.

use std::error::Error;
use std::path::{Path, PathBuf};

use kith_vision::{Pack, time_networks};

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let bundled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn");
    let pack = Pack::load(&arguments.next().map_or_else(bundled, PathBuf::from))?;
    let rounds = arguments.next().map_or(Ok(200), |rounds| rounds.parse())?;
    for network in time_networks(&pack, rounds)? {
        let [median, shortest] = [network.median, network.shortest].map(|time| time.as_secs_f64() * 1e3);
        let by = network.left_to_tract.map_or("own operators".to_owned(), |why| format!("tract ({why})"));
        println!("{:26} {:?}: {median:.3} ms, shortest {shortest:.3}, {by}", network.file, network.shape);
    }
    Ok(())
}
