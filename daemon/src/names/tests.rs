//! Names in many scripts and spellings.

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
            "Arger", "Ärger", "bob", "Čapek", "İbrahim", "Jan", "Łukasz", "Maria", "Öztürk", "Zz"
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
