//! Names that people type: of persons, pictures, boards. One function converts a name to its stored
//! form, one to the form for comparison; search, order and topic levels derive from the latter.
//!
//! File-system paths are not normalised: a path is its bytes.

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Most characters of a person's name and of a picture's name.
const LONGEST_OF_A_PERSON: usize = 200;
const LONGEST_OF_A_PICTURE: usize = 255;

/// Combining class of the signs that suppress a vowel in the scripts of India.
const VIRAMA: u8 = 9;

/// Returns the stored form: NFC, without control and invisible characters and marks on no letter,
/// runs of white space as one blank, trimmed.
///
/// The result may be empty. Sources: Unicode Standard Annex 15 (NFC), general categories Cc, Cf,
/// Co, Cs and Cn; RFC 5892, appendix A, for the two joiners, which change how a name is written in
/// some scripts.
pub fn clean(name: &str) -> String {
    let mut visible = String::with_capacity(name.len());
    let mut letters = name
        .nfc()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .peekable();
    while let Some(letter) = letters.next() {
        let before = visible.chars().next_back();
        // A mark needs a letter to stand on.
        let alone = is_mark(letter) && before.is_none_or(|before| before == ' ');
        if (is_visible(letter) && !alone) || joins(letter, before, letters.peek().copied()) {
            visible.push(letter);
        }
    }
    visible
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .nfc()
        .collect()
}

/// Returns the form for comparison: cleaned, without joiners, apostrophes and dashes of every kind
/// as one, then the Unicode compatibility caseless form. "MÜLLER", "Müller" and its decomposed
/// spelling are equal, as are "Ｊｏｅ" and "Joe", or "O’Brien" and "O'Brien".
///
/// Source: Unicode Standard, section 3.13, definition D146.
pub fn fold(name: &str) -> String {
    let folded: String = if name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        name.to_ascii_lowercase().replace('`', "'")
    } else {
        let signs = clean(name).chars().map(plain_sign).collect::<String>();
        signs
            .nfd()
            .default_case_fold()
            .nfkd()
            .default_case_fold()
            .nfkc()
            .filter(|c| !is_joiner(*c))
            .map(plain_sign)
            .collect()
    };
    folded
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .nfc()
        .collect()
}

/// Returns the apostrophe or hyphen of keyboards for the signs that stand for them.
fn plain_sign(c: char) -> char {
    match c {
        '`'
        | '\u{B4}'
        | '\u{2B9}'
        | '\u{2BB}'..='\u{2BD}'
        | '\u{2018}'..='\u{201B}'
        | '\u{2032}'
        | '\u{2035}'
        | '\u{A78B}'
        | '\u{A78C}'
        | '\u{FF07}'
        | '\u{FF40}' => '\'',
        '\u{2010}'..='\u{2015}'
        | '\u{2043}'
        | '\u{2212}'
        | '\u{FE58}'
        | '\u{FE63}'
        | '\u{FF0D}' => '-',
        c => c,
    }
}

/// Returns the form for ordering: folded, with base letters in place of those with accents, so that
/// "Ärger" stands beside "Arger".
pub fn base(name: &str) -> String {
    let mut base = String::with_capacity(name.len());
    for letter in fold(name).nfd().filter(|c| !is_accent(*c)) {
        match letter {
            'ø' => base.push('o'),
            'ł' => base.push('l'),
            'đ' | 'ð' => base.push('d'),
            'ħ' => base.push('h'),
            'ı' => base.push('i'),
            'æ' => base.push_str("ae"),
            'œ' => base.push_str("oe"),
            'þ' => base.push_str("th"),
            letter => base.push(letter),
        }
    }
    base.nfc().collect()
}

/// Returns true if a folded text is part of a name. A search without accents finds names with them:
/// "muller" finds "Müller".
pub fn holds(name: &str, folded: &str) -> bool {
    let own = fold(name);
    own.contains(folded) || (!own.is_ascii() && base(&own).contains(folded))
}

/// Returns the name as one level of a topic: words of small letters and digits of any script,
/// joined by hyphens. Empty if the name has none of these. Never contains `+`, `#`, `/` or NUL.
pub fn topic_level(name: &str) -> String {
    // Accents without a composed letter are dropped; signs that a script needs stay.
    let folded: String = fold(name).chars().filter(|c| !is_accent(*c)).collect();
    let in_words = |c: char| c.is_alphanumeric() || is_mark(c);
    folded
        .split(|c: char| !in_words(c))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

/// Returns a person's name in its stored form, or the reason why it is no valid name.
pub fn of_person(typed: &str) -> Result<String, String> {
    let name = clean(typed);
    match name.chars().count() {
        1..=LONGEST_OF_A_PERSON => Ok(name),
        0 => Err("a person's name must have at least one visible character".into()),
        count => Err(format!(
            "a person's name may have at most {LONGEST_OF_A_PERSON} characters; this one has {count}"
        )),
    }
}

/// Validates a name that is newly given: each word must be of one alphabet. Letters of two
/// alphabets can look alike and would make two people of one.
///
/// Source: Unicode Technical Standard 39, section 5.2, for the three alphabets whose letters look
/// alike.
pub fn given_to_person(typed: &str) -> Result<String, String> {
    let name = of_person(typed)?;
    for word in name.split(' ') {
        let mut alphabets = word.chars().filter_map(alphabet);
        if let Some(first) = alphabets.next()
            && let Some(other) = alphabets.find(|other| *other != first)
        {
            return Err(format!(
                "{word:?} has {first} and {other} letters, of which some look alike; type it in one alphabet"
            ));
        }
    }
    Ok(name)
}

/// Returns a picture's name in its stored form.
pub fn of_picture(name: &str) -> String {
    clean(name).chars().take(LONGEST_OF_A_PICTURE).collect()
}

fn is_visible(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse, Surrogate, Unassigned};
    // Fillers and blanks are letters and symbols by category but have no glyph; so do variation
    // selectors among the marks. The object replacement character stands for a picture that is gone.
    let filler = matches!(
        c,
        '\u{034F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180D}' | '\u{180F}' | '\u{2800}'
            | '\u{3164}' | '\u{FFA0}' | '\u{FFFC}' | '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}'
    );
    !filler
        && !matches!(
            c.general_category(),
            Control | Format | PrivateUse | Surrogate | Unassigned
        )
}

fn alphabet(c: char) -> Option<&'static str> {
    match c {
        'A'..='Z'
        | 'a'..='z'
        | '\u{C0}'..='\u{D6}'
        | '\u{D8}'..='\u{F6}'
        | '\u{F8}'..='\u{24F}'
        | '\u{1E00}'..='\u{1EFF}' => Some("Latin"),
        '\u{370}'..='\u{3FF}' | '\u{1F00}'..='\u{1FFF}' => Some("Greek"),
        '\u{400}'..='\u{52F}' => Some("Cyrillic"),
        _ => None,
    }
}

/// Returns true for the zero width non-joiner and joiner.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}')
}

/// Returns true if a joiner at this place changes the rendering: after a virama, and, for the
/// non-joiner, between two letters of Arabic.
fn joins(c: char, before: Option<char>, after: Option<char>) -> bool {
    let arabic = |c: Option<char>| {
        c.is_some_and(|c| matches!(c, '\u{0620}'..='\u{06FF}' | '\u{0750}'..='\u{077F}'))
    };
    is_joiner(c)
        && after.is_some_and(char::is_alphabetic)
        && (before.is_some_and(|before| canonical_combining_class(before) == VIRAMA)
            || (c == '\u{200C}' && arabic(before) && arabic(after)))
}

fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}

/// Returns true for combining marks of alphabets that can be read without them.
fn is_accent(c: char) -> bool {
    matches!(c, '\u{0300}'..='\u{036F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_stored_composed_trimmed_and_visible() {
        assert_eq!(clean("  Jose\u{301} \u{200b}\tDías "), "José Días");
        let invisible = [
            "\u{200b}",
            "\u{feff}",
            "\u{2060}",
            "\u{202e}",
            "\u{3164}",
            "\u{2800}",
            "\u{ad}\u{fe0f}",
            " \n",
            "\u{301}",
            " \u{301}\u{20dd}",
            "\u{200b}\u{93f}",
            "\u{fffc}",
            "\u{e000}",
            "\u{f8ff}\u{100000}",
            "\u{fdd0}",
            "\u{ffff}",
            "\u{378}",
        ];
        for invisible in invisible {
            assert_eq!(clean(invisible), "", "{invisible:?}");
            assert!(of_person(invisible).is_err(), "{invisible:?}");
        }
        assert_eq!(clean("\u{202e}nnA"), "nnA");
        for shown in [
            "Ann\u{fffc}",
            "\u{301}Ann",
            "\u{e000}Ann\u{fdd0}",
            "Ann \u{301}",
        ] {
            assert_eq!(of_person(shown).as_deref(), Ok("Ann"), "{shown:?}");
        }
        assert_eq!(clean("Eileen\u{a0}\u{3000}Collins\0"), "Eileen Collins");
        assert_eq!(clean("अक्षय"), "अक्षय");
        assert!(
            of_person(&"a".repeat(201))
                .unwrap_err()
                .contains("at most 200")
        );
        assert_eq!(
            of_person(&format!(" {} ", "ä".repeat(200)))
                .unwrap()
                .chars()
                .count(),
            200
        );
    }

    #[test]
    fn a_given_name_mixes_no_letters_that_look_alike() {
        for mixed in [
            "\u{410}nna",
            "Maria \u{39F}lsen",
            "Ivan\u{43E}v",
            "\u{397}ENRY",
            "Jos\u{e9} Marí\u{430}",
        ] {
            let why = given_to_person(mixed).unwrap_err();
            assert!(
                why.contains("Latin") && why.contains("type it in one alphabet"),
                "{mixed}: {why}"
            );
        }
        for one in [
            "Анна",
            "Σίσυφος",
            "Anna Иванова",
            "José O'Neill",
            "Łukasz",
            "Nguyễn",
            "李 Wei",
            "アン",
            "Ann-2",
        ] {
            assert_eq!(given_to_person(one).as_deref(), Ok(one));
        }
        // A stored name stays valid.
        assert!(of_person("\u{410}nna").is_ok());
    }

    #[test]
    fn joiners_stay_where_a_script_is_written_with_them() {
        for name in ["ශ්\u{200d}රී", "می\u{200c}نا"] {
            assert_eq!(clean(name), name);
            assert_eq!(
                fold(name),
                fold(&name.replace(['\u{200c}', '\u{200d}'], ""))
            );
        }
        assert_eq!(clean("An\u{200d}na\u{200c}"), "Anna");
    }

    #[test]
    fn names_are_compared_without_case_by_unicode() {
        assert_eq!(fold("MÜLLER"), fold("mu\u{308}ller"));
        assert_eq!(fold("Straße"), fold("STRASSE"));
        assert_eq!(fold("ΣΊΣΥΦΟΣ"), fold("σίσυφος"));
        assert_eq!(fold("ВЛАДИМИР"), fold("Владимир"));
        assert_ne!(fold("Ann"), fold("Anna"));
        assert_ne!(fold("Muller"), fold("Müller"));
    }

    #[test]
    fn names_are_compared_whatever_keyboard_wrote_them() {
        for (one, other) in [
            ("Ｊｏｅ", "Joe"),
            ("Ｊｏｅ　Ｏ＇Ｂｒｉｅｎ", "joe o'brien"),
            ("O\u{2019}Brien", "O'Brien"),
            ("O\u{2bc}Brien", "O'Brien"),
            ("O\u{b4}Brien", "O`brien"),
            ("Jean\u{2011}Luc", "Jean-Luc"),
            ("Jean\u{2013}Luc", "JEAN\u{2212}LUC"),
            ("ｱﾝ", "アン"),
            ("Ste\u{fb03}", "Steffi"),
            ("Ann\u{a0}Lee", "ann lee"),
            ("Ⅷ", "VIII"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
            assert!(
                holds(one, &fold(other)) && holds(other, &fold(one)),
                "{one}"
            );
            assert_eq!(fold(&fold(one)), fold(one), "{one}");
        }
        // The stored name stays as it was written.
        for written in ["Ｊｏｅ", "O\u{2019}Brien", "Jean\u{2011}Luc"] {
            assert_eq!(of_person(written).as_deref(), Ok(written));
        }
        for (one, other) in [
            ("O'Brien", "OBrien"),
            ("Jean-Luc", "Jean Luc"),
            ("Jo", "Joe"),
        ] {
            assert_ne!(fold(one), fold(other));
        }
    }

    #[test]
    fn a_search_finds_accents_whether_they_are_typed_or_not() {
        for (name, text) in [
            ("müller", "MÜLLER"),
            ("José", "jose\u{301}"),
            ("Straße", "STRASSE"),
            ("İbrahim", "ibrahim"),
        ] {
            assert!(holds(name, &fold(text)), "{name} {text}");
        }
        for (name, text) in [
            ("Müller", "muller"),
            ("Łukasz", "lukasz"),
            ("Øystein", "oys"),
            ("Anna", ""),
        ] {
            assert!(holds(name, &fold(text)), "{name} {text}");
        }
        assert!(!holds("Muller", &fold("müller")));
        assert!(!holds("Anna", &fold("nn b")));
    }

    #[test]
    fn names_are_ordered_by_their_base_letters() {
        let mut names = [
            "Zz", "Öztürk", "Ärger", "Arger", "Łukasz", "Maria", "bob", "Čapek", "İbrahim", "Jan",
        ];
        names.sort_by_key(|name| (base(name), fold(name)));
        assert_eq!(
            names,
            [
                "Arger", "Ärger", "bob", "Čapek", "İbrahim", "Jan", "Łukasz", "Maria", "Öztürk",
                "Zz"
            ]
        );
    }

    #[test]
    fn a_name_makes_a_level_of_a_topic() {
        for (name, level) in [
            ("Barack Obama", "barack-obama"),
            (" José / O'Neill+#", "josé-o-neill"),
            ("JOSE\u{301}", "josé"),
            ("İbrahim", "ibrahim"),
            ("अक्षय", "अक्षय"),
            ("ปิยะ", "ปิยะ"),
            ("Ann\u{200b}a", "anna"),
            ("Ẹ̀bùn", "ẹbùn"),
            ("$SYS", "sys"),
            ("+/#\0", ""),
        ] {
            assert_eq!(topic_level(name), level, "{name}");
        }
    }
}
