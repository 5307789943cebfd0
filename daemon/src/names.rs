//! Names that people type: of persons, pictures, boards. One function brings a name to its stored form, one to the form
//! in which names are compared and searched.
//!
//! Not for paths: those are the file system's bytes. Not for topic levels: `sinks` makes those from a folded name.

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The stored form: NFC, without control and invisible characters, runs of white space as one blank, trimmed.
///
/// May be empty. Sources: Unicode Standard Annex 15 (NFC), general categories Cc, Cf, Co, Cs and Cn.
pub fn clean(name: &str) -> String {
    let visible: String = name.nfc().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(is_visible).collect();
    visible.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ").nfc().collect()
}

/// The form for comparing and searching: cleaned, then the Unicode canonical caseless form, so that "MÜLLER", "Müller"
/// and its decomposed spelling are one.
///
/// Source: Unicode Standard, section 3.13, definition D145.
#[allow(dead_code, reason = "search and comparison follow")]
pub fn fold(name: &str) -> String {
    clean(name).nfd().default_case_fold().nfc().collect()
}

fn is_visible(c: &char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse, Surrogate, Unassigned};
    // Fillers: letters by their category, with no glyph.
    let filler = matches!(
        c,
        '\u{034F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{3164}' | '\u{FFA0}' | '\u{FE00}'
            ..='\u{FE0F}'
    );
    !filler && !matches!(c.general_category(), Control | Format | PrivateUse | Surrogate | Unassigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_stored_composed_trimmed_and_visible() {
        assert_eq!(clean("  Jose\u{301} \u{200b}\tDías "), "José Días");
        for invisible in ["\u{200b}", "\u{feff}", "\u{2060}", "\u{202e}", "\u{3164}", " \n"] {
            assert_eq!(clean(invisible), "", "{invisible:?}");
        }
        assert_eq!(clean("\u{202e}nnA"), "nnA");
        assert_eq!(clean("अक्षय"), "अक्षय");
    }

    #[test]
    fn names_are_compared_without_case_by_unicode() {
        assert_eq!(fold("MÜLLER"), fold("mu\u{308}ller"));
        assert_eq!(fold("Straße"), fold("STRASSE"));
        assert_eq!(fold("ΣΊΣΥΦΟΣ"), fold("σίσυφος"));
        assert_ne!(fold("Ann"), fold("Anna"));
    }
}
