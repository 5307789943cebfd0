//! Topic names and topic filters: validity and matching. Our own code, because rumqttc's matching
//! cuts a topic after its first byte, which panics where a topic begins with a multi-byte letter.
//!
//! The names of topics are the callers' concern. Source: MQTT 5.0, sections 1.5.4 and 4.7.

/// Longest topic or filter, in bytes of UTF-8.
const LONGEST: usize = 65535;

/// Returns whether a message can be published to this topic.
///
/// Refuses control characters and non-characters although the protocol only advises against them:
/// brokers may end the connection of a client that sends them.
pub fn is_topic(topic: &str) -> bool {
    is_text(topic)
        && !topic.contains(['+', '#'])
        && !topic.chars().any(|c| c.is_control() || is_noncharacter(c))
}

/// Returns whether this is a valid filter, including shared ones, `$share/<group>/<filter>`.
pub fn is_filter(filter: &str) -> bool {
    if let Some(shared) = filter.strip_prefix("$share/") {
        let Some((group, filter)) = shared.split_once('/') else {
            return false;
        };
        return !group.is_empty()
            && !group.contains(['+', '#'])
            && !filter.is_empty()
            && is_filter(filter);
    }
    let mut levels = filter.split('/').peekable();
    let mut valid = is_text(filter);
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        // A wildcard stands alone in its level, and # in the last one.
        valid &= level == "+" || (level == "#" && last) || !level.contains(['+', '#']);
    }
    valid
}

/// Returns whether the filter matches the topic; the group of a shared subscription is ignored.
pub fn matches(topic: &str, filter: &str) -> bool {
    let shared = filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'));
    let filter = shared.map_or(filter, |(_, filter)| filter);
    // A wildcard in the first level does not match the broker's own topics.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topics = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topics.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    topics.next().is_none()
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.contains('\0')
}

fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_protocol_says() {
        for (filter, topic, expected) in [
            // Examples of sections 4.7.1 and 4.7.2.
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/broker/load", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/broker/load", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("$SYS/#", "$SYS", true),
            ("ACCOUNTS", "accounts", false),
            ("a", "a/", false),
            ("a//b", "a//b", true),
            ("a/+/b", "a//b", true),
            // Letters beyond ASCII: first, alone, composed and decomposed.
            ("+/snapshot", "Übersicht/snapshot", true),
            ("#", "über", true),
            ("über/+", "über/antwort", true),
            ("é", "e\u{301}", false),
            ("+", "\u{fffd}bersicht", true),
            ("+", "🙂", true),
            // The group of a shared subscription is no level, whatever its name.
            ("$share/boards/site/#", "site/a", true),
            ("$share/boards/#", "$SYS/broker", false),
            ("$share/boards/+/a", "$share/a", false),
            ("", "a", false),
            ("a", "", false),
            ("+", "", true),
        ] {
            assert_eq!(matches(topic, filter), expected, "{filter} and {topic}");
        }
    }

    #[test]
    fn valid_topics_and_filters_are_told_from_others() {
        let longest = "x".repeat(LONGEST);
        for topic in [
            "a",
            "/",
            "a//b",
            "über/antwort",
            " ",
            "a b",
            "$SYS/x",
            longest.as_str(),
        ] {
            assert!(is_topic(topic) && is_filter(topic), "{topic}");
        }
        let long = "ü".repeat(LONGEST / 2 + 1);
        for neither in ["", "a\0b", "a+/b#", long.as_str()] {
            assert!(!is_topic(neither) && !is_filter(neither), "{neither}");
        }
        for bad_topic in [
            "a/+",
            "#",
            "a\u{1}",
            "a\u{7f}",
            "a\u{85}",
            "a\u{fdd0}",
            "a\u{1ffff}",
        ] {
            assert!(!is_topic(bad_topic), "{bad_topic:?}");
        }
        for filter in [
            "#",
            "+",
            "+/tennis/#",
            "/+/",
            "sport/#",
            "$share/group/a/+",
            "$share/group//",
        ] {
            assert!(is_filter(filter), "{filter}");
        }
        for bad_filter in [
            "sport/tennis#",
            "sport/tennis/#/ranking",
            "sport+",
            "++",
            "a/#/",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/g+/a",
            "$share/g/a#",
        ] {
            assert!(!is_filter(bad_filter), "{bad_filter}");
        }
    }

    #[test]
    fn no_topic_whatever_its_bytes_makes_matching_panic() {
        let letters = [
            'a', '/', '+', '#', '$', '\0', 'ü', '\u{fffd}', '🙂', '\u{301}',
        ];
        let text = || {
            (0..fastrand::usize(..6))
                .map(|_| letters[fastrand::usize(..letters.len())])
                .collect::<String>()
        };
        for _ in 0..20_000 {
            let (topic, filter) = (text(), text());
            let _ = (
                matches(&topic, &filter),
                is_topic(&topic),
                is_filter(&filter),
            );
        }
    }
}
