//! Normalises text given as a path: returns the path it certainly means, or refuses it with a
//! sentence about what came and what to send. `Intake` decides which paths may be read.

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
