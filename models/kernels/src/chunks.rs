//! Places of the results, cut into chunks of one kind.

use super::{MOST_PIXELS, MOST_PLACED};

/// The residual of a ResNet block, added to each result before the activation.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a, I> {
    /// The numbers that [`Row::residual`] points into.
    pub values: &'a [I],
    /// Channels of the residual; further ones get nothing added.
    pub channels: usize,
    /// Factor for the values.
    pub scale: f32,
    /// Length of a row in numbers, if the mean of two by two pixels is added.
    pub pooled: Option<usize>,
}

/// Neighbouring results of one row, and their positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// Number of results, after pooling.
    pub count: usize,
    /// Position of the first result's run in the input; `None` where only the residual reaches.
    pub input: Option<Line>,
    /// Position of each result's first channel in the output.
    pub output: Line,
    /// `None` where the residual does not reach.
    pub residual: Option<Line>,
    /// Max pooling: each result is the largest of four, at its place, this far to the right, this
    /// far below, and both.
    pub pool: Option<[usize; 2]>,
}

/// Positions of neighbours: the first, and the distance to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// Position of the first.
    pub first: usize,
    /// Distance from one to the next.
    pub step: usize,
}

impl Line {
    #[inline]
    pub(super) fn at(self, ix: usize) -> usize {
        self.first + ix * self.step
    }

    /// Writes the positions of the neighbours from `first` on.
    #[inline]
    fn write_to(self, places: &mut [usize], first: usize) {
        for (ix, place) in (first..).zip(places) {
            *place = self.at(ix);
        }
    }
}

/// Results computed together, from as many inputs, or from four times as many with max pooling. The
/// last place is repeated behind them for blocks larger than what is left.
pub(super) struct Chunk {
    pub(super) results: usize,
    pub(super) with_input: bool,
    pub(super) with_residual: bool,
    pub(super) pooled: bool,
    /// The largest position in the input and in the output.
    pub(super) furthest: [usize; 2],
    pub(super) offsets: [usize; MOST_PLACED + MOST_PIXELS],
    pub(super) outputs: [usize; MOST_PLACED + MOST_PIXELS],
    pub(super) residuals: [usize; MOST_PLACED],
}

impl Chunk {
    pub(super) fn new() -> Self {
        let (offsets, outputs) = (
            [0; MOST_PLACED + MOST_PIXELS],
            [0; MOST_PLACED + MOST_PIXELS],
        );
        Self {
            results: 0,
            with_input: false,
            with_residual: false,
            pooled: false,
            furthest: [0; 2],
            offsets,
            outputs,
            residuals: [0; MOST_PLACED],
        }
    }

    #[inline]
    fn repeat_last(&mut self) {
        let last = self.results - 1;
        let (offset, output) = (self.offsets[last], self.outputs[last]);
        self.offsets[self.results..][..MOST_PIXELS].fill(offset);
        self.outputs[self.results..][..MOST_PIXELS].fill(output);
    }
}

/// Splits rows into chunks.
pub(super) struct Chunks<R> {
    pub(super) rows: R,
    pub(super) row: Row,
    pub(super) done: usize,
    /// Limits on the results of one chunk, without and with pooling.
    pub(super) most: usize,
    pub(super) most_pooled: usize,
}

impl<R: Iterator<Item = Row>> Chunks<R> {
    /// Fills `chunk` with the next results that share one kind: with or without input, residual and
    /// pooling. Returns false at the end.
    pub(super) fn next(&mut self, chunk: &mut Chunk) -> bool {
        (chunk.results, chunk.furthest) = (0, [0; 2]);
        loop {
            if self.done == self.row.count {
                let Some(row) = self.rows.next() else { break };
                (self.row, self.done) = (row, 0);
                continue;
            }
            let Row {
                count,
                input,
                output,
                residual,
                pool,
            } = self.row;
            let kind = (input.is_some(), residual.is_some(), pool.is_some());
            if chunk.results == 0 {
                (chunk.with_input, chunk.with_residual, chunk.pooled) = kind;
            } else if (chunk.with_input, chunk.with_residual, chunk.pooled) != kind {
                break;
            }
            let room = if chunk.pooled {
                self.most_pooled
            } else {
                self.most
            } - chunk.results;
            let now = room.min(count - self.done);
            let at = chunk.results..chunk.results + now;
            let end = self.done + now - 1;
            let [right, below] = pool.unwrap_or_default();
            let reached = [
                input.map_or(0, |line| line.at(end) + right + below),
                output.at(end),
            ];
            chunk.furthest = [
                chunk.furthest[0].max(reached[0]),
                chunk.furthest[1].max(reached[1]),
            ];
            match (input, pool) {
                (Some(line), None) => line.write_to(&mut chunk.offsets[at.clone()], self.done),
                (Some(line), Some([right, below])) => {
                    let fours = chunk.offsets.as_chunks_mut::<4>().0;
                    for (ix, four) in (self.done..).zip(&mut fours[at.clone()]) {
                        let first = line.at(ix);
                        *four = [first, first + right, first + below, first + right + below];
                    }
                }
                (None, _) => {}
            }
            output.write_to(&mut chunk.outputs[at.clone()], self.done);
            if let Some(line) = residual {
                line.write_to(&mut chunk.residuals[at], self.done);
            }
            chunk.results += now;
            self.done += now;
            if now == room {
                break;
            }
        }
        if chunk.results > 0 && !chunk.pooled {
            chunk.repeat_last();
        }
        chunk.results > 0
    }
}
