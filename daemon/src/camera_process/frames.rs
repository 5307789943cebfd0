//! JPEGs out of a stream of bytes: what frame producers write to their pipe. A frame that is cut
//! off, too long or no JPEG costs only itself.
//!
//! Not for decoding frames (`kith_pictures`).

use std::io::Read;

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;
/// Most bytes before the first JPEG and between two: some programs talk on their standard output.
const MOST_BETWEEN: usize = 1 << 20;
/// A JPEG of nothing: start, end. A frame producer writes it if the picture has not changed.
pub const UNCHANGED: [u8; 4] = [0xFF, 0xD8, 0xFF, 0xD9];

/// A piece of the stream.
#[derive(Debug, PartialEq)]
pub enum Next<'a> {
    /// A whole JPEG.
    Frame(&'a [u8]),
    /// A sign of life without a picture.
    Unchanged,
    /// A frame that cannot be used, in words.
    Broken(String),
    /// Something that contains no JPEG, in words.
    NotAStream(String),
    /// The stream ended.
    Ended,
}

/// The JPEGs of a stream.
pub struct Frames<R> {
    from: R,
    /// Most bytes of a frame.
    limit: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were returned as a frame.
    used: usize,
    scan: Scan,
    /// Bytes that were skipped since the last JPEG.
    skipped: usize,
    /// The first of them, to tell what they are.
    beginning: Vec<u8>,
    /// True after a frame that was too long: what follows may be its rest.
    too_long: bool,
}

/// The place in a JPEG up to which it was read.
#[derive(Debug, Clone, Copy, Default)]
struct Scan {
    /// Offset of the next byte to look at.
    at: usize,
    /// True after the first scan has begun.
    in_scan: bool,
}

impl<R: Read> Frames<R> {
    /// Makes a reader of frames with at most `limit` bytes.
    pub fn new(from: R, limit: usize) -> Self {
        Self {
            from,
            limit,
            buffer: Vec::new(),
            used: 0,
            scan: Scan::default(),
            skipped: 0,
            beginning: Vec::new(),
            too_long: false,
        }
    }

    /// Waits for the next frame.
    pub fn next(&mut self) -> std::io::Result<Next<'_>> {
        self.buffer.drain(..std::mem::take(&mut self.used));
        loop {
            if let Some(broken) = self.skip_to_start() {
                return Ok(broken);
            }
            match self.scan.end(&self.buffer) {
                Ok(Some(end)) => {
                    self.scan = Scan::default();
                    self.skipped = 0;
                    self.beginning.clear();
                    self.used = end;
                    self.too_long = false;
                    if end > self.limit {
                        return Ok(Next::Broken(self.over_limit()));
                    }
                    if self.buffer[..end] == UNCHANGED {
                        return Ok(Next::Unchanged);
                    }
                    return Ok(Next::Frame(&self.buffer[..end]));
                }
                Ok(None) => {}
                Err(why) => {
                    // The next start may be inside of what was taken for this frame.
                    self.buffer.drain(..2);
                    self.scan = Scan::default();
                    return Ok(Next::Broken(why.into()));
                }
            }
            if self.buffer.len() > self.limit {
                // Its beginning is given up, and what follows is searched for the next start.
                self.buffer.drain(..2);
                self.scan = Scan::default();
                self.too_long = true;
                return Ok(Next::Broken(self.over_limit()));
            }
            let held = self.buffer.len();
            self.buffer.resize(held + PIECE, 0);
            let read = self.from.read(&mut self.buffer[held..]);
            self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Ok(Next::Ended);
            }
        }
    }

    /// Drops bytes before the start of a JPEG.
    fn skip_to_start(&mut self) -> Option<Next<'static>> {
        if self.scan.at > 0 {
            return None;
        }
        let start = self
            .buffer
            .windows(3)
            .position(|three| three[..2] == [0xFF, 0xD8] && three[2] == 0xFF);
        // A start may be cut in two by the end of what was read.
        let before = start.unwrap_or(self.buffer.len().saturating_sub(2));
        let room = 16_usize.saturating_sub(self.beginning.len());
        self.beginning.extend(&self.buffer[..before.min(room)]);
        self.skipped += before;
        self.buffer.drain(..before);
        if self.skipped > MOST_BETWEEN {
            self.skipped = 0;
            let what = std::mem::take(&mut self.beginning);
            return Some(match self.too_long {
                true => Next::Broken(self.over_limit()),
                false => Next::NotAStream(in_words(&what)),
            });
        }
        None
    }

    fn over_limit(&self) -> String {
        format!("the frame has more than {} bytes", self.limit)
    }

    /// Describes what came instead of a JPEG, if anything did.
    pub fn instead(&self) -> Option<String> {
        let left = self
            .beginning
            .is_empty()
            .then_some(&self.buffer[self.used..]);
        let beginning = left.unwrap_or(&self.beginning);
        (!beginning.is_empty()).then(|| in_words(&beginning[..beginning.len().min(16)]))
    }
}

impl Scan {
    /// Goes on to the end of the JPEG that begins at 0; `None`: it is not there yet.
    fn end(&mut self, buffer: &[u8]) -> Result<Option<usize>, &'static str> {
        if self.at == 0 {
            if !buffer.starts_with(&[0xFF, 0xD8]) {
                return Ok(None);
            }
            self.at = 2;
        }
        loop {
            if self.in_scan {
                // In a scan, an 0xFF that is no marker is followed by 0.
                let rest = buffer.get(self.at..).unwrap_or_default();
                match rest.iter().position(|byte| *byte == 0xFF) {
                    Some(found) => self.at += found,
                    None => {
                        self.at += rest.len();
                        return Ok(None);
                    }
                }
            }
            let marker = match buffer.get(self.at..self.at + 2) {
                Some(&[0xFF, marker]) => marker,
                Some(_) => return Err("the frame's header is damaged"),
                None => return Ok(None),
            };
            match marker {
                0xD9 => return Ok(Some(self.at + 2)),
                0xFF => self.at += 1,
                0xD8 if self.in_scan => return Err("the frame is cut off"),
                0x00 if !self.in_scan => return Err("the frame's header is damaged"),
                0x00 | 0x01 | 0xD0..=0xD8 => self.at += 2,
                _ => {
                    let Some(length) = buffer.get(self.at + 2..self.at + 4) else {
                        return Ok(None);
                    };
                    self.in_scan = marker == 0xDA;
                    self.at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                }
            }
        }
    }
}

/// Names a kind of content by its first bytes.
fn in_words(beginning: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(beginning)
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    match beginning {
        [0, 0, 0, 1, ..] | [0, 0, 1, ..] => {
            "a video stream came, not JPEGs; encode it as Motion JPEG".into()
        }
        [0x89, b'P', b'N', b'G', ..] => "a PNG came, not JPEGs".into(),
        [b'<', ..] => "a web page came, not JPEGs".into(),
        _ if text.is_ascii() && !text.is_empty() => format!("{text:?} came, not JPEGs"),
        _ => "something else than JPEGs came".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG with a header, a scan with a stuffed 0xFF and a restart marker, and an end.
    const SMALL: &[u8] = b"\xFF\xD8\xFF\xDB\0\x04ab\xFF\xDA\0\x03x12\xFF\0\xFF\xD034\xFF\xD9";

    /// A source that gives so many bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    /// Reads everything; frames as their length, the rest by its first word.
    fn all(stream: &[u8], limit: usize, at_a_time: usize) -> Vec<String> {
        let mut frames = Frames::new(Drops(stream, at_a_time), limit);
        let mut all = Vec::new();
        loop {
            all.push(match frames.next().unwrap() {
                Next::Ended => return all,
                Next::Frame(frame) => format!("frame {}", frame.len()),
                Next::Unchanged => "unchanged".into(),
                Next::Broken(why) => why,
                Next::NotAStream(what) => what,
            });
        }
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let stream = [SMALL, b"bytes after the end\r\n", SMALL, &UNCHANGED, SMALL].concat();
        let whole = format!("frame {}", SMALL.len());
        let expected = [&whole, &whole, "unchanged", &whole];
        for at_a_time in [1, 2, 3, 7, 1000] {
            assert_eq!(all(&stream, 1000, at_a_time), expected, "{at_a_time}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_costs_only_itself() {
        // Frames that are cut off: in the scan, and in the length of a segment.
        let many = SMALL.repeat(20);
        let stream = [&SMALL[..16], &many, &SMALL[..5], &many].concat();
        let whole = format!("frame {}", SMALL.len());
        for at_a_time in [1, 5, 1000] {
            let came = all(&stream, 1000, at_a_time);
            let frames = came.iter().filter(|came| **came == whole).count();
            assert_eq!(frames, 40, "{came:?}");
        }
    }

    #[test]
    fn frames_and_headers_without_end_are_bounded() {
        let mut long = SMALL[..14].to_vec();
        long.extend(std::iter::repeat_n(b'x', 5000));
        long.extend_from_slice(b"\xFF\xD9");
        let came = all(&[&long, SMALL].concat(), 1000, 100);
        assert!(came[0].contains("more than 1000 bytes"), "{came:?}");
        assert_eq!(came.last().unwrap(), &format!("frame {}", SMALL.len()));
        // A header that never ends.
        let header = b"\xFF\xE1\xFF\xFF".repeat(20_000);
        let mut frames = Frames::new(Drops(&header, 4096), 100_000);
        for _ in 0..100 {
            let ended = frames.next().unwrap() == Next::Ended;
            assert!(frames.buffer.capacity() < 500_000);
            if ended {
                break;
            }
        }
    }

    #[test]
    fn what_is_no_stream_of_jpegs_is_described() {
        let garbage = vec![b'x'; 3 << 20];
        let came = all(&garbage, 1 << 20, 4096);
        assert!(came[0].contains("xxxx"), "{came:?}");
        let mut page = Frames::new(&b"<html>401</html>"[..], 100);
        assert_eq!(page.next().unwrap(), Next::Ended);
        assert_eq!(page.instead().unwrap(), "a web page came, not JPEGs");
        let mut video = Frames::new(&b"\0\0\0\x01\x67\x42"[..], 100);
        assert_eq!(video.next().unwrap(), Next::Ended);
        assert!(video.instead().unwrap().contains("a video stream came"));
        let mut nothing = Frames::new(&b""[..], 100);
        assert_eq!(nothing.next().unwrap(), Next::Ended);
        assert_eq!(nothing.instead(), None);
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..2000)
                .map(|_| [0xFF, 0xD8, 0xD9, 0xDA, 0, 1][random.usize(..6)])
                .collect();
            all(&bytes, 500, 100);
        }
    }
}
