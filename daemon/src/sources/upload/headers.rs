//! What the headers of a request, or of a part of a form, say of its content.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use mime::Mime;
use percent_encoding::percent_decode_str;

use super::UNNAMED;

/// Returns the content type by RFC 9110: without case, parameters and blanks.
pub(super) fn content_type(headers: &HeaderMap) -> Option<Mime> {
    headers
        .get(header::CONTENT_TYPE)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Returns the file name of a part; `None` when it declares no file. `filename*` in UTF-8 (RFC
/// 8187) is preferred; invalid UTF-8 is read as Latin-1, which browsers once sent.
pub(super) fn file_name(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(header::CONTENT_DISPOSITION)?.as_bytes();
    let header = match str::from_utf8(header) {
        Ok(text) => text.to_string(),
        Err(_) => header.iter().copied().map(char::from).collect(),
    };
    let (mut plain, mut extended) = (None, None);
    for (key, value) in parameters(&header) {
        match key.as_str() {
            "filename" => plain = plain.or(Some(value)),
            "filename*" => extended = extended.or_else(|| percent_decoded(&value)),
            _ => {}
        }
    }
    // An unreadable name still declares a file.
    extended.or(plain).or_else(|| {
        header
            .to_ascii_lowercase()
            .contains("filename")
            .then(|| UNNAMED.into())
    })
}

/// Returns a header's parameters, keys in lower case, values unquoted.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', '\t', ';']).to_ascii_lowercase();
        let after = after.trim_start();
        let mut value = String::new();
        let mut characters = after.char_indices();
        let quoted = after.starts_with('"');
        if quoted {
            characters.next();
        }
        let mut end = after.len();
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' if quoted => value.extend(characters.next().map(|(_, c)| c)),
                '"' if quoted => {
                    end = at + 1;
                    break;
                }
                ';' if !quoted => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        found.push((key, if quoted { value } else { value.trim().into() }));
        rest = &after[end..];
    }
    found
}

/// Decodes an extended value such as `UTF-8''na%C3%AFve.jpg`.
fn percent_decoded(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let charset = parts.next()?;
    let (_, text) = (parts.next()?, parts.next()?);
    let bytes = percent_decode_str(text);
    if charset.eq_ignore_ascii_case("UTF-8") {
        bytes.decode_utf8().ok().map(Cow::into_owned)
    } else {
        Some(bytes.map(char::from).collect())
    }
}
