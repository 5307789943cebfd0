//! The spool: accepted bytes as files, one for each row of `images`; their names, and the clean-up
//! at start.
//!
//! A file begins as `<uuid>.<source>.new`, is flushed, and becomes `<uuid>.<source>.<number of its
//! image>` once its row is committed and before the sender gets an answer. At start, a file that
//! was never acknowledged (`.new` without a row) is deleted; a file whose row the database has lost
//! is queued again under its number. The rows are `store`'s; the pictures are not looked at here.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::domain::{ImageId, Source};

/// Folder of the spool below the state folder.
pub const SPOOL: &str = "spool";
/// Suffix of a file that is not accepted yet.
const NEW: &str = "new";

/// Makes a name for the bytes of one picture, relative to the state folder; the suffix is added
/// according to the file's state.
pub fn new_name(source: Source) -> String {
    format!("{SPOOL}/{}.{source}", uuid::Uuid::now_v7().simple())
}

/// Returns the name of the file that belongs to the row of that number.
pub fn accepted_name(name: &str, image: ImageId) -> String {
    format!("{name}.{image}")
}

/// Creates a file, not accepted yet and readable only by its owner.
pub fn create(state_dir: &Path, name: &str) -> std::io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(state_dir.join(format!("{name}.{NEW}")))
}

/// Opens a file that is not accepted, for reading.
pub fn open_new(state_dir: &Path, name: &str) -> std::io::Result<File> {
    File::open(state_dir.join(format!("{name}.{NEW}")))
}

/// Checks that a file can be written and flushed to the disk.
pub fn try_disk(state_dir: &Path) -> std::io::Result<()> {
    let name = new_name(Source::Http);
    let written = create(state_dir, &name).and_then(|_| flush(state_dir, [name.as_str()]));
    written.and(drop_new(state_dir, &name))
}

/// Deletes a file that is not accepted.
pub fn drop_new(state_dir: &Path, name: &str) -> std::io::Result<()> {
    gone_is_fine(std::fs::remove_file(
        state_dir.join(format!("{name}.{NEW}")),
    ))
}

/// Flushes files that are not accepted, and their folder. They survive a power cut after this
/// returns.
pub fn flush<'a>(
    state_dir: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> std::io::Result<()> {
    for name in names {
        open_new(state_dir, name)?.sync_all()?;
    }
    File::open(state_dir.join(SPOOL))?.sync_all()
}

/// Renames a file as its row names it, after that row was committed. The folder is not flushed
/// again: if a power cut undoes the rename, the next start repeats it.
pub fn accept(state_dir: &Path, file: &str) -> std::io::Result<()> {
    let place = place(state_dir, file)?;
    // Row and file were removed meanwhile.
    gone_is_fine(std::fs::rename(unaccepted(&place), place))
}

/// Returns true if a file exists under either of its names.
pub fn is_there(state_dir: &Path, file: &str) -> bool {
    place(state_dir, file).is_ok_and(|place| place.exists() || unaccepted(&place).exists())
}

/// Reads a file that a row names.
pub fn read(state_dir: &Path, file: &str) -> std::io::Result<Vec<u8>> {
    let place = place(state_dir, file)?;
    // The row exists a moment before the file is renamed, and the rename may happen between two
    // attempts.
    [&place, &unaccepted(&place), &place]
        .iter()
        .map(std::fs::read)
        .find(|read| !matches!(read, Err(error) if error.kind() == ErrorKind::NotFound))
        .unwrap_or(Err(ErrorKind::NotFound.into()))
}

/// Deletes a file under both of its names.
pub fn delete(state_dir: &Path, file: &str) -> std::io::Result<()> {
    let place = place(state_dir, file)?;
    // This order catches a file that is being accepted right now.
    gone_is_fine(std::fs::remove_file(unaccepted(&place)))?;
    gone_is_fine(std::fs::remove_file(place))
}

/// An accepted file that no row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// Its name, relative to the state folder.
    pub file: String,
    /// The number its image had.
    pub image: ImageId,
    /// The way its bytes came in.
    pub source: Source,
    /// Its size.
    pub bytes: u64,
}

/// Cleans up the spool at start; `named` are the files that rows name. Deletes files that were
/// never accepted, completes interrupted renames, and returns the files whose rows are lost. Files
/// with other names are left alone.
pub fn tidy(state_dir: &Path, named: &HashSet<String>) -> std::io::Result<Vec<Unnamed>> {
    let to_accept: HashMap<_, _> = named
        .iter()
        .map(|file| (unaccepted(Path::new(file)), file))
        .collect();
    let mut unnamed = Vec::new();
    for entry in std::fs::read_dir(state_dir.join(SPOOL))? {
        let entry = entry?;
        let file = Path::new(SPOOL).join(entry.file_name());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let done = match (file.to_str(), Name::of(&file).filter(|_| is_file)) {
            (Some(file), _) if named.contains(file) => Ok(()),
            (_, Some(Name::Unaccepted)) => match to_accept.get(&file) {
                Some(named) => accept(state_dir, named),
                None => gone_is_fine(std::fs::remove_file(entry.path())),
            },
            (Some(file), Some(Name::Accepted { source, image })) => {
                entry.metadata().map(|metadata| {
                    unnamed.push(Unnamed {
                        file: file.into(),
                        image,
                        source,
                        bytes: metadata.len(),
                    });
                })
            }
            _ => {
                tracing::warn!(
                    "{} is not a file of kithd and is left alone",
                    entry.path().display()
                );
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!(
                "{} cannot be renamed or deleted: {error}",
                entry.path().display()
            );
        }
    }
    // The earliest first: they keep their numbers.
    unnamed.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(unnamed)
}

/// The parts of a spool file's name.
enum Name {
    Unaccepted,
    Accepted { source: Source, image: ImageId },
}

impl Name {
    fn of(file: &Path) -> Option<Self> {
        let mut parts = file.file_name()?.to_str()?.split('.');
        let (uuid, source, end) = (parts.next()?, parts.next()?, parts.next()?);
        uuid::Uuid::try_parse(uuid).ok()?;
        let source = source.parse().ok()?;
        match (end, end.parse()) {
            _ if parts.next().is_some() => None,
            (NEW, _) => Some(Self::Unaccepted),
            (_, Ok(image)) if image > 0 => Some(Self::Accepted { source, image }),
            _ => None,
        }
    }
}

/// Returns the path of a file. The name comes from a database that may be damaged, so it must be a
/// plain name.
fn place(state_dir: &Path, file: &str) -> std::io::Result<PathBuf> {
    let mut below = Path::new(file)
        .strip_prefix(SPOOL)
        .map_err(|_| ErrorKind::InvalidInput)?
        .components();
    match (below.next(), below.next()) {
        (Some(Component::Normal(name)), None) => Ok(state_dir.join(SPOOL).join(name)),
        _ => Err(ErrorKind::InvalidInput.into()),
    }
}

/// Returns the path of a file before it is accepted.
fn unaccepted(place: &Path) -> PathBuf {
    place.with_extension(NEW)
}

fn gone_is_fine(done: std::io::Result<()>) -> std::io::Result<()> {
    done.or_else(|error| {
        if error.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

#[cfg(test)]
mod tests;
