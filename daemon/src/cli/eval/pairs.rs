//! The file of pairs that `kithd eval` measures, and the person each picture shows.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::subjects::Half;

/// Columns of the file; the last two are there if the names of the pictures do not say who is on
/// them.
const COLUMNS: [&str; 5] = ["path_a", "path_b", "same", "person_a", "person_b"];

/// The pairs of a file, and the people in its pictures.
pub struct List {
    /// Both pictures of each pair.
    pub pairs: Vec<[PathBuf; 2]>,
    /// Each picture's person, as a number.
    pub pictures: BTreeMap<PathBuf, u32>,
    /// Number of people.
    pub people: usize,
}

impl List {
    /// Reads the pairs whose people are in this half; errors name the file and the line.
    pub fn read(file: &Path, half: Half) -> anyhow::Result<Self> {
        let content = std::fs::File::open(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        Self::parse(content, folder, half).with_context(|| file.display().to_string())
    }

    fn parse(content: impl Read, folder: &Path, half: Half) -> anyhow::Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(content);
        let header = reader.headers()?;
        ensure!(
            header == COLUMNS[..3] || header == COLUMNS[..],
            "it must begin with the line path_a,path_b,same or path_a,path_b,same,person_a,person_b"
        );
        let mut list = Self {
            pairs: Vec::new(),
            pictures: BTreeMap::new(),
            people: 0,
        };
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        for record in reader.records() {
            let record = record?;
            let number = record.position().map_or(0, csv::Position::line);
            let fields: Vec<_> = record.iter().collect();
            let (paths, same, people) = match fields[..] {
                [a, b, same @ ("0" | "1")] => ([a, b], same == "1", [a, b].map(person_of)),
                [a, b, same @ ("0" | "1"), one, two] => {
                    ([a, b], same == "1", [one, two].map(Into::into))
                }
                _ => bail!(
                    "line {number}: expected same as 0 or 1, but found {:?}",
                    fields.join(",")
                ),
            };
            ensure!(
                (people[0] == people[1]) == same,
                "line {number}: the pictures show {} and {} but same is {}; if that is right, say \
                 who is on each with the columns person_a,person_b",
                people[0],
                people[1],
                u8::from(same)
            );
            if !people.iter().all(|person| half.has(person)) {
                continue;
            }
            let paths = paths.map(|path| folder.join(path));
            for (path, person) in paths.iter().zip(people) {
                let next = numbers.len() as u32;
                let person = *numbers.entry(person).or_insert(next);
                let before = list.pictures.insert(path.clone(), person);
                ensure!(
                    before.is_none_or(|before| before == person),
                    "line {number}: {} shows one person here and another before",
                    path.display()
                );
            }
            list.pairs.push(paths);
        }
        list.people = numbers.len();
        Ok(list)
    }
}

/// Returns the person that a picture shows, by its path.
fn person_of(path: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let path = Path::new(path);
    let stem = part(path.file_stem());
    match stem.rsplit_once('_') {
        Some((name, number)) if digits(number) && !name.is_empty() => name.into(),
        _ if digits(&stem) => part(path.parent().and_then(Path::file_name)),
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_picture_shows_is_read_from_its_path() {
        for (path, person) in [
            ("Robert_DeFraites_0002.jpg", "Robert_DeFraites"),
            ("lfw/AJ_Cook/AJ_Cook_0001.jpg", "AJ_Cook"),
            ("labelled/bbt_howard/1.png", "bbt_howard"),
            ("singles/adams.jpg", "adams"),
            ("obama_2.jpg", "obama"),
            ("_0001.jpg", "_0001"),
        ] {
            assert_eq!(person_of(path), person, "{path}");
        }
    }

    #[test]
    fn people_are_numbered_and_a_half_pairs_only_its_own_people() {
        let text = "path_a,path_b,same\nA_0001.jpg,A_0002.jpg,1\nB_0001.jpg,B_0002.jpg,1\nA_0001.jpg,B_0001.jpg,0\n";
        let all = List::parse(text.as_bytes(), Path::new("/x"), Half::All).unwrap();
        assert_eq!((all.pairs.len(), all.pictures.len(), all.people), (3, 4, 2));
        assert_eq!(all.pairs[0][0], Path::new("/x/A_0001.jpg"));
        // Their sha256 begin with 5 and with d.
        assert!(Half::Tuning.has("A") && Half::Report.has("B"));
        for (half, of) in [(Half::Tuning, "A"), (Half::Report, "B")] {
            let list = List::parse(text.as_bytes(), Path::new("/x"), half).unwrap();
            assert_eq!((list.pairs.len(), list.people), (1, 1));
            assert!(list.pairs[0][0].to_string_lossy().contains(of));
        }
    }

    #[test]
    fn a_list_contradicting_the_names_must_name_the_people() {
        let refused = |text: &str| {
            format!(
                "{:#}",
                List::parse(text.as_bytes(), Path::new(""), Half::All)
                    .err()
                    .unwrap()
            )
        };
        let why = refused("path_a,path_b,same\na.jpg,b.jpg,1\n");
        assert!(
            why.contains("line 2") && why.contains("person_a,person_b"),
            "{why}"
        );
        let named =
            "path_a,path_b,same,person_a,person_b\na.jpg,b.jpg,1,Ann,Ann\na.jpg,c.jpg,0,Ann,Ben\n";
        let list = List::parse(named.as_bytes(), Path::new(""), Half::All).unwrap();
        assert_eq!((list.pairs.len(), list.people), (2, 2));
        let why = refused(
            "path_a,path_b,same,person_a,person_b\na.jpg,b.jpg,1,Ann,Ann\na.jpg,c.jpg,0,Eve,Ben\n",
        );
        assert!(why.contains("line 3") && why.contains("a.jpg"), "{why}");
        assert!(refused("a,b\n").contains("must begin"));
        assert!(refused("path_a,path_b,same\na.jpg,b.jpg,yes\n").contains("line 2"));
        assert!(refused("path_a,path_b,same\na.jpg,b.jpg\n").contains("line: 2"));
    }

    #[test]
    fn a_quoted_field_may_hold_a_comma() {
        let text =
            "path_a,path_b,same,person_a,person_b\n\"Lee, Ann/1.jpg\",b.jpg,0,\"Lee, Ann\",Ben\n";
        let list = List::parse(text.as_bytes(), Path::new("/x"), Half::All).unwrap();
        assert_eq!(list.pairs[0][0], Path::new("/x/Lee, Ann/1.jpg"));
    }
}
