//! A convolution as one operator, with everything fused into it. The positions it reads and writes
//! are computed here; crate `kith-kernels` does the convolution.

use std::fmt;
use std::sync::Arc;

use kith_kernels::{Arithmetic, Line, Output, Residual, Row, Weights, convolve};

use super::*;

/// A convolution with bias, residual, activation and rounding.
pub(in crate::runtime) struct Convolution<A: Arithmetic> {
    pub(in crate::runtime) weights: Arc<Weights<A>>,
    /// Rows and columns.
    pub(in crate::runtime) kernel: [usize; 2],
    pub(in crate::runtime) stride: usize,
    pub(in crate::runtime) padding: usize,
    /// Border of the input, at least as wide as the padding.
    pub(in crate::runtime) border: usize,
    pub(in crate::runtime) residual: Option<ResidualLayer>,
    /// Max pooling of two by two results; the flag says whether an incomplete last row or column
    /// makes a result.
    pub(in crate::runtime) pool: Option<bool>,
    pub(in crate::runtime) sigmoid: bool,
    pub(in crate::runtime) result: Layout,
}

/// The second input of a convolution, of the same number type as the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::runtime) struct ResidualLayer {
    pub(in crate::runtime) border: usize,
    pub(in crate::runtime) scale: f32,
    /// True if the mean of each two by two pixels is added.
    pub(in crate::runtime) pooled: bool,
    /// Channels, rows and columns of zeros appended to the convolution, and to the residual, to
    /// make both equal in size.
    pub(in crate::runtime) zeros: [[usize; 3]; 2],
}

/// Memory layout of a convolution's result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::runtime) enum Layout {
    /// float32 with this border.
    Float(usize),
    /// Bytes with this border.
    Bytes(usize),
    /// \[picture, channel, row, column\], for outputs of the network.
    Planes,
    /// \[1, picture × row × column, channel\].
    Listed,
    /// \[picture, channel\], for one pixel only.
    Flat,
}

impl<A: Arithmetic> fmt::Debug for Convolution<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.weights)
    }
}

impl<A: Arithmetic> Clone for Convolution<A> {
    fn clone(&self) -> Self {
        Self {
            weights: Arc::clone(&self.weights),
            ..*self
        }
    }
}

impl<A: Arithmetic> PartialEq for Convolution<A> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weights, &other.weights)
    }
}

impl<A: Arithmetic> Eq for Convolution<A> {}

impl<A: Arithmetic> Op for Convolution<A>
where
    A::Input: Datum,
{
    fn name(&self) -> StaticName {
        "DirectConvolution".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.weights)])
    }

    op_as_typed_op!();
}

impl<A: Arithmetic> EvalOp for Convolution<A>
where
    A::Input: Datum,
{
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let from = Sides::of(&inputs[0], self.border)?;
        let values = numbers::<A::Input>(&inputs[0])?;
        let [rows, columns] = self.convolved(&from)?;
        let input = Grid {
            rows,
            columns,
            first: (from.border - self.padding) * (from.row_step() + from.channels),
            steps: [
                from.picture_step(),
                self.stride * from.row_step(),
                self.stride * from.channels,
            ],
        };
        let mut residual_grid = None;
        let mut residual = None;
        let (mut result_rows, mut result_columns) = (self.pooled(rows), self.pooled(columns));
        if let Some(layer) = &self.residual {
            let of = Sides::of(&inputs[1], layer.border)?;
            ensure!(
                of.pictures == from.pictures,
                "a residual of {} pictures for {}",
                of.pictures,
                from.pictures
            );
            let factor = if layer.pooled { 2 } else { 1 };
            let (rows, columns) = (of.rows / factor, of.columns / factor);
            let steps = [
                of.picture_step(),
                factor * of.row_step(),
                factor * of.channels,
            ];
            residual_grid = Some(Grid {
                rows,
                columns,
                first: of.first(),
                steps,
            });
            (result_rows, result_columns) = (result_rows.max(rows), result_columns.max(columns));
            residual = Some(Residual {
                values: numbers::<A::Input>(&inputs[1])?,
                channels: of.channels,
                scale: layer.scale,
                pooled: layer.pooled.then(|| of.row_step()),
            });
        }
        let channels = self.weights.channels();
        let to = |border| Sides {
            pictures: from.pictures,
            rows: result_rows,
            columns: result_columns,
            channels,
            border,
        };
        let grid = |first: usize, steps: [usize; 3]| Grid {
            rows: result_rows,
            columns: result_columns,
            first,
            steps,
        };
        let bordered = |to: Sides| grid(to.first(), [to.picture_step(), to.row_step(), channels]);
        let row_step = from.row_step();
        let run = |output: &mut Output<'_>, to: Grid| {
            let grids = Grids {
                input,
                residual: residual_grid,
                output: to,
                pool: self.pool.is_some(),
            };
            convolve(
                &self.weights,
                values,
                row_step,
                residual,
                output,
                &grids.rows(from.pictures),
            );
        };
        let plane = result_rows * result_columns;
        let float = |to: Sides| {
            to.made(0.0, |values| {
                run(&mut Output::Float(values), bordered(to));
                self.squash(values);
            })
        };
        let output = match self.result {
            Layout::Float(border) => float(to(border))?,
            Layout::Bytes(border) => to(border).made(self.weights.blank(), |bytes| {
                run(&mut Output::Bytes(bytes), bordered(to(border)));
            })?,
            Layout::Planes => {
                let planes = to(0).made(0.0, |values| {
                    run(
                        &mut Output::Planes(values, plane),
                        grid(0, [channels * plane, result_columns, 1]),
                    );
                    self.squash(values);
                })?;
                planes.into_shape(&[from.pictures, channels, result_rows, result_columns])?
            }
            Layout::Listed => float(to(0))?.into_shape(&[1, from.pictures * plane, channels])?,
            Layout::Flat => {
                ensure!(plane == 1, "{plane} pixels cannot be flat");
                float(to(0))?.into_shape(&[from.pictures, channels])?
            }
        };
        SPARE.give(inputs);
        Ok(tvec![output.into_tvalue()])
    }
}

impl<A: Arithmetic> Convolution<A> {
    /// Returns the rows and columns before pooling.
    pub(super) fn convolved(&self, from: &Sides) -> TractResult<[usize; 2]> {
        let side = |side: usize, kernel: usize| {
            let left = (side + 2 * self.padding).checked_sub(kernel);
            left.map(|left| left / self.stride + 1)
                .ok_or_else(|| TractError::msg("the input is smaller than the kernel"))
        };
        Ok([
            side(from.rows, self.kernel[0])?,
            side(from.columns, self.kernel[1])?,
        ])
    }

    /// Returns the length of a side after pooling.
    pub(super) fn pooled(&self, side: usize) -> usize {
        match self.pool {
            None => side,
            Some(left_over) => (side + usize::from(left_over)) / 2,
        }
    }

    pub(super) fn squash(&self, values: &mut [f32]) {
        if self.sigmoid {
            for value in values {
                *value = 1.0 / (1.0 + (-*value).exp());
            }
        }
    }
}

impl<A: Arithmetic> TypedOp for Convolution<A>
where
    A::Input: Datum,
{
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let side = |axis: usize| {
            let without_kernel = 2 * self.padding as isize
                - 2 * self.border as isize
                - self.kernel[axis - 1] as isize;
            let convolved =
                (inputs[0].shape[axis].clone() + without_kernel as i64) / self.stride as u64 + 1;
            let convolved = match self.pool {
                None => convolved,
                Some(left_over) => (convolved + i64::from(left_over)) / 2,
            };
            let Some(layer) = &self.residual else {
                return Ok(convolved);
            };
            let residual = inputs[1].shape[axis].to_usize()? - 2 * layer.border;
            let residual = if layer.pooled { residual / 2 } else { residual };
            let convolved = convolved.to_usize()?;
            let sum = convolved.max(residual);
            let [behind_convolved, behind_residual] = layer.zeros.map(|zeros| zeros[axis]);
            ensure!(
                sum - convolved == behind_convolved && sum - residual == behind_residual,
                "{residual} rows or columns and {behind_residual} of zeros are added to {convolved} and {behind_convolved}"
            );
            TractResult::Ok(sum.to_dim())
        };
        let pictures = inputs[0].shape[0].clone();
        if let Some(layer) = &self.residual {
            let (added, channels) = (inputs[1].shape[3].to_usize()?, self.weights.channels());
            ensure!(
                layer.zeros[0][0] == 0 && added.checked_add(layer.zeros[1][0]) == Some(channels),
                "{added} channels are added to {channels}"
            );
            let [[_, rows, columns], [_, added_rows, added_columns]] = layer.zeros;
            ensure!(
                (rows == 0 || added_columns == 0) && (columns == 0 || added_rows == 0),
                "a corner of the sum is covered by neither input"
            );
        }
        let channels = self.weights.channels().to_dim();
        let bordered = |border: usize| {
            TractResult::Ok([
                pictures.clone(),
                side(1)? + 2 * border,
                side(2)? + 2 * border,
                channels.clone(),
            ])
        };
        let fact = match self.result {
            Layout::Float(border) => f32::fact(bordered(border)?),
            Layout::Bytes(border) => u8::fact(bordered(border)?),
            Layout::Planes => f32::fact([pictures, channels, side(1)?, side(2)?]),
            Layout::Listed => f32::fact([1.to_dim(), pictures * side(1)? * side(2)?, channels]),
            Layout::Flat => f32::fact([pictures, channels]),
        };
        Ok(tvec![fact])
    }

    as_op!();
}

/// The positions of a value's pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) first: usize,
    /// Distances from one picture, row and column to the next.
    pub(super) steps: [usize; 3],
}

impl Grid {
    fn line(&self, picture: usize, y: usize, x: usize) -> Line {
        let [pictures, rows, columns] = self.steps;
        Line {
            first: self.first + picture * pictures + y * rows + x * columns,
            step: columns,
        }
    }
}

/// The positions a convolution reads and writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grids {
    pub(super) input: Grid,
    pub(super) residual: Option<Grid>,
    pub(super) output: Grid,
    /// True if two by two inputs make one result.
    pub(super) pool: bool,
}

impl Grids {
    pub(super) fn rows(self, pictures: usize) -> impl Iterator<Item = Row> + Clone {
        let of = move |picture: usize| {
            (0..self.output.rows).flat_map(move |y| {
                if self.pool {
                    self.pooled(picture, y)
                } else {
                    self.plain(picture, y)
                }
            })
        };
        (0..pictures).flat_map(of)
    }

    /// Returns the results that both the convolution and the residual reach, and those that only
    /// one of them reaches.
    fn plain(&self, picture: usize, y: usize) -> [Row; 2] {
        let reach = |grid: &Grid| if y < grid.rows { grid.columns } else { 0 };
        let (convolved, added) = (reach(&self.input), self.residual.as_ref().map_or(0, reach));
        let row = |from: usize, to: usize| Row {
            count: to - from,
            input: (from < convolved).then(|| self.input.line(picture, y, from)),
            output: self.output.line(picture, y, from),
            residual: self
                .residual
                .filter(|_| from < added)
                .map(|grid| grid.line(picture, y, from)),
            pool: None,
        };
        let (shorter, longer) = (convolved.min(added), convolved.max(added));
        [row(0, shorter), row(shorter, longer)]
    }

    /// Returns the results of four inputs each, and the last one if it has only two inputs in a
    /// row.
    fn pooled(&self, picture: usize, y: usize) -> [Row; 2] {
        let [_, below, right] = self.input.steps;
        let below = if 2 * y + 1 < self.input.rows {
            below
        } else {
            0
        };
        let whole = (self.input.columns / 2).min(self.output.columns);
        let row = |from: usize, to: usize, right: usize| {
            let Line { first, step } = self.input.line(picture, 2 * y, 2 * from);
            let input = Some(Line {
                first,
                step: 2 * step,
            });
            Row {
                count: to - from,
                input,
                output: self.output.line(picture, y, from),
                residual: None,
                pool: Some([right, below]),
            }
        };
        [row(0, whole, right), row(whole, self.output.columns, 0)]
    }
}
