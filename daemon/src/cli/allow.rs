//! `kithd allow PATH`: adds a folder to `intake.roots` and writes the drop-in that shows it to the
//! confined service.
//!
//! Mounts are not judged: one that is away now may come later, so nothing here fails because a
//! folder does not exist.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use toml_edit::{Array, DocumentMut, Item, Table, Value};

use crate::config::{Config, SYSTEM_CONFIG};

/// Folder of the administrator's unit files.
const UNITS: &str = "/etc/systemd/system";
/// The account the unit runs as.
const ACCOUNT: &str = "kithd";
/// Time to wait for a mount before it is reported as not answering.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `kithd allow`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with pictures: local, or on a mount that may come and go
    path: PathBuf,
    /// Lets the daemon write there too: move pictures to done/ and failed/, or delete them
    #[arg(long)]
    write: bool,
    /// Takes the permission back
    #[arg(long, conflicts_with = "write")]
    remove: bool,
    /// Folder of unit files, for preparing an image
    #[arg(long, value_name = "FOLDER", default_value = UNITS)]
    units: PathBuf,
}

/// Changes configuration and unit, and restarts the service if it runs.
pub fn run(config: &Config, file: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let path = usable(&args.path, &config.state_dir)?;
    // Renaming over a link would leave its target unchanged.
    let file = file.unwrap_or(Path::new(SYSTEM_CONFIG));
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.into());
    let watched = |folder: &Path| config.folders.iter().any(|watched| watched.path == folder);
    if args.remove && watched(&path) {
        bail!(
            "{} is watched; take its section [[folder]] out of {} first",
            path.display(),
            file.display()
        );
    }
    // A watched folder is a root by its section alone.
    let mut roots = config.intake.roots.clone();
    roots.retain(|root| *root != path && !watched(root));
    if !args.remove {
        roots.push(path.clone());
    }
    let old = std::fs::read_to_string(&file).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(String::new()),
        _ => Err(anyhow!("{} cannot be read: {error}", file.display())),
    })?;
    if roots != config.intake.roots {
        replace(&file, &with_roots(&old, &roots)?)?;
    }
    let drop_in = args
        .units
        .join("kithd.service.d")
        .join(format!("allow-{}.conf", escaped(&path)));
    let shown = Shown::of(&path, &network_mounts());
    match drop_in_text(&path, &shown, args.write) {
        Some(text) if !args.remove => {
            replace(&drop_in, &text)?;
            println!("{} shows it to the service.", drop_in.display());
        }
        _ => match std::fs::remove_file(&drop_in) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("{} cannot be removed: {error}", drop_in.display());
            }
            _ => {}
        },
    }
    let verb = match (args.remove, args.write) {
        (true, _) => "no longer read",
        (false, true) => "read and write",
        (false, false) => "read",
    };
    println!(
        "kithd may {verb} pictures below {}; intake.roots in {} says so.",
        path.display(),
        file.display()
    );
    if !args.remove {
        let notes = shown
            .note(drop_in.exists())
            .into_iter()
            .chain(trouble(&path, args.write));
        notes.for_each(|note| println!("Note: {note}"));
    }
    if args.units != Path::new(UNITS) || !systemd::daemon::booted().unwrap_or(false) {
        println!("The change takes effect at the next start of the service.");
        return Ok(ExitCode::SUCCESS);
    }
    for arguments in [&["daemon-reload"][..], &["try-restart", "kithd.service"]] {
        let done = Command::new("systemctl")
            .args(arguments)
            .status()
            .context("systemctl cannot be run")?;
        if !done.success() {
            bail!(
                "systemctl {} ended with {done}; run it by hand and look at systemctl status kithd",
                arguments.join(" ")
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the path in plain form, if pictures may lie there. It checks the text only: the path may
/// be on a mount that does not answer.
fn usable(path: &Path, state_dir: &Path) -> anyhow::Result<PathBuf> {
    const NEVER: [&str; 10] = [
        "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr",
    ];
    if path.components().any(|part| part == Component::ParentDir) {
        bail!("{} contains ..; name the folder itself", path.display());
    }
    let plain: PathBuf = std::path::absolute(path)?.components().collect();
    let text = plain
        .to_str()
        .filter(|text| !text.contains(['"', '\\', ':', '$']) && !text.contains(char::is_control));
    if text.is_none() {
        bail!(
            "{} cannot be written into a unit file: it holds quotes, \\, :, $ or control characters",
            path.display()
        );
    }
    let shallow = ["/", "/run", "/var", "/var/lib"]
        .iter()
        .any(|folder| plain == Path::new(folder));
    if shallow || NEVER.iter().any(|folder| plain.starts_with(folder)) {
        bail!(
            "{} belongs to the system; name a folder with pictures",
            plain.display()
        );
    }
    let inbox = state_dir.join("inbox");
    if plain.starts_with(state_dir) && !plain.starts_with(inbox) || state_dir.starts_with(&plain) {
        bail!(
            "{} holds kithd's own database; name a folder with pictures",
            plain.display()
        );
    }
    Ok(plain)
}

/// Returns the configuration's text with other roots; comments and order are kept.
fn with_roots(text: &str, roots: &[PathBuf]) -> anyhow::Result<String> {
    let mut document: DocumentMut = text
        .parse()
        .context("the configuration is not valid TOML")?;
    let list: Array = roots
        .iter()
        .map(|root| Value::from(root.to_string_lossy().into_owned()))
        .collect();
    let intake = document
        .entry("intake")
        .or_insert_with(|| Item::Table(Table::new()));
    let intake = intake
        .as_table_like_mut()
        .ok_or_else(|| anyhow!("intake in the configuration is not a section"))?;
    intake.insert("roots", Item::Value(list.into()));
    Ok(document.to_string())
}

/// The path that a drop-in makes visible.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// The path itself.
    Path(PathBuf),
    /// The folder above the network mount: systemd touches each path of a unit before it starts it,
    /// and would hang in a mount whose server is away.
    AboveMount(PathBuf),
    /// The path itself, although it is on a network mount: the mount is in /, and the drop-in must
    /// not show the whole system.
    Mount(PathBuf),
}

impl Shown {
    fn of(path: &Path, network_mounts: &[PathBuf]) -> Self {
        let mounts = network_mounts
            .iter()
            .filter(|mount| path.starts_with(mount));
        match mounts
            .min_by_key(|mount| mount.as_os_str().len())
            .and_then(|outermost| outermost.parent())
        {
            None => Self::Path(path.into()),
            Some(above) if above == Path::new("/") => Self::Mount(path.into()),
            Some(above) => Self::AboveMount(above.into()),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::AboveMount(path) | Self::Mount(path) => path,
        }
    }

    /// Returns a warning for the operator about a drop-in that names it.
    fn note(&self, named: bool) -> Option<String> {
        match self {
            Self::AboveMount(above) if named => Some(format!(
                "the service sees all of {}, as far as its account may: naming only the network mount below it would \
                 keep the service from starting while the server is away",
                above.display()
            )),
            Self::Mount(path) if named => Some(format!(
                "{} is on a network mount directly below /; while its server is away the service cannot start. Mount it \
                 one folder deeper, for example below /mnt",
                path.display()
            )),
            _ => None,
        }
    }
}

/// Returns mount points of network file systems, mounted or listed in fstab. Reads tables only and
/// touches no mount.
fn network_mounts() -> Vec<PathBuf> {
    let now = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let promised = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
    // mountinfo: fifth field, and the type behind the dash (proc(5)); fstab: second and third
    // (fstab(5)).
    let mounted = now.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, kind.split(' ').next()?))
    });
    let listed = promised
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            Some((fields.next()?, fields.next()?))
        });
    let remote = |kind: &str| {
        const KINDS: [&str; 8] = [
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "autofs",
            "ceph",
            "9p",
            "glusterfs",
        ];
        KINDS.contains(&kind) || kind.starts_with("fuse.")
    };
    mounted
        .chain(listed)
        .filter(|(_, kind)| remote(kind))
        .map(|(mount, _)| unescaped(mount).into())
        .collect()
}

/// Decodes a field: both tables hold space, tab, line feed and backslash as octal codes.
fn unescaped(field: &str) -> String {
    [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", r"\"),
    ]
    .iter()
    .fold(field.to_string(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

/// Returns the drop-in that the unit needs; `None` if the service sees the folder anyway.
fn drop_in_text(path: &Path, shown: &Shown, write: bool) -> Option<String> {
    let within = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    // These places are hidden or private inside the service, so the folder is bind-mounted, in
    // homes over an empty directory. Later mounts below the folder become visible too.
    let home = within(&["/home", "/root", "/run/user"]);
    let key = match (home || within(&["/tmp", "/var/tmp"]), write) {
        (true, true) => "BindPaths",
        (true, false) => "BindReadOnlyPaths",
        (false, true) => "ReadWritePaths",
        (false, false) => return None,
    };
    let command = format!(
        "kithd allow {}{}",
        path.display(),
        if write { " --write" } else { "" }
    );
    // The minus keeps a missing folder from failing the start.
    let value = shown.path().to_string_lossy().replace('%', "%%");
    let homes = if home { "ProtectHome=tmpfs\n" } else { "" };
    Some(format!(
        "# Written by: {command}\n[Service]\n{homes}{key}=\"-{value}\"\n"
    ))
}

/// Escapes a path as part of a file name, as `systemd-escape --path` does.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mut name = String::new();
    for (at, byte) in text.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at > 0 => name.push('.'),
            b'_' => name.push('_'),
            _ if byte.is_ascii_alphanumeric() => name.push(byte.into()),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

/// Replaces a file atomically and keeps its owner and mode.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let writing = || -> std::io::Result<()> {
        let folder = file.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
        std::fs::create_dir_all(folder)?;
        let (mode, owner) = match std::fs::metadata(file) {
            Ok(old) => (
                old.permissions().mode() & 0o7777,
                Some((old.uid(), old.gid())),
            ),
            Err(_) => (0o644, None),
        };
        let mut new = tempfile::Builder::new()
            .prefix(".kithd-")
            .tempfile_in(folder)?;
        std::io::Write::write_all(&mut new, text.as_bytes())?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::fchown(&new, Some(user), Some(group))?;
        }
        new.as_file()
            .set_permissions(std::fs::Permissions::from_mode(mode))?;
        new.as_file().sync_all()?;
        new.persist(file)?;
        Ok(())
    };
    writing().map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            anyhow!(
                "{} may not be written by this user; use sudo",
                file.display()
            )
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            anyhow!(
                "{} is on a read-only file system; put the change into the image",
                file.display()
            )
        }
        _ => anyhow!("{} cannot be written: {error}", file.display()),
    })
}

/// Describes why the daemon's account could not use the folder, as far as can be seen now.
fn trouble(path: &Path, write: bool) -> Option<String> {
    let folder = path.display();
    if may("-d", path) != Some(true) {
        return Some(format!(
            "{folder} is not there now, or not for the account {ACCOUNT}; pictures below it wait until it is"
        ));
    }
    let (rights, wanted): (_, &[_]) = match write {
        true => (
            "rwX",
            &[("-r", "read"), ("-x", "enter"), ("-w", "write to")],
        ),
        false => ("rX", &[("-r", "read"), ("-x", "enter")]),
    };
    let (_, verb) = wanted
        .iter()
        .find(|(flag, _)| may(flag, path) == Some(false))?;
    Some(format!(
        "the account {ACCOUNT} may not {verb} {folder}; on a local disk this lets it: setfacl -R -m u:{ACCOUNT}:{rights} \
         -m d:u:{ACCOUNT}:{rights} {folder}"
    ))
}

/// Runs `test` as the daemon's account, which is the one that a network server checks; `None` if it
/// gives no answer.
fn may(flag: &str, path: &Path) -> Option<bool> {
    let mut asking = Command::new("setpriv")
        .args([
            "--reuid",
            ACCOUNT,
            "--regid",
            ACCOUNT,
            "--init-groups",
            "test",
        ])
        .arg(flag)
        .arg(path)
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + LOOK_PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = asking.try_wait() {
            return status.code().filter(|code| *code < 2).map(|code| code == 0);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // A process stuck in a mount dies when the mount recovers.
    let _ = asking.kill();
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_change_and_everything_else_in_the_file_stays_as_it_was() {
        let shipped = include_str!("../../../deploy/kithd.toml");
        let roots = [PathBuf::from("/srv/kithd/inbox"), "/mnt/nas/in box".into()];
        let changed = with_roots(shipped, &roots).unwrap();
        let added: Vec<_> = changed
            .lines()
            .filter(|line| !shipped.lines().any(|old| old == *line))
            .collect();
        assert_eq!(
            added,
            [r#"roots = ["/srv/kithd/inbox", "/mnt/nas/in box"]"#]
        );
        assert_eq!(changed.lines().count(), shipped.lines().count() + 1);
        assert!(
            with_roots("", &roots)
                .unwrap()
                .starts_with("[intake]\nroots = [")
        );
        assert!(with_roots("intake = 3\n", &roots).is_err());
    }

    #[test]
    fn a_hidden_folder_is_bound_a_visible_one_only_for_writing() {
        let text =
            |path: &str, write| drop_in_text(Path::new(path), &Shown::Path(path.into()), write);
        assert!(
            text("/home/anna/my 100%", false)
                .unwrap()
                .contains("\nBindReadOnlyPaths=\"-/home/anna/my 100%%\"\n")
        );
        assert!(
            text("/home/anna", true)
                .unwrap()
                .contains("\nProtectHome=tmpfs\nBindPaths=\"-/home/anna\"\n")
        );
        assert!(!text("/tmp/in", false).unwrap().contains("ProtectHome"));
        assert!(
            text("/mnt/nas", true)
                .unwrap()
                .contains("\nReadWritePaths=\"-/mnt/nas\"\n")
        );
        assert_eq!(text("/mnt/nas", false), None);
    }

    #[test]
    fn on_a_network_mount_the_local_folder_above_it_is_named() {
        let mounts = [
            PathBuf::from("/mnt/nas"),
            "/mnt/nas/inner".into(),
            "/pictures".into(),
        ];
        let shown = |path: &str| Shown::of(Path::new(path), &mounts);
        assert_eq!(shown("/mnt/nas/inner/in"), Shown::AboveMount("/mnt".into()));
        assert_eq!(shown("/mnt/nasty"), Shown::Path("/mnt/nasty".into()));
        assert_eq!(shown("/pictures/in"), Shown::Mount("/pictures/in".into()));
        let text = drop_in_text(Path::new("/mnt/nas/in"), &shown("/mnt/nas/in"), true).unwrap();
        assert!(
            text.contains("kithd allow /mnt/nas/in --write")
                && text.contains("\nReadWritePaths=\"-/mnt\"\n")
        );
        assert!(
            shown("/mnt/nas/in")
                .note(true)
                .unwrap()
                .contains("sees all of /mnt,")
        );
        assert_eq!(unescaped(r"/mnt/my\040nas"), "/mnt/my nas");
    }

    #[test]
    fn drop_ins_are_named_as_systemd_escapes_paths() {
        assert_eq!(
            escaped(Path::new("/mnt/nas-2/in box")),
            r"mnt-nas\x2d2-in\x20box"
        );
        assert_eq!(
            escaped(Path::new("/srv/.hidden/a.b_c")),
            r"srv-.hidden-a.b_c"
        );
    }

    #[test]
    fn what_belongs_to_the_system_or_to_kithd_itself_is_refused() {
        let state = Path::new("/var/lib/kithd");
        for path in [
            "/",
            "/etc/kithd",
            "/proc/1",
            "/var/lib",
            "/var/lib/kithd",
            "/var/lib/kithd/spool",
            "/a/../etc",
        ] {
            assert!(usable(Path::new(path), state).is_err(), "{path}");
        }
        for path in [
            "/home/anna//pictures/",
            "/mnt/nas",
            "/var/lib/kithd/inbox",
            "/run/media/anna",
        ] {
            assert!(usable(Path::new(path), state).is_ok(), "{path}");
        }
        assert_eq!(
            usable(Path::new("/mnt//nas/./a/"), state).unwrap(),
            Path::new("/mnt/nas/a")
        );
    }
}
