//! Fused convolutions: a chain runs a few rows at a time, so that intermediate values stay in the
//! cache and are never stored as a whole. The rows that each convolution needs are computed here;
//! crate `kith-kernels` does the convolution.

use std::ops::Range;

use kith_kernels::{Float, Output, convolve};

use super::convolution::{Grid, Grids};
use super::*;

/// Numbers that each stage computes per step, unless one row has more: few enough to stay in the
/// cache until they are used, and enough to make the cost of calls negligible.
const AT_ONCE: usize = 32 << 10;

/// Longest chain: stages are nested calls, so longer chains are split.
pub(in crate::runtime) const LONGEST: usize = 32;

/// Convolutions in a row, each read only by the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Chain {
    pub(in crate::runtime) convolutions: Vec<Convolution<Float>>,
}

/// A convolution with a known input size.
struct Stage<'a> {
    convolution: &'a Convolution<Float>,
    from: Sides,
    /// Rows and columns before pooling.
    convolved: [usize; 2],
    to: Sides,
}

impl Stage<'_> {
    /// Returns the rows before pooling that these results are made from.
    fn before_pooling(&self, results: &Range<usize>) -> Range<usize> {
        match self.convolution.pool {
            None => results.clone(),
            Some(_) => 2 * results.start..self.convolved[0].min(2 * results.end),
        }
    }

    /// Returns the rows of the input, counted with its border, that these results need.
    fn needs(&self, results: &Range<usize>) -> Range<usize> {
        let Convolution {
            stride,
            padding,
            border,
            kernel,
            ..
        } = self.convolution;
        let rows = self.before_pooling(results);
        let first = border - padding;
        first + rows.start * stride..first + (rows.end - 1) * stride + kernel[0]
    }

    /// Returns the number of rows computed per step.
    fn part(&self) -> usize {
        (AT_ONCE / self.to.row_step()).clamp(1, self.to.rows)
    }

    fn parts(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let part = self.part();
        rows.clone()
            .step_by(part)
            .map(move |start| start..rows.end.min(start + part))
    }

    /// Returns the number of input rows to hold: those for one step, and as many as two steps are
    /// apart, so that rows do not have to be moved at every step.
    fn capacity(&self) -> usize {
        let Convolution {
            stride,
            kernel,
            pool,
            ..
        } = self.convolution;
        let rows = if pool.is_some() {
            2 * self.part()
        } else {
            self.part()
        };
        let reach = (2 * rows - 1) * stride + kernel[0];
        reach.min(self.from.rows + 2 * self.from.border)
    }

    /// Computes these rows of results. The number with each slice is its first row, counted with
    /// the border.
    fn make(&self, results: &Range<usize>, input: (&[f32], usize), output: (&mut [f32], usize)) {
        let (
            Stage {
                convolution,
                from,
                to,
                ..
            },
            (values, first_row),
        ) = (self, input);
        let rows = self.before_pooling(results);
        let inside = convolution.border - convolution.padding;
        let grid = Grid {
            rows: rows.len(),
            columns: self.convolved[1],
            first: (inside + rows.start * convolution.stride - first_row) * from.row_step()
                + inside * from.channels,
            steps: [
                0,
                convolution.stride * from.row_step(),
                convolution.stride * from.channels,
            ],
        };
        let (results_to, first_result) = output;
        let output = Grid {
            rows: results.len(),
            columns: to.columns,
            first: (to.border + results.start - first_result) * to.row_step()
                + to.border * to.channels,
            steps: [0, to.row_step(), to.channels],
        };
        let grids = Grids {
            input: grid,
            residual: None,
            output,
            pool: convolution.pool.is_some(),
        };
        let mut output = Output::Float(results_to);
        convolve(
            &convolution.weights,
            values,
            from.row_step(),
            None,
            &mut output,
            &grids.rows(1),
        );
    }
}

/// The rows of one stage's results that are in memory, counted with the border.
struct Band<'a> {
    rows: Range<usize>,
    values: &'a mut [f32],
}

impl Band<'_> {
    /// Makes room for these rows and drops those before them.
    fn make_room(&mut self, rows: &Range<usize>, step: usize) {
        let start = rows.start;
        if start >= self.rows.end {
            self.rows = start..start;
        } else if (rows.end - self.rows.start) * step > self.values.len() {
            self.values
                .copy_within((start - self.rows.start) * step..self.rows.len() * step, 0);
            self.rows.start = start;
        }
    }
}

/// Computes these rows of the last stage's results, and what they need of the stages before.
fn advance(stages: &[Stage<'_>], bands: &mut [Band<'_>], input: &[f32], rows: &Range<usize>) {
    let (Some((stage, earlier)), Some((band, before))) =
        (stages.split_last(), bands.split_last_mut())
    else {
        return;
    };
    let Sides {
        rows: inside,
        border,
        ..
    } = stage.to;
    let step = stage.to.row_step();
    band.make_room(rows, step);
    let results =
        band.rows.end.max(border) - border..rows.end.min(border + inside).saturating_sub(border);
    for results in stage.parts(results) {
        advance(earlier, before, input, &stage.needs(&results));
        let input = before
            .last()
            .map_or((input, 0), |before| (&*before.values, before.rows.start));
        stage.make(&results, input, (band.values, band.rows.start));
    }
    for row in band.rows.end..rows.end {
        if !(border..border + inside).contains(&row) {
            band.values[(row - band.rows.start) * step..][..step].fill(0.0);
        }
    }
    band.rows.end = band.rows.end.max(rows.end);
}

impl Op for Chain {
    fn name(&self) -> StaticName {
        "Chain".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self
            .convolutions
            .iter()
            .map(|convolution| format!("{convolution:?}"))
            .collect())
    }

    op_as_typed_op!();
}

impl EvalOp for Chain {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut stages: Vec<Stage<'_>> = Vec::with_capacity(self.convolutions.len());
        for convolution in &self.convolutions {
            let from = match stages.last() {
                None => Sides::of(&inputs[0], convolution.border)?,
                Some(stage) => stage.to,
            };
            let convolved = convolution.convolved(&from)?;
            let [rows, columns] = convolved.map(|side| convolution.pooled(side));
            let border = if let Layout::Float(border) = convolution.result {
                border
            } else {
                0
            };
            ensure!(rows > 0 && columns > 0, "nothing is left of the picture");
            let to = Sides {
                rows,
                columns,
                channels: convolution.weights.channels(),
                border,
                ..from
            };
            stages.push(Stage {
                convolution,
                from,
                convolved,
                to,
            });
        }
        let Some(last) = stages.last() else {
            bail!("no convolutions")
        };
        let (first, to) = (&stages[0].from, last.to);
        let values = numbers::<f32>(&inputs[0])?;
        let length = |stage: &Stage<'_>| stage.capacity() * stage.from.row_step();
        let channels = stages.iter().skip(1).map(length).sum();
        let sides = Sides {
            pictures: 1,
            rows: 1,
            columns: 1,
            channels,
            border: 0,
        };
        let mut memory = sides.made(0.0, |_: &mut [f32]| ())?;
        let mut view = memory.try_as_plain_ram_mut()?;
        let mut left = view.as_slice_mut::<f32>()?;
        let mut bands = Vec::with_capacity(stages.len());
        for stage in &stages[1..] {
            let (values, behind) = left.split_at_mut(length(stage));
            for row in values.chunks_exact_mut(stage.from.row_step()) {
                let beside = stage.from.border * stage.from.channels;
                row[..beside].fill(0.0);
                row[beside + stage.from.columns * stage.from.channels..].fill(0.0);
            }
            bands.push(Band { rows: 0..0, values });
            left = behind;
        }
        let output = to.made(0.0, |output| {
            for picture in 0..to.pictures {
                bands.iter_mut().for_each(|band| band.rows = 0..0);
                let values = &values[picture * first.picture_step()..][..first.picture_step()];
                let output = &mut output[picture * to.picture_step()..][..to.picture_step()];
                for results in last.parts(0..to.rows) {
                    advance(
                        &stages[..stages.len() - 1],
                        &mut bands,
                        values,
                        &last.needs(&results),
                    );
                    let input = bands
                        .last()
                        .map_or((values, 0), |band| (&*band.values, band.rows.start));
                    last.make(&results, input, (&mut *output, 0));
                }
            }
            last.convolution.squash(output);
        })?;
        let output = match last.convolution.result {
            Layout::Listed => {
                output.into_shape(&[1, to.pictures * to.rows * to.columns, to.channels])?
            }
            _ => output,
        };
        SPARE.give(tvec![memory.into_tvalue()]);
        SPARE.give(inputs);
        Ok(tvec![output.into_tvalue()])
    }
}

impl TypedOp for Chain {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut facts: TVec<TypedFact> = tvec![inputs[0].clone()];
        for convolution in &self.convolutions {
            facts = convolution.output_facts(&[&facts[0]])?;
        }
        Ok(facts)
    }

    as_op!();
}
