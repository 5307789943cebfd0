//! The spool: accepted bytes as files, each for one row of `images`. Their names, and what a start
//! makes of them.
//!
//! A file begins as `<uuid>.<source>.new`, is flushed, and becomes `<uuid>.<source>.<number of its
//! image>` once its row is committed and before the sender hears of it. So a start tells a file
//! that nobody was promised (`.new` without a row: deleted) from one whose row the database has
//! lost (queued again under its number). Which rows there are is `store`'s knowledge; no picture is
//! looked at here.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::domain::{ImageId, Source};

/// Folder of the spool below the state folder.
pub const SPOOL: &str = "spool";
/// Ends the name of a file that is not accepted yet.
const NEW: &str = "new";

/// A name for the bytes of one picture, relative to the state folder; the end is added by what
/// becomes of it.
pub fn new_name(source: Source) -> String {
    format!("{SPOOL}/{}.{source}", uuid::Uuid::now_v7().simple())
}

/// The name that the row of that number gives its file.
pub fn accepted_name(name: &str, image: ImageId) -> String {
    format!("{name}.{image}")
}

/// Begins a file, not accepted yet and readable by nobody else.
pub fn create(state_dir: &Path, name: &str) -> std::io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(state_dir.join(format!("{name}.{NEW}")))
}

/// Opens one that is not accepted, to be read.
pub fn open_new(state_dir: &Path, name: &str) -> std::io::Result<File> {
    File::open(state_dir.join(format!("{name}.{NEW}")))
}

/// Makes sure that a file reaches the disk.
pub fn try_disk(state_dir: &Path) -> std::io::Result<()> {
    let name = new_name(Source::Http);
    let written = create(state_dir, &name).and_then(|_| flush(state_dir, [name.as_str()]));
    written.and(drop_new(state_dir, &name))
}

/// Deletes one that is not accepted.
pub fn drop_new(state_dir: &Path, name: &str) -> std::io::Result<()> {
    gone_is_fine(std::fs::remove_file(
        state_dir.join(format!("{name}.{NEW}")),
    ))
}

/// Flushes files that are not accepted, and their folder: after this returns, they survive a power
/// cut whole.
pub fn flush<'a>(
    state_dir: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> std::io::Result<()> {
    for name in names {
        open_new(state_dir, name)?.sync_all()?;
    }
    File::open(state_dir.join(SPOOL))?.sync_all()
}

/// Gives a file the name its row has for it, after that row was committed. The folder is not
/// flushed again: a power cut that undoes the renaming leaves a row whose file the next start
/// renames.
pub fn accept(state_dir: &Path, file: &str) -> std::io::Result<()> {
    let place = place(state_dir, file)?;
    // Its row was removed meanwhile, and the file with it.
    gone_is_fine(std::fs::rename(unaccepted(&place), place))
}

/// Whether a file is there, under either of its names.
pub fn is_there(state_dir: &Path, file: &str) -> bool {
    place(state_dir, file).is_ok_and(|place| place.exists() || unaccepted(&place).exists())
}

/// Reads a file that a row names.
pub fn read(state_dir: &Path, file: &str) -> std::io::Result<Vec<u8>> {
    let place = place(state_dir, file)?;
    // The row is there a moment before the file has its accepted name; it may get it between two
    // looks.
    [&place, &unaccepted(&place), &place]
        .iter()
        .map(std::fs::read)
        .find(|read| !matches!(read, Err(error) if error.kind() == ErrorKind::NotFound))
        .unwrap_or(Err(ErrorKind::NotFound.into()))
}

/// Deletes a file under both of its names.
pub fn delete(state_dir: &Path, file: &str) -> std::io::Result<()> {
    let place = place(state_dir, file)?;
    // In this order a file that is being accepted does not slip through.
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

/// Puts the spool in order at start, `named` being what rows name: deletes what was never accepted,
/// gives what was its accepted name, and answers the files whose rows are lost. What has no name of
/// ours is left alone.
pub fn tidy(state_dir: &Path, named: &HashSet<String>) -> std::io::Result<Vec<Unnamed>> {
    let to_accept: HashMap<_, _> = named
        .iter()
        .map(|file| (unaccepted(Path::new(file)), file))
        .collect();
    let mut unnamed = Vec::new();
    for entry in std::fs::read_dir(state_dir.join(SPOOL))? {
        let entry = entry?;
        let file = Path::new(SPOOL).join(entry.file_name());
        let done = match (file.to_str(), Name::of(&file)) {
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
                    "{} is no file of kithd's and is left where it is",
                    entry.path().display()
                );
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!("{} cannot be put in order: {error}", entry.path().display());
        }
    }
    // The earliest first: they keep their numbers.
    unnamed.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(unnamed)
}

/// What a name of ours says.
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

/// Where a file of that name lies. The name comes from a database that may be damaged: it must be
/// plain.
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

/// Where a file lies before it has its accepted name.
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
mod tests {
    use super::*;

    fn spool() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(SPOOL)).unwrap();
        folder
    }

    fn files(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(folder.path().join(SPOOL)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| format!("{SPOOL}/{}", entry.unwrap().file_name().to_string_lossy()))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_start_tells_promised_files_from_others_by_their_names() {
        let folder = spool();
        let [kept, renamed, lost, dropped] =
            [Source::Http, Source::Mqtt, Source::Camera, Source::Http].map(new_name);
        let [kept, lost] = [accepted_name(&kept, 3), accepted_name(&lost, 7)];
        let foreign = [
            "notes.txt",
            "1.http.1",
            &format!("{}.http.x", "0".repeat(32)),
        ]
        .map(|name| format!("{SPOOL}/{name}"));
        let there = [
            &[
                kept.clone(),
                format!("{renamed}.new"),
                lost.clone(),
                format!("{dropped}.new"),
            ],
            &foreign[..],
        ]
        .concat();
        there
            .iter()
            .for_each(|file| std::fs::write(folder.path().join(file), "picture").unwrap());
        let renamed = accepted_name(&renamed, 4);
        let unnamed = tidy(
            folder.path(),
            &HashSet::from([kept.clone(), renamed.clone()]),
        )
        .unwrap();
        assert_eq!(
            unnamed,
            [Unnamed {
                file: lost.clone(),
                image: 7,
                source: Source::Camera,
                bytes: 7
            }]
        );
        let mut left = [&[kept, renamed, lost], &foreign[..]].concat();
        left.sort();
        assert_eq!(files(&folder), left);
    }

    #[test]
    fn a_file_is_read_and_deleted_under_either_of_its_names() {
        let folder = spool();
        for renamed in [false, true] {
            let name = new_name(Source::Http);
            std::io::Write::write_all(&mut create(folder.path(), &name).unwrap(), b"picture")
                .unwrap();
            let file = accepted_name(&name, 1);
            if renamed {
                accept(folder.path(), &file).unwrap();
            }
            assert_eq!(read(folder.path(), &file).unwrap(), b"picture");
            delete(folder.path(), &file).unwrap();
            assert_eq!(files(&folder), [""; 0]);
            // Accepted after it was removed, as a sender may be told while somebody drops the
            // image.
            accept(folder.path(), &file).unwrap();
            assert_eq!(
                read(folder.path(), &file).unwrap_err().kind(),
                ErrorKind::NotFound
            );
        }
    }

    #[test]
    fn a_name_out_of_a_damaged_database_leads_nowhere() {
        let folder = spool();
        std::fs::write(folder.path().join("token"), "secret").unwrap();
        for file in [
            "token",
            "spool/../token",
            "/etc/hostname",
            "spool",
            "",
            "spool/a/b",
            "spool/..",
        ] {
            assert_eq!(
                read(folder.path(), file).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{file}"
            );
            assert_eq!(
                delete(folder.path(), file).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{file}"
            );
        }
        assert!(folder.path().join("token").exists());
    }
}
