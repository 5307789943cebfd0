//! Text given as a path, alone or in JSON: returns the paths it certainly means, or refuses it with
//! a sentence about what came and what to send. `Intake` decides which paths may be read.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::domain::Origin;

/// Reasons why JSON names no paths. The text continues a sentence after "the message" or "it".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPaths {
    /// It cannot be parsed.
    #[error("is not JSON ({0})")]
    NotJson(String),
    /// It is JSON of another meaning.
    #[error("has no path")]
    None,
    /// Its list is empty.
    #[error("has an empty list of paths")]
    Empty,
    /// It names paths in more than one place.
    #[error(
        "gives paths in more than one place, and none of them is taken; send one \"path\", or all in \"paths\""
    )]
    Several,
    /// It is a picture as Node-RED and Node.js write it.
    #[error("is a Node-RED Buffer as JSON; send the Buffer itself (msg.payload)")]
    Buffer,
}

/// A path, and the camera and the event that its picture comes from.
pub type Named = (String, Origin);

/// Returns the paths in JSON, one at least: `{"path":"…"}`, `{"paths":[…]}`, a list or a string;
/// each entry of a list is a string or `{"path":"…"}`. JSON with paths in several places is
/// refused, so that none is dropped unsaid. `camera` and `event` beside a path are its origin, those
/// beside a list are that of each entry without its own; they may be no valid ones. `null` counts as
/// absent, and other keys are ignored.
pub fn in_json(text: &[u8]) -> Result<Vec<Named>, NoPaths> {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let end = text.iter().rposition(|byte| !blank(byte));
    let mut json = serde_json::Deserializer::from_slice(&text[..end.map_or(0, |end| end + 1)]);
    let mut paths = Vec::new();
    let seed = Found {
        paths: &mut paths,
        level: Level::Whole,
    };
    let read = seed.deserialize(&mut json).and_then(|_| json.end());
    match read {
        Ok(()) if paths.is_empty() => Err(NoPaths::Empty),
        Ok(()) => Ok(paths),
        Err(error) if error.is_data() => Err(match error.to_string() {
            text if text.starts_with(SEVERAL) => NoPaths::Several,
            text if text.starts_with(BUFFER) => NoPaths::Buffer,
            _ => NoPaths::None,
        }),
        Err(error) => Err(NoPaths::NotJson(error.to_string())),
    }
}

/// Errors of [`Found`], told apart by their text: serde passes no other.
const SEVERAL: &str = "several";
const BUFFER: &str = "buffer";
const NONE: &str = "none";

/// Depth in the JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Whole,
    List,
    Entry,
}

/// Collects the paths in a part of the JSON; returns false for `null` in place of a list.
struct Found<'a> {
    paths: &'a mut Vec<Named>,
    level: Level,
}

impl<'de> DeserializeSeed<'de> for Found<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Found<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        match self.level {
            Level::List => Ok(false),
            Level::Whole | Level::Entry => Err(E::custom(NONE)),
        }
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<bool, E> {
        if self.level == Level::List {
            return Err(E::custom(NONE));
        }
        self.paths.push((path.into(), Origin::default()));
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        if self.level == Level::Entry {
            return Err(A::Error::custom(NONE));
        }
        let mut more = true;
        while more {
            let entry = Found {
                paths: self.paths,
                level: Level::Entry,
            };
            more = list.next_element_seed(entry)?.is_some();
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<bool, A::Error> {
        let (mut given, mut buffer) = (false, false);
        let (mut origin, first) = (Origin::default(), self.paths.len());
        while let Some(key) = object.next_key::<String>()? {
            let gives = match key.as_str() {
                "path" => match object.next_value()? {
                    Value::Null => false,
                    Value::String(path) => {
                        self.paths.push((path, Origin::default()));
                        true
                    }
                    _ => return Err(A::Error::custom(NONE)),
                },
                "paths" => object.next_value_seed(Found {
                    paths: self.paths,
                    level: Level::List,
                })?,
                "camera" => {
                    origin.camera = name(object.next_value()?);
                    false
                }
                "event" => {
                    origin.event = name(object.next_value()?);
                    false
                }
                "type" => {
                    buffer = object.next_value::<Value>()? == "Buffer";
                    false
                }
                _ => {
                    object.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if gives && given {
                return Err(A::Error::custom(SEVERAL));
            }
            given |= gives;
        }
        for (_, own) in &mut self.paths[first..] {
            *own = std::mem::take(own).or(&origin);
        }
        match (given, self.level) {
            (true, Level::Whole | Level::Entry) => Ok(true),
            _ if buffer => Err(A::Error::custom(BUFFER)),
            _ => Err(A::Error::custom(NONE)),
        }
    }
}

/// Returns the name in a value. What is no text becomes a name that is not valid.
fn name(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(name) => Some(name),
        other => Some(format!("{other} (no text)")),
    }
}

use percent_encoding::percent_decode_str;

/// Returns the path in a sender's text.
pub fn plain(text: &str) -> Result<String, String> {
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .trim_end_matches(['\0', '\r', '\n']);
    if let Some(uri) = text
        .get(..5)
        .filter(|scheme| scheme.eq_ignore_ascii_case("file:"))
        .and(text.get(5..))
    {
        return file_uri(uri).ok_or_else(|| {
            format!("{text:?} is no file:/// URI of this board; send the path itself, for example \"/srv/kithd/inbox/a.jpg\"")
        });
    }
    let drive =
        text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && text.get(1..2) == Some(":");
    if text.starts_with("\\\\") || drive {
        return Err(format!(
            "{text:?} is a path of Windows; mount the share on this board and send the path below its mount point, for \
             example \"/srv/nas/a.jpg\""
        ));
    }
    if let Some((scheme, _)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
    {
        return Err(format!(
            "{text:?} is a URL, and kithd fetches nothing; send the path of a file on this board, \
             or the bytes of the picture"
        ));
    }
    if text.starts_with(['"', '\'', '“', '‘', '`']) {
        return Err(format!(
            "the path stands in quotes: {text}; send it without them"
        ));
    }
    Ok(text.to_owned())
}

/// Returns the path after `file:` (RFC 8089, this host only); `None` when it names no absolute path
/// here.
fn file_uri(rest: &str) -> Option<String> {
    let path = match rest.strip_prefix("//") {
        Some(rest) => &rest[rest.find('/')?..],
        None => rest,
    };
    let host = rest
        .strip_prefix("//")
        .and_then(|rest| rest.strip_suffix(path))
        .unwrap_or_default();
    if !path.starts_with('/') || !(host.is_empty() || host.eq_ignore_ascii_case("localhost")) {
        return None;
    }
    let is_escape = |(at, _)| {
        let digits = path.as_bytes().get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    // The decoder takes a "%" without digits for itself; such a text is no URI.
    if !path.match_indices('%').all(is_escape) {
        return None;
    }
    let path = percent_decode_str(path).decode_utf8().ok()?;
    Some(path.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_certainly_meant_is_taken() {
        for (text, path) in [
            ("/a/b.jpg", "/a/b.jpg"),
            ("\u{feff}/a/b.jpg", "/a/b.jpg"),
            ("/a/b.jpg\0", "/a/b.jpg"),
            ("/a/b.jpg\r\n\0", "/a/b.jpg"),
            ("/a/ends in blank ", "/a/ends in blank "),
            ("file:///a/b%20c.jpg", "/a/b c.jpg"),
            ("file:/a/b.jpg", "/a/b.jpg"),
            ("FILE://localhost/a/%C3%BC.jpg", "/a/ü.jpg"),
            ("/a/100%.jpg", "/a/100%.jpg"),
            ("/a/http://b.jpg", "/a/http://b.jpg"),
            ("relative.jpg", "relative.jpg"),
        ] {
            assert_eq!(plain(text).as_deref(), Ok(path), "{text:?}");
        }
    }

    #[test]
    fn json_names_one_path_or_several_in_any_of_its_forms() {
        for (json, paths) in [
            (r#"{"path":"/a"}"#, &["/a"][..]),
            (r#"{"paths":[{"path":"/a"},{"path":"/b"}]}"#, &["/a", "/b"]),
            (r#"{"paths":["/a","/b"]}"#, &["/a", "/b"]),
            (r#"{"paths":["/a",{"path":"/b"}]}"#, &["/a", "/b"]),
            (r#"["/a"]"#, &["/a"]),
            (r#"[{"path":"/a"},"/b"]"#, &["/a", "/b"]),
            (r#""/a""#, &["/a"]),
            (r#"{"path":"/a","paths":null}"#, &["/a"]),
            (r#"{"paths":["/a"],"path":null}"#, &["/a"]),
            (r#"{"type":"Buffer","path":"/a","data":[1]}"#, &["/a"]),
            ("\u{feff} {\"path\":\"/a\"}\r\n\0", &["/a"]),
        ] {
            let found = in_json(json.as_bytes()).unwrap();
            let found: Vec<_> = found.into_iter().map(|(path, _)| path).collect();
            assert_eq!(found, paths, "{json}");
        }
    }

    #[test]
    fn an_origin_in_json_belongs_to_its_path_or_to_all() {
        for (json, expected) in [
            (
                r#"{"path":"/a","camera":"front","event":"e-1"}"#,
                "front e-1",
            ),
            (r#"{"event":"7","camera":null,"path":"/a"}"#, "- 7"),
            (r#"{"path":"/a","camera":7}"#, "7 (no text) -"),
            (
                r#"{"camera":"front","paths":["/a",{"path":"/b","camera":"yard","event":"e"}]}"#,
                "front -,yard e",
            ),
            (
                r#"{"paths":["/a",{"path":"/b","camera":"yard"}],"event":"e"}"#,
                "- e,yard e",
            ),
            (r#"[{"path":"/a","camera":"front"},"/b"]"#, "front -,- -"),
        ] {
            let found = in_json(json.as_bytes()).unwrap();
            let part = |part: &Option<String>| part.clone().unwrap_or("-".into());
            let origins = found
                .iter()
                .map(|(_, it)| format!("{} {}", part(&it.camera), part(&it.event)));
            assert_eq!(origins.collect::<Vec<_>>().join(","), expected, "{json}");
        }
    }

    #[test]
    fn paths_in_several_places_of_json_are_refused_as_a_whole() {
        for json in [
            r#"{"path":"/a","paths":[{"path":"/b"}]}"#,
            r#"{"paths":["/b"],"path":"/a"}"#,
            r#"{"path":"/a","paths":[]}"#,
            r#"{"path":"/a","path":"/b"}"#,
            r#"{"paths":["/a"],"paths":["/b"]}"#,
            r#"{"path":"/a","\u0070ath":"/b"}"#,
            r#"[{"path":"/a","path":"/b"}]"#,
            r#"[{"path":"/a","paths":["/b"]}]"#,
        ] {
            assert_eq!(in_json(json.as_bytes()), Err(NoPaths::Several), "{json}");
        }
        for (json, why) in [
            (r#"{"file":"/a"}"#, NoPaths::None),
            (r#"{"Path":"/a"}"#, NoPaths::None),
            (r#"{"path":["/a"]}"#, NoPaths::None),
            (r#"{"path":null}"#, NoPaths::None),
            (r#"{"paths":"/a"}"#, NoPaths::None),
            (r#"{"paths":{"path":"/a"}}"#, NoPaths::None),
            (r#"["/a",42]"#, NoPaths::None),
            (r#"[["/a"]]"#, NoPaths::None),
            (r#"["/a",null]"#, NoPaths::None),
            ("null", NoPaths::None),
            ("{}", NoPaths::None),
            ("[]", NoPaths::Empty),
            (r#"{"paths":[]}"#, NoPaths::Empty),
            (r#"{"type":"Buffer","data":[255]}"#, NoPaths::Buffer),
        ] {
            assert_eq!(in_json(json.as_bytes()), Err(why), "{json}");
        }
        for json in [
            "",
            r#"{"path":"/a"} {"path":"/b"}"#,
            r#"{"path":"/a""#,
            "/a",
        ] {
            let why = in_json(json.as_bytes()).unwrap_err();
            assert!(matches!(why, NoPaths::NotJson(_)), "{json}: {why}");
        }
    }

    #[test]
    fn a_path_of_elsewhere_is_refused_with_what_to_send() {
        for (text, reason) in [
            ("\\\\nas\\share\\a.jpg", "mount the share"),
            ("C:\\pictures\\a.jpg", "a path of Windows"),
            ("c:/pictures/a.jpg", "a path of Windows"),
            ("http://camera/snap.jpg", "fetches nothing"),
            ("smb://nas/a.jpg", "fetches nothing"),
            ("rtsp://camera/1", "fetches nothing"),
            ("file://nas/share/a.jpg", "no file:/// URI of this board"),
            ("file:a.jpg", "no file:/// URI"),
            ("file:///a%2", "no file:/// URI"),
            ("file:///a%FF", "no file:/// URI"),
            ("file://", "no file:/// URI"),
            ("'/a/b.jpg'", "stands in quotes"),
            ("“/a/b.jpg”", "stands in quotes"),
        ] {
            let error = plain(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
