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
    // selectors among the marks. The object replacement character stands for a picture that is
    // gone.
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
mod tests;
