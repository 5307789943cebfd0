//! XML as devices send it, read into a list of elements by their names without prefixes, because
//! every vendor has its own. Namespaces are ignored; a document type, and so every entity that is
//! not XML's own, is refused. Time and memory grow with the size only.

use quick_xml::Reader;
use quick_xml::escape::{resolve_predefined_entity, unescape};
use quick_xml::events::{BytesStart, Event};

/// A document.
pub struct Xml {
    /// In the order of their start tags; the first is the document itself.
    elements: Vec<Element>,
}

#[derive(Default)]
struct Element {
    name: String,
    /// Attribute `token`.
    token: Option<String>,
    text: String,
    parent: usize,
    /// Place behind its last descendant.
    end: usize,
}

impl Element {
    fn new(tag: &BytesStart<'_>, parent: usize, at: usize) -> Self {
        let mut attributes = tag.attributes();
        // Comparing each with all before would take time that grows with the square.
        let token = attributes.with_checks(false).flatten().find_map(|pair| {
            let is_it = pair.key.local_name().as_ref() == "token";
            is_it.then(|| unescape(&pair.value).ok().map(String::from))?
        });
        Self {
            name: tag.local_name().as_ref().to_owned(),
            token,
            text: String::new(),
            parent,
            end: at + 1,
        }
    }
}

impl Xml {
    /// Parses a document. The error is what is wrong with it, without control characters.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(bytes);
        let mut reader = Reader::from_str(&text);
        let mut elements = vec![Element::default()];
        let mut open = vec![0];
        loop {
            let inside = open.last().copied().unwrap_or_default();
            let event = reader.read_event();
            match event.map_err(|error| crate::cli::camera::shown(&error.to_string()))? {
                Event::Start(tag) => {
                    open.push(elements.len());
                    elements.push(Element::new(&tag, inside, elements.len()));
                }
                Event::Empty(tag) => elements.push(Element::new(&tag, inside, elements.len())),
                Event::End(_) => {
                    elements[inside].end = elements.len();
                    open.pop();
                }
                Event::Text(text) => elements[inside].text.push_str(&text),
                Event::CData(text) => elements[inside].text.push_str(&text),
                Event::GeneralRef(name) => match name.resolve_char_ref() {
                    Ok(Some(c)) => elements[inside].text.push(c),
                    Ok(None) => match resolve_predefined_entity(&name) {
                        Some(text) => elements[inside].text.push_str(text),
                        None => return Err("it has entities of its own".into()),
                    },
                    Err(_) => return Err("it has a character that does not exist".into()),
                },
                Event::DocType(_) => return Err("it has a document type".into()),
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
        if open.len() != 1 {
            return Err("it is cut off".into());
        }
        elements[0].end = elements.len();
        Ok(Self { elements })
    }

    /// Returns the document, of which all elements are descendants.
    pub fn root(&self) -> Node<'_> {
        Node { xml: self, at: 0 }
    }
}

/// An element of a document.
#[derive(Clone, Copy)]
pub struct Node<'x> {
    xml: &'x Xml,
    at: usize,
}

impl<'x> Node<'x> {
    fn element(self) -> &'x Element {
        &self.xml.elements[self.at]
    }

    /// Returns its descendants of this name, in the order of their start tags.
    pub fn all(self, name: &str) -> impl Iterator<Item = Node<'x>> {
        let xml = self.xml;
        (self.at + 1..self.element().end)
            .filter(move |at| xml.elements[*at].name == name)
            .map(move |at| Node { xml, at })
    }

    /// Returns the first descendant of this name.
    pub fn find(self, name: &str) -> Option<Node<'x>> {
        self.all(name).next()
    }

    /// Returns the first child of this name.
    pub fn child(self, name: &str) -> Option<Node<'x>> {
        self.all(name).find(|node| node.element().parent == self.at)
    }

    /// Returns its own text without surrounding blanks.
    pub fn text(self) -> &'x str {
        self.element().text.trim()
    }

    /// Returns the text of the first descendant of this name, unless it is empty.
    pub fn text_of(self, name: &str) -> Option<&'x str> {
        Some(self.find(name)?.text()).filter(|text| !text.is_empty())
    }

    /// Returns the attribute `token`.
    pub fn token(self) -> Option<&'x str> {
        self.element().token.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn names_lose_prefixes_and_texts_their_escapes() {
        let xml = Xml::parse(
            b"\xEF\xBB\xBF<?xml version='1.0'?><a:x xmlns:a='n'><!-- c --><b:y a:token=\"1&amp;2\"> \
              p&amp;q&#x41;<![CDATA[<z>]]> </b:y><y/><w><y>deep</y></w></a:x>",
        )
        .unwrap();
        let x = xml.root().find("x").unwrap();
        let y = x.find("y").unwrap();
        assert_eq!((y.token(), y.text()), (Some("1&2"), "p&qA<z>"));
        assert_eq!(x.all("y").count(), 3);
        assert_eq!(x.child("w").unwrap().text_of("y"), Some("deep"));
        assert!(xml.root().child("y").is_none());
    }

    #[test]
    fn entities_of_their_own_and_broken_documents_are_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]><x>&b;</x>";
        for (wrong, why) in [
            (bomb, "document type"),
            (
                "<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><x/>",
                "document type",
            ),
            ("<x>&b;</x>", "entities"),
            ("<x>&#0;</x>", "character"),
            ("<x>&#xFFFFFFFF;</x>", "character"),
            ("<x><y></x>", ""),
            ("<x><y>", "cut off"),
            ("</x>", ""),
            ("<x", ""),
            ("<\u{1b}[31m></x>", ""),
        ] {
            let error = Xml::parse(wrong.as_bytes()).err().expect(wrong);
            assert!(error.contains(why), "{wrong}: {error}");
            assert!(!error.contains(char::is_control), "{wrong}: {error:?}");
        }
        // It has no elements, which the reader of answers notices.
        for empty in ["", "hello", "\u{FFFD}\0"] {
            assert!(
                Xml::parse(empty.as_bytes())
                    .unwrap()
                    .root()
                    .find("x")
                    .is_none()
            );
        }
    }

    #[test]
    fn the_most_tangled_documents_take_no_time() {
        let size = 256 << 10;
        let nested = "<a>".repeat(size / 3);
        let scopes: String = (0..size / 20)
            .map(|number| format!("<a xmlns:n{number}='{number}'>"))
            .collect();
        let attributes: String = (0..size / 8)
            .map(|number| format!(" a{number}=''"))
            .collect();
        let begun = Instant::now();
        assert!(Xml::parse(nested.as_bytes()).is_err());
        assert!(Xml::parse(scopes.as_bytes()).is_err());
        let closed = nested.clone() + &"</a>".repeat(size / 3);
        let xml = Xml::parse(closed.as_bytes()).unwrap();
        assert_eq!(xml.root().all("a").count(), size / 3);
        Xml::parse(format!("<x{attributes}/>").as_bytes()).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    }
}
