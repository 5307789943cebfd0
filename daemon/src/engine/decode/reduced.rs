//! Decodes ordinary JPEGs (sequential, Huffman-coded, grey or YCbCr) to a half or a quarter of their sides from the low
//! frequencies of each block, and pieces of them in full: a detector needs no more of a large picture, and the faces it
//! finds are a small part of it. Whatever is unusual or damaged is refused here without a word, and read as a whole by
//! `image`, which has the last word on every file.

use std::ops::Range;

/// How many bits of a code are looked up at once; longer ones are rare.
const LOOK: u32 = 10;

/// Where the coefficients of a block stand, in the order they are stored.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// One more than the furthest row or column among the first coefficients, by the last of them.
const REACH: [usize; 64] = {
    let mut reach = [1; 64];
    let mut ix = 1;
    while ix < 64 {
        let (row, column) = (ZIGZAG[ix] as usize / 8, ZIGZAG[ix] as usize % 8);
        let furthest = if row > column { row } else { column } + 1;
        reach[ix] = if furthest > reach[ix - 1] { furthest } else { reach[ix - 1] };
        ix += 1;
    }
    reach
};

/// Pixels of an upright rectangle of the stored picture, three bytes each.
pub(super) struct Piece {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<u8>,
}

/// A JPEG with one scan: its headers, and, once it was decoded reduced, where each row of blocks begins.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// Units between restart markers; 0: there are none.
    restart: usize,
    /// Blocks of the first component in a unit, across and down; of the others there is one.
    across: usize,
    down: usize,
    rows: Vec<State>,
}

struct Component {
    quantisation: [f32; 64],
    dc: Codes,
    ac: Codes,
}

/// A Huffman table.
#[derive(Clone)]
struct Codes {
    /// By the next [`LOOK`] bits: how many are used (0: more than these), the symbol (8 bits higher), and the
    /// coefficient if it fits in too (16 bits higher).
    short: Vec<u32>,
    /// By length: the last code, or -1, and what a code is away from its place among the symbols.
    last: [i32; 17],
    offset: [i32; 17],
    symbols: Vec<u8>,
}

/// Where the decoder stands between two units.
#[derive(Clone, Copy)]
struct State {
    bits: Bits,
    /// The latest mean of each component.
    means: [i32; 3],
    /// Units before the next restart marker, and markers so far.
    left: usize,
    restarts: u8,
}

/// Bits not read yet, the next one highest.
#[derive(Clone, Copy)]
struct Bits {
    at: usize,
    buffer: u64,
    count: u32,
    /// Zeros at the end of `buffer` that stand for what is not there.
    padded: u32,
}

impl<'a> Jpeg<'a> {
    /// Reads the headers; `None` if this is no JPEG for this module. `bytes` begin with the start-of-image marker.
    /// None also where the sides are not those that were held to the limits.
    pub(super) fn read(bytes: &'a [u8], sides: [usize; 2]) -> Option<Self> {
        Self::parse(bytes).filter(|jpeg| [jpeg.width, jpeg.height] == sides)
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut quantisation = [None::<[f32; 64]>; 4];
        let mut codes: [[Option<Codes>; 4]; 2] = Default::default();
        let mut restart = 0;
        let mut frame: Option<&[u8]> = None;
        let mut at = 2;
        loop {
            if *bytes.get(at)? != 0xFF {
                return None;
            }
            while *bytes.get(at)? == 0xFF {
                at += 1;
            }
            let marker = bytes[at];
            let length = number(bytes, at + 1)?;
            let mut segment = bytes.get(at + 3..at + 1 + length)?;
            at += 1 + length;
            match marker {
                0xDB => {
                    while let Some((&id, values)) = segment.split_first() {
                        // Tables of 16 bits have the upper bits of their id set.
                        let (values, rest) = values.split_at_checked(64)?;
                        let mut table = [0.0; 64];
                        for (&place, &value) in ZIGZAG.iter().zip(values) {
                            table[usize::from(place)] = f32::from(value);
                        }
                        *quantisation.get_mut(usize::from(id))? = Some(table);
                        segment = rest;
                    }
                }
                0xC4 => {
                    while let Some((&id, rest)) = segment.split_first() {
                        let (counts, rest) = rest.split_at_checked(16)?;
                        let count = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
                        let (symbols, rest) = rest.split_at_checked(count).filter(|_| count <= 256)?;
                        let kind = usize::from(id >> 4);
                        *codes.get_mut(kind)?.get_mut(usize::from(id & 15))? =
                            Some(Codes::read(counts, symbols, kind == 1)?);
                        segment = rest;
                    }
                }
                0xC0 | 0xC1 if frame.is_none() => frame = Some(segment),
                0xDD if segment.len() == 2 => restart = number(segment, 0)?,
                // Other kinds of JPEG, and bytes that are no segment with a length, which others read in their own way.
                0x00 | 0x01 | 0xC0..=0xD9 | 0xDC..=0xDD => return None,
                // Adobe's: colours other than YCbCr are said here.
                0xEE if segment.starts_with(b"Adobe") && (segment.len() < 12 || segment[11] != 1) => return None,
                0xDA => return Self::scan(bytes, at, frame?, segment, restart, &quantisation, &codes),
                _ => {}
            }
        }
    }

    /// `frame` is precision, height, width, count, then (id, sampling, table) for each component; `scan` is count, then
    /// (id, tables) for each.
    fn scan(
        bytes: &'a [u8],
        begin: usize,
        frame: &[u8],
        scan: &[u8],
        restart: usize,
        quantisation: &[Option<[f32; 64]>; 4],
        codes: &[[Option<Codes>; 4]; 2],
    ) -> Option<Self> {
        let (height, width) = (number(frame, 1)?, number(frame, 3)?);
        let [8, .., count] = *frame.get(..6)? else { return None };
        let sound = matches!(count, 1 | 3) && width > 0 && height > 0 && frame.len() == 6 + 3 * usize::from(count);
        // All frequencies of all components at once, in full.
        if !sound || *scan.first()? != count || scan.get(1 + 2 * usize::from(count)..)? != [0, 63, 0] {
            return None;
        }
        let mut components = Vec::new();
        let mut samplings = Vec::new();
        let mut ids = Vec::new();
        let listed = frame.get(6..)?.as_chunks::<3>().0.iter().zip(scan.get(1..)?.as_chunks::<2>().0);
        for (&[id, sampling, table], &[named, tables]) in listed.take(count.into()) {
            // Some name red, green and blue by letters and mean them.
            if named != id || id > 3 || ids.contains(&id) {
                return None;
            }
            ids.push(id);
            samplings.push((usize::from(sampling >> 4), usize::from(sampling & 15)));
            components.push(Component {
                quantisation: (*quantisation.get(usize::from(table))?)?,
                dc: codes[0].get(usize::from(tables >> 4))?.clone()?,
                ac: codes[1].get(usize::from(tables & 15))?.clone()?,
            });
        }
        let (across, down) = match *samplings {
            [(1, 1)] => (1, 1),
            [(across @ 1..=2, down @ 1..=2), (1, 1), (1, 1)] => (across, down),
            _ => return None,
        };
        let bits = Bits { at: begin, buffer: 0, count: 0, padded: 0 };
        let rows = vec![State { bits, means: [0; 3], left: restart, restarts: 0 }];
        Some(Self { bytes, width, height, components, restart, across, down, rows })
    }

    /// The whole picture with its sides divided by `reduction` (2 or 4), rounded up.
    pub(super) fn reduced(&mut self, reduction: usize) -> Option<Piece> {
        let (columns, rows) = self.units();
        match reduction {
            2 => self.render::<4>(0..columns, 0..rows),
            4 => self.render::<2>(0..columns, 0..rows),
            _ => None,
        }
    }

    /// In full, what lies within these pixels, and around them what belongs to the same blocks. Only after `reduced`.
    pub(super) fn piece(&mut self, x: Range<usize>, y: Range<usize>) -> Option<Piece> {
        let (width, height) = (8 * self.across, 8 * self.down);
        let (columns, rows) = self.units();
        let columns = x.start / width..x.end.div_ceil(width).min(columns);
        let rows = y.start / height..y.end.div_ceil(height).min(rows);
        if x.is_empty() || y.is_empty() || columns.is_empty() || rows.is_empty() {
            None
        } else {
            self.render::<8>(columns, rows)
        }
    }

    fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.across), self.height.div_ceil(8 * self.down))
    }

    /// The units of these columns and rows, each block as `S` by `S` pixels.
    fn render<const S: usize>(&mut self, columns: Range<usize>, rows: Range<usize>) -> Option<Piece> {
        let (unit_width, unit_height) = (S * self.across, S * self.down);
        let (left, top) = (columns.start * unit_width, rows.start * unit_height);
        let width = (self.width * S).div_ceil(8).min(columns.end * unit_width) - left;
        let height = (self.height * S).div_ceil(8).min(rows.end * unit_height) - top;
        let mut pixels = vec![0; 3 * width * height];
        let stride = columns.len() * S;
        // The first component has more pixels in a row of units than the others, unless all have the same.
        let mut planes = vec![vec![0.0; stride * self.across * unit_height]];
        planes.resize(self.components.len(), vec![0.0; stride * S]);
        let mut block = [0.0; 64];
        let mut state = *self.rows.get(rows.start)?;
        let (all_columns, all_rows) = self.units();
        for row in rows.clone() {
            if self.rows.len() == row {
                self.rows.push(state);
            }
            for column in 0..all_columns {
                if self.restart > 0 {
                    state.count_down(self.bytes, self.restart)?;
                }
                let wanted = columns.contains(&column);
                let at = column.saturating_sub(columns.start) * S;
                for (ix, (component, plane)) in self.components.iter().zip(&mut planes).enumerate() {
                    let (across, down) = if ix == 0 { (self.across, self.down) } else { (1, 1) };
                    for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
                        let last = component.block(self.bytes, &mut state.bits, &mut state.means[ix], &mut block)?;
                        if wanted {
                            let line = stride * across;
                            samples::<S>(&block, last, &mut plane[y * S * line + at * across + x * S..], line);
                        }
                        block = [0.0; 64];
                    }
                }
                if state.bits.padded > state.bits.count {
                    return None;
                }
            }
            let first = (row - rows.start) * unit_height;
            let lines = pixels[3 * width * first..].chunks_exact_mut(3 * width).take(unit_height);
            for (y, line) in lines.enumerate() {
                let whole = &planes[0][y * stride * self.across..][..width];
                match &planes[1..] {
                    [blue, red] => {
                        let from = y / self.down * stride;
                        let (blue, red) = (&blue[from..from + stride], &red[from..from + stride]);
                        if self.across == 2 {
                            colour::<2>(whole, blue, red, line);
                        } else {
                            colour::<1>(whole, blue, red, line);
                        }
                    }
                    _ => {
                        for (pixel, grey) in line.chunks_exact_mut(3).zip(whole) {
                            pixel.fill((grey + 0.5) as u8);
                        }
                    }
                }
            }
        }
        if rows.end == all_rows {
            state.bits.end(self.bytes)?;
        }
        Some(Piece { left, top, width, height, pixels })
    }
}

/// Two bytes, the higher first.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let &[high, low] = bytes.get(at..at + 2)?.first_chunk()?;
    Some(u16::from_be_bytes([high, low]).into())
}

/// One line of YCbCr as RGB; each pair of colours belongs to `N` pixels.
fn colour<const N: usize>(whole: &[f32], blue: &[f32], red: &[f32], line: &mut [u8]) {
    for (((pixels, whole), &blue), &red) in line.chunks_mut(3 * N).zip(whole.chunks(N)).zip(blue).zip(red) {
        let (blue, red) = (blue - 128.0, red - 128.0);
        let add = [1.402 * red + 0.5, 0.5 - 0.344_136 * blue - 0.714_136 * red, 1.772 * blue + 0.5];
        for (pixel, whole) in pixels.chunks_exact_mut(3).zip(whole) {
            for (to, add) in pixel.iter_mut().zip(add) {
                // Saturates at 0 and 255.
                *to = (whole + add) as u8;
            }
        }
    }
}

impl Codes {
    fn read(counts: &[u8], symbols: &[u8], coefficients: bool) -> Option<Self> {
        let mut codes = Self { short: vec![0; 1 << LOOK], last: [-1; 17], offset: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut place) = (0_usize, 0_usize);
        for (length, &count) in (1_u32..=16).zip(counts) {
            codes.offset[length as usize] = place as i32 - code as i32;
            // No code may be all ones, and of means there are sizes only.
            if count > 0 && code + usize::from(count) >= 1 << length {
                return None;
            }
            for &symbol in &symbols[place..place + usize::from(count)] {
                if !coefficients && symbol > 15 {
                    return None;
                }
                if length <= LOOK {
                    let spare = LOOK - length;
                    for rest in 0..1_usize << spare {
                        codes.short[(code << spare) + rest] = Self::entry(length, symbol, rest, spare, coefficients);
                    }
                }
                codes.last[length as usize] = code as i32;
                code += 1;
            }
            place += usize::from(count);
            code <<= 1;
        }
        Some(codes)
    }

    /// `rest` are the `spare` bits behind the code.
    fn entry(length: u32, symbol: u8, rest: usize, spare: u32, coefficients: bool) -> u32 {
        let size = u32::from(symbol & 15);
        let symbol = u32::from(symbol) << 8;
        if coefficients && (1..=spare).contains(&size) {
            let value = signed((rest >> (spare - size)) as i32, size);
            return (length + size) | symbol | (value as u32) << 16;
        }
        length | symbol
    }
}

/// Of `size` bits that begin with 0 a negative number.
fn signed(bits: i32, size: u32) -> i32 {
    if bits < 1 << (size - 1) { bits + 1 - (1 << size) } else { bits }
}

impl State {
    /// Before each unit of a scan with restart markers.
    fn count_down(&mut self, bytes: &[u8], restart: usize) -> Option<()> {
        if self.left == 0 {
            let Bits { at, count, padded, .. } = self.bits;
            let marker = [0xFF, 0xD0 + self.restarts % 8];
            // Only what filled up the last byte may be left.
            if bytes.get(at..at + 2)? != marker || padded > count || count - padded > 7 {
                return None;
            }
            let bits = Bits { at: at + 2, buffer: 0, count: 0, padded: 0 };
            *self = Self { bits, means: [0; 3], left: restart, restarts: self.restarts.wrapping_add(1) };
        }
        self.left -= 1;
        Some(())
    }
}

impl Bits {
    /// Afterwards there are more than 32.
    #[inline(always)]
    fn refill(&mut self, bytes: &[u8]) {
        if self.count > 32 {
            return;
        }
        let next = bytes.get(self.at..).and_then(<[u8]>::first_chunk).map(|&four| u32::from_be_bytes(four));
        match next {
            // None of the four is 0xFF, which may begin a marker.
            Some(four) if (!four).wrapping_sub(0x0101_0101) & four & 0x8080_8080 == 0 => {
                self.buffer |= u64::from(four) << (32 - self.count);
                self.count += 32;
                self.at += 4;
            }
            _ => self.refill_bytewise(bytes),
        }
    }

    #[cold]
    #[inline(never)]
    fn refill_bytewise(&mut self, bytes: &[u8]) {
        while self.count <= 56 {
            let byte = match bytes.get(self.at..) {
                Some([0xFF, 0, ..]) => {
                    self.at += 2;
                    0xFF
                }
                Some([byte, ..]) if *byte != 0xFF => {
                    self.at += 1;
                    *byte
                }
                // At a marker, or at the end.
                _ => {
                    self.padded += 8;
                    0
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next `count` bits, at least one.
    #[inline(always)]
    fn peek(&self, count: u32) -> u32 {
        (self.buffer >> (64 - count)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.count -= count;
    }

    /// A number of `size` bits.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let bits = self.peek(size) as i32;
        self.skip(size);
        signed(bits, size)
    }

    #[cold]
    #[inline(never)]
    fn long_symbol(&mut self, codes: &Codes) -> Option<u32> {
        for length in LOOK + 1..=16 {
            let code = self.peek(length) as i32;
            if code <= codes.last[length as usize] {
                self.skip(length);
                let place = usize::try_from(code + codes.offset[length as usize]).ok()?;
                return codes.symbols.get(place).map(|&symbol| symbol.into());
            }
        }
        None
    }

    /// Behind the last unit the end-of-image marker must follow.
    fn end(mut self, bytes: &[u8]) -> Option<()> {
        self.refill_bytewise(bytes);
        let rest = self.count.checked_sub(self.padded)?;
        (rest < 8 && bytes.get(self.at..)?.starts_with(&[0xFF, 0xD9])).then_some(())
    }
}

impl Component {
    /// Reads one block of coefficients into `block`, which is all zeros, and says which is the last.
    #[inline(always)]
    fn block(&self, bytes: &[u8], bits: &mut Bits, mean: &mut i32, block: &mut [f32; 64]) -> Option<usize> {
        bits.refill(bytes);
        let entry = self.dc.short[bits.peek(LOOK) as usize];
        let size = if entry == 0 {
            bits.long_symbol(&self.dc)?
        } else {
            bits.skip(entry & 0xFF);
            entry >> 8 & 0xFF
        };
        if size > 11 {
            return None;
        }
        *mean += bits.value(size);
        // What eleven bits and their sign can say; beyond it the file is damaged.
        if mean.unsigned_abs() > 2048 {
            return None;
        }
        block[0] = *mean as f32 * self.quantisation[0];
        let (mut next, mut last) = (1, 0);
        while next < 64 {
            bits.refill(bytes);
            let entry = self.ac.short[bits.peek(LOOK) as usize];
            let (symbol, value) = if entry >> 16 != 0 {
                bits.skip(entry & 0xFF);
                (entry >> 8 & 0xFF, entry as i32 >> 16)
            } else {
                let symbol = if entry == 0 {
                    bits.long_symbol(&self.ac)?
                } else {
                    bits.skip(entry & 0xFF);
                    entry >> 8 & 0xFF
                };
                match symbol {
                    0 => break,
                    0xF0 => {
                        next += 16;
                        continue;
                    }
                    _ if (1..=10).contains(&(symbol & 15)) => (symbol, bits.value(symbol & 15)),
                    _ => return None,
                }
            };
            next += (symbol >> 4) as usize;
            let place = usize::from(*ZIGZAG.get(next)?);
            block[place] = value as f32 * self.quantisation[place];
            last = next;
            next += 1;
        }
        (next <= 64).then_some(last)
    }
}

/// What each of a block's first `N` frequencies adds to each of `N` samples, whose mean is that of the eight.
struct Cosines<const N: usize>;

impl<const N: usize> Cosines<N> {
    const TABLE: [[f32; N]; N] = {
        // Of so many sixteenths of half a turn.
        const COSINE: [f64; 9] = [
            1.0,
            0.980_785_280_403_230_4,
            0.923_879_532_511_286_8,
            0.831_469_612_302_545_2,
            std::f64::consts::FRAC_1_SQRT_2,
            0.555_570_233_019_602_2,
            0.382_683_432_365_089_8,
            0.195_090_322_016_128_3,
            0.0,
        ];
        let mut table = [[0.0; N]; N];
        let mut frequency = 0;
        while frequency < N {
            let mut sample = 0;
            while sample < N {
                let mut angle = (2 * sample + 1) * frequency * (8 / N) % 32;
                if angle > 16 {
                    angle = 32 - angle;
                }
                let cosine = if angle > 8 { -COSINE[16 - angle] } else { COSINE[angle] };
                let scale = if frequency == 0 { 0.353_553_390_593_273_8 } else { 0.5 };
                table[frequency][sample] = (cosine * scale) as f32;
                sample += 1;
            }
            frequency += 1;
        }
        table
    };
}

/// The inverse transform of the block's `S` lowest frequencies, of which those after `last` are zero.
#[inline(always)]
fn samples<const S: usize>(block: &[f32; 64], last: usize, out: &mut [f32], stride: usize) {
    if last == 0 {
        let flat = (block[0] * 0.125 + 128.0).clamp(0.0, 255.0);
        out.chunks_mut(stride).take(S).for_each(|line| line[..S].fill(flat));
        return;
    }
    let reach = REACH[last].min(S);
    let mut halfway = [[0.0; S]; S];
    for (frequency, row) in block.chunks_exact(8).take(reach).enumerate() {
        for (line, cosine) in halfway.iter_mut().zip(Cosines::<S>::TABLE[frequency]) {
            for (value, coefficient) in line.iter_mut().zip(row) {
                *value += cosine * coefficient;
            }
        }
    }
    for (line, halfway) in out.chunks_mut(stride).zip(halfway) {
        let mut samples = [128.0; S];
        for (value, cosines) in halfway.into_iter().zip(&Cosines::<S>::TABLE).take(reach) {
            for (sample, cosine) in samples.iter_mut().zip(cosines) {
                *sample += value * cosine;
            }
        }
        for (to, sample) in line.iter_mut().zip(samples) {
            *to = sample.clamp(0.0, 255.0);
        }
    }
}

#[cfg(test)]
mod tests;
