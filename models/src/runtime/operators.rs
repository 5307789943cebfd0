//! Our own operators in tract's graphs: a network's layers as direct convolutions, their values as \[picture, row,
//! column, channel\] with a border of zeros where the next layer pads. Knows shapes; what a layer is made from is
//! `lower`'s, how it is added up is `direct`'s.

mod chain;
mod spare;

use std::fmt;
use std::sync::Arc;

use tract_onnx::tract_core::internal::*;

pub(super) use chain::{Chain, LONGEST};
use spare::SPARE;

use crate::direct::{self, Arithmetic, Line, Output, Residual, Row, Weights};

/// From pixels to the network's numbers, by a table for each channel.
#[derive(Clone, PartialEq)]
pub(super) struct Enter {
    pub(super) border: usize,
    pub(super) table: EnterTable,
    /// The network wants blue, green, red.
    pub(super) reversed: bool,
}

#[derive(Clone, PartialEq)]
pub(super) enum EnterTable {
    Float(Box<[[f32; 256]; 3]>),
    /// A fourth channel, of zeros, fills a group of inputs.
    Bytes(Box<[[u8; 256]; 3]>, u8),
}

/// Channels of a picture as bytes.
const BYTE_CHANNELS: usize = 4;

/// A convolution with all that follows it: bias, residual sum, activation, rounding.
pub(super) struct Convolution<A: Arithmetic> {
    pub(super) weights: Arc<Weights<A>>,
    /// Rows and columns.
    pub(super) kernel: [usize; 2],
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// The border of the input; at least the padding.
    pub(super) border: usize,
    pub(super) residual: Option<ResidualLayer>,
    /// The largest of each two by two results is the result; where a row or column is left over, it counts or not.
    pub(super) pool: Option<bool>,
    pub(super) sigmoid: bool,
    pub(super) result: Layout,
}

/// The second input of a convolution, of the same kind of numbers as the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ResidualLayer {
    pub(super) border: usize,
    pub(super) scale: f32,
    /// Each two by two pixels are one, their mean.
    pub(super) pooled: bool,
    /// Channels, rows and columns of zeros that follow the convolution, and the residual, so that both are alike.
    pub(super) zeros: [[usize; 3]; 2],
}

/// How a convolution's result lies in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Layout {
    /// float32 with this border.
    Float(usize),
    /// Bytes with this border.
    Bytes(usize),
    /// \[picture, channel, row, column\], for whoever asked for the network.
    Planes,
    /// \[1, picture and row and column, channel\].
    Listed,
    /// \[picture, channel\]; of one pixel only.
    Flat,
}

/// The largest of each square, two apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MaxPool {
    pub(super) kernel: usize,
    /// Rows and columns that the last square may reach beyond the input.
    pub(super) extra: usize,
    pub(super) border: usize,
    pub(super) result_border: usize,
    pub(super) flip: u8,
}

/// The mean of every channel, times `scale`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mean {
    pub(super) border: usize,
    pub(super) scale: f32,
    pub(super) flip: u8,
}

/// The sum of two inputs, of which the second has half the rows and columns: each of its pixels counts two by two
/// times.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sum {
    pub(super) borders: [usize; 2],
    pub(super) result_border: usize,
}

const MAX_POOL_STRIDE: usize = 2;

/// No layer of any network comes near this, and a damaged file's must not take all memory.
const MOST_NUMBERS: usize = 1 << 28;

/// A value's sides without its border.
#[derive(Clone, Copy)]
struct Sides {
    pictures: usize,
    rows: usize,
    columns: usize,
    channels: usize,
    border: usize,
}

impl Sides {
    fn of(tensor: &Tensor, border: usize) -> TractResult<Self> {
        let &[pictures, rows, columns, channels] = tensor.shape() else { bail!("not four axes: {:?}", tensor.shape()) };
        ensure!(rows > 2 * border && columns > 2 * border, "no pixels inside the border");
        Ok(Self { pictures, rows: rows - 2 * border, columns: columns - 2 * border, channels, border })
    }

    fn row_step(&self) -> usize {
        (self.columns + 2 * self.border) * self.channels
    }

    fn picture_step(&self) -> usize {
        (self.rows + 2 * self.border) * self.row_step()
    }

    /// Where the pixel at the top left begins.
    fn first(&self) -> usize {
        self.border * (self.row_step() + self.channels)
    }

    fn shape(&self) -> [usize; 4] {
        [self.pictures, self.rows + 2 * self.border, self.columns + 2 * self.border, self.channels]
    }

    /// A value of these sides with a border of `blank`; `write` must write to all that is inside.
    fn made<T: Number>(&self, blank: T, write: impl FnOnce(&mut [T])) -> TractResult<Tensor> {
        let numbers = self.shape().iter().try_fold(1_usize, |numbers, side| numbers.checked_mul(*side));
        ensure!(
            numbers.is_some_and(|numbers| numbers <= MOST_NUMBERS),
            "a layer of {:?} numbers is too large",
            self.shape()
        );
        let mut tensor = match SPARE.take::<T>(&self.shape()) {
            Some(tensor) => tensor,
            None => Tensor::zero::<T>(&self.shape())?,
        };
        let mut view = tensor.try_as_plain_ram_mut()?;
        let values = view.as_slice_mut::<T>()?;
        if cfg!(test) {
            // What is not written to shall be seen.
            values.fill(T::UNWRITTEN);
        }
        self.fill_border(blank, values);
        write(values);
        Ok(tensor)
    }

    fn fill_border<T: Copy>(&self, blank: T, values: &mut [T]) {
        let (above, beside) = (self.border * self.row_step(), self.border * self.channels);
        if above == 0 {
            return;
        }
        for picture in values.chunks_exact_mut(self.picture_step()) {
            for (y, row) in picture.chunks_exact_mut(self.row_step()).enumerate() {
                if (self.border..self.border + self.rows).contains(&y) {
                    row[..beside].fill(blank);
                    row[beside + self.columns * self.channels..].fill(blank);
                } else {
                    row.fill(blank);
                }
            }
        }
    }
}

/// float32 or bytes.
trait Number: Datum + Copy + tract_num_traits::Zero {
    const UNWRITTEN: Self;
}

impl Number for f32 {
    const UNWRITTEN: Self = Self::NAN;
}

impl Number for u8 {
    const UNWRITTEN: Self = 0xa5;
}

/// Pixels as the input of `Enter`.
pub(super) fn picture([pictures, channels, rows, columns]: [usize; 4], pixels: &[u8]) -> TractResult<Tensor> {
    let sides = Sides { pictures, rows, columns, channels, border: 0 };
    let fits = pixels.len() == sides.shape().iter().product::<usize>();
    ensure!(fits, "{} numbers for {:?}", pixels.len(), sides.shape());
    sides.made(0, |values| values.copy_from_slice(pixels))
}

fn numbers<T: Datum>(tensor: &Tensor) -> TractResult<&[T]> {
    tensor.try_as_plain_ram()?.as_slice::<T>()
}

impl Op for Enter {
    fn name(&self) -> StaticName {
        "Enter".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Enter {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let from = Sides::of(&inputs[0], 0)?;
        ensure!(from.channels == 3, "{} channels instead of red, green, blue", from.channels);
        let pixels = numbers::<u8>(&inputs[0])?;
        let to = Sides { channels: self.channels(), border: self.border, ..from };
        let output = match &self.table {
            EnterTable::Float(table) => to.made(0.0_f32, |values| {
                self.fill::<f32, 3>(&from, pixels, &to, values, 0.0, |plane, pixel| table[plane][usize::from(pixel)]);
            })?,
            EnterTable::Bytes(table, zero) => to.made(*zero, |values| {
                self.fill::<u8, BYTE_CHANNELS>(&from, pixels, &to, values, *zero, |plane, pixel| {
                    table[plane][usize::from(pixel)]
                });
            })?,
        };
        SPARE.give(inputs);
        Ok(tvec![output.into_tvalue()])
    }
}

impl Enter {
    fn channels(&self) -> usize {
        match self.table {
            EnterTable::Float(_) => 3,
            EnterTable::Bytes(..) => BYTE_CHANNELS,
        }
    }

    fn fill<T: Copy, const CHANNELS: usize>(
        &self,
        from: &Sides,
        pixels: &[u8],
        to: &Sides,
        values: &mut [T],
        blank: T,
        convert: impl Fn(usize, u8) -> T,
    ) {
        for (row, pixels) in pixels.chunks_exact(from.row_step()).enumerate() {
            let (picture, y) = (row / from.rows, row % from.rows);
            let begin = picture * to.picture_step() + to.first() + y * to.row_step();
            let values = values[begin..begin + CHANNELS * to.columns].as_chunks_mut::<CHANNELS>().0;
            for (value, &[red, green, blue]) in values.iter_mut().zip(pixels.as_chunks::<3>().0) {
                let (first, third) = if self.reversed { (blue, red) } else { (red, blue) };
                value[0] = convert(0, first);
                value[1] = convert(1, green);
                value[2] = convert(2, third);
                value[3..].fill(blank);
            }
        }
    }
}

impl fmt::Debug for Enter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enter with a border of {}", self.border)
    }
}

impl TypedOp for Enter {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = inputs[0].shape.to_tvec();
        let [pictures, rows, columns, _] = &*shape else { bail!("not four axes") };
        let datum = if let EnterTable::Float(_) = self.table { f32::datum_type() } else { u8::datum_type() };
        let border = 2 * self.border;
        let channels = self.channels().to_dim();
        Ok(tvec![datum.fact([pictures.clone(), rows.clone() + border, columns.clone() + border, channels])])
    }

    as_op!();
}

impl<A: Arithmetic> fmt::Debug for Convolution<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.weights)
    }
}

impl<A: Arithmetic> Clone for Convolution<A> {
    fn clone(&self) -> Self {
        Self { weights: Arc::clone(&self.weights), ..*self }
    }
}

impl<A: Arithmetic> PartialEq for Convolution<A> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weights, &other.weights)
    }
}

impl<A: Arithmetic> Eq for Convolution<A> {}
impl Eq for Enter {}
impl Eq for MaxPool {}
impl Eq for Mean {}
impl Eq for Sum {}

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
            steps: [from.picture_step(), self.stride * from.row_step(), self.stride * from.channels],
        };
        let mut residual_grid = None;
        let mut residual = None;
        let (mut result_rows, mut result_columns) = (self.pooled(rows), self.pooled(columns));
        if let Some(layer) = &self.residual {
            let of = Sides::of(&inputs[1], layer.border)?;
            ensure!(of.pictures == from.pictures, "a residual of {} pictures for {}", of.pictures, from.pictures);
            let factor = if layer.pooled { 2 } else { 1 };
            let (rows, columns) = (of.rows / factor, of.columns / factor);
            let steps = [of.picture_step(), factor * of.row_step(), factor * of.channels];
            residual_grid = Some(Grid { rows, columns, first: of.first(), steps });
            (result_rows, result_columns) = (result_rows.max(rows), result_columns.max(columns));
            residual = Some(Residual {
                values: numbers::<A::Input>(&inputs[1])?,
                channels: of.channels,
                scale: layer.scale,
                pooled: layer.pooled.then(|| of.row_step()),
            });
        }
        let channels = self.weights.channels();
        let to =
            |border| Sides { pictures: from.pictures, rows: result_rows, columns: result_columns, channels, border };
        let grid = |first: usize, steps: [usize; 3]| Grid { rows: result_rows, columns: result_columns, first, steps };
        let bordered = |to: Sides| grid(to.first(), [to.picture_step(), to.row_step(), channels]);
        let row_step = from.row_step();
        let run = |output: &mut Output<'_>, to: Grid| {
            let grids = Grids { input, residual: residual_grid, output: to, pool: self.pool.is_some() };
            direct::convolve(&self.weights, values, row_step, residual, output, &grids.rows(from.pictures));
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
            Layout::Bytes(border) => {
                to(border).made(self.weights.flip(), |bytes| run(&mut Output::Bytes(bytes), bordered(to(border))))?
            }
            Layout::Planes => {
                let planes = to(0).made(0.0, |values| {
                    run(&mut Output::Planes(values, plane), grid(0, [channels * plane, result_columns, 1]));
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
    /// Rows and columns before any pooling.
    fn convolved(&self, from: &Sides) -> TractResult<[usize; 2]> {
        let side = |side: usize, kernel: usize| {
            let left = (side + 2 * self.padding).checked_sub(kernel);
            left.map(|left| left / self.stride + 1)
                .ok_or_else(|| TractError::msg("the input is smaller than the kernel"))
        };
        Ok([side(from.rows, self.kernel[0])?, side(from.columns, self.kernel[1])?])
    }

    /// A side behind the pooling.
    fn pooled(&self, side: usize) -> usize {
        match self.pool {
            None => side,
            Some(left_over) => (side + usize::from(left_over)) / 2,
        }
    }

    fn squash(&self, values: &mut [f32]) {
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
            let without_kernel = 2 * self.padding as isize - 2 * self.border as isize - self.kernel[axis - 1] as isize;
            let convolved = (inputs[0].shape[axis].clone() + without_kernel as i64) / self.stride as u64 + 1;
            let convolved = match self.pool {
                None => convolved,
                Some(left_over) => (convolved + i64::from(left_over)) / 2,
            };
            let Some(layer) = &self.residual else { return Ok(convolved) };
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
                "in a corner of the sum is neither of the two"
            );
        }
        let channels = self.weights.channels().to_dim();
        let bordered = |border: usize| {
            TractResult::Ok([pictures.clone(), side(1)? + 2 * border, side(2)? + 2 * border, channels.clone()])
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

/// Where the pixels of a value begin.
#[derive(Debug, Clone, Copy)]
struct Grid {
    rows: usize,
    columns: usize,
    first: usize,
    /// From one picture, row and column to the next.
    steps: [usize; 3],
}

impl Grid {
    fn line(&self, picture: usize, y: usize, x: usize) -> Line {
        let [pictures, rows, columns] = self.steps;
        Line { first: self.first + picture * pictures + y * rows + x * columns, step: columns }
    }
}

/// Where a convolution reads and writes.
#[derive(Debug, Clone, Copy)]
struct Grids {
    input: Grid,
    residual: Option<Grid>,
    output: Grid,
    /// Two by two inputs are one result.
    pool: bool,
}

impl Grids {
    fn rows(self, pictures: usize) -> impl Iterator<Item = Row> + Clone {
        let of = move |picture: usize| {
            (0..self.output.rows)
                .flat_map(move |y| if self.pool { self.pooled(picture, y) } else { self.plain(picture, y) })
        };
        (0..pictures).flat_map(of)
    }

    /// The results that both the convolution and the residual reach, and those that only one does.
    fn plain(&self, picture: usize, y: usize) -> [Row; 2] {
        let reach = |grid: &Grid| if y < grid.rows { grid.columns } else { 0 };
        let (convolved, added) = (reach(&self.input), self.residual.as_ref().map_or(0, reach));
        let row = |from: usize, to: usize| Row {
            count: to - from,
            input: (from < convolved).then(|| self.input.line(picture, y, from)),
            output: self.output.line(picture, y, from),
            residual: self.residual.filter(|_| from < added).map(|grid| grid.line(picture, y, from)),
            pool: None,
        };
        let (shorter, longer) = (convolved.min(added), convolved.max(added));
        [row(0, shorter), row(shorter, longer)]
    }

    /// The results of four inputs each, and the one at the end that has only two beside each other.
    fn pooled(&self, picture: usize, y: usize) -> [Row; 2] {
        let [_, below, right] = self.input.steps;
        let below = if 2 * y + 1 < self.input.rows { below } else { 0 };
        let whole = (self.input.columns / 2).min(self.output.columns);
        let row = |from: usize, to: usize, right: usize| {
            let Line { first, step } = self.input.line(picture, 2 * y, 2 * from);
            let input = Some(Line { first, step: 2 * step });
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

impl Op for MaxPool {
    fn name(&self) -> StaticName {
        "MaxPool".into()
    }

    op_as_typed_op!();
}

impl MaxPool {
    fn result_side(&self, side: usize) -> usize {
        (side + self.extra - self.kernel) / MAX_POOL_STRIDE + 1
    }

    fn pool<T: Number>(&self, input: &Tensor, blank: T, larger: impl Fn(T, T) -> T) -> TractResult<Tensor> {
        let from = Sides::of(input, self.border)?;
        let values = numbers::<T>(input)?;
        let smaller = from.rows.min(from.columns) + self.extra < self.kernel;
        ensure!(!smaller, "the input is smaller than the kernel");
        let (rows, columns) = (self.result_side(from.rows), self.result_side(from.columns));
        let to = Sides { pictures: from.pictures, rows, columns, channels: from.channels, border: self.result_border };
        let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x)));
        let pooled = to.made(blank, |result| {
            for picture in 0..from.pictures {
                for (y, x) in places.clone() {
                    let to = picture * to.picture_step() + to.first() + y * to.row_step() + x * to.channels;
                    let result = &mut result[to..to + from.channels];
                    let mut first = true;
                    for source_y in (MAX_POOL_STRIDE * y..from.rows).take(self.kernel) {
                        for source_x in (MAX_POOL_STRIDE * x..from.columns).take(self.kernel) {
                            let at = picture * from.picture_step()
                                + from.first()
                                + source_y * from.row_step()
                                + source_x * from.channels;
                            let values = &values[at..at + from.channels];
                            if first {
                                result.copy_from_slice(values);
                                first = false;
                            } else {
                                for (result, value) in result.iter_mut().zip(values) {
                                    *result = larger(*result, *value);
                                }
                            }
                        }
                    }
                }
            }
        })?;
        Ok(pooled)
    }
}

impl EvalOp for MaxPool {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let pooled = match inputs[0].datum_type() {
            DatumType::F32 => self.pool(&inputs[0], 0.0_f32, |a, b| if a > b { a } else { b })?,
            // Flipped or not: signed then, unsigned otherwise.
            _ if self.flip == 0 => self.pool(&inputs[0], self.flip, u8::max)?,
            _ => self.pool(&inputs[0], self.flip, |a, b| a.cast_signed().max(b.cast_signed()).cast_unsigned())?,
        };
        SPARE.give(inputs);
        Ok(tvec![pooled.into_tvalue()])
    }
}

impl TypedOp for MaxPool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let side = |axis: usize| {
            let without_kernel = self.extra as i64 - 2 * self.border as i64 - self.kernel as i64;
            (inputs[0].shape[axis].clone() + without_kernel) / MAX_POOL_STRIDE as u64 + 1 + 2 * self.result_border
        };
        let shape = [inputs[0].shape[0].clone(), side(1), side(2), inputs[0].shape[3].clone()];
        Ok(tvec![inputs[0].datum_type.fact(shape)])
    }

    as_op!();
}

impl Op for Mean {
    fn name(&self) -> StaticName {
        "Mean".into()
    }

    op_as_typed_op!();
}

impl Mean {
    fn mean<T: Datum + direct::Element>(&self, input: &Tensor) -> TractResult<Tensor> {
        let from = Sides::of(input, self.border)?;
        let values = numbers::<T>(input)?;
        let to = Sides { rows: 1, columns: 1, border: 0, ..from };
        let share = self.scale / (from.rows * from.columns) as f32;
        let means = to.made(0.0, |means: &mut [f32]| {
            means.fill(0.0);
            for (picture, means) in means.chunks_exact_mut(from.channels).enumerate() {
                for y in 0..from.rows {
                    let at = picture * from.picture_step() + from.first() + y * from.row_step();
                    for pixel in values[at..at + from.columns * from.channels].chunks_exact(from.channels) {
                        for (mean, value) in means.iter_mut().zip(pixel) {
                            *mean += value.value(self.flip);
                        }
                    }
                }
                means.iter_mut().for_each(|mean| *mean *= share);
            }
        })?;
        Ok(means)
    }
}

impl EvalOp for Mean {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let means = match inputs[0].datum_type() {
            DatumType::F32 => self.mean::<f32>(&inputs[0])?,
            _ => self.mean::<u8>(&inputs[0])?,
        };
        SPARE.give(inputs);
        Ok(tvec![means.into_tvalue()])
    }
}

impl TypedOp for Mean {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        Ok(tvec![f32::fact([shape[0].clone(), 1.to_dim(), 1.to_dim(), shape[3].clone()])])
    }

    as_op!();
}

impl Op for Sum {
    fn name(&self) -> StaticName {
        "Sum".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Sum {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [from, small] = [Sides::of(&inputs[0], self.borders[0])?, Sides::of(&inputs[1], self.borders[1])?];
        let fits = [small.pictures, 2 * small.rows, 2 * small.columns, small.channels]
            == [from.pictures, from.rows, from.columns, from.channels];
        ensure!(fits, "{:?} doubled is not {:?}", small.shape(), from.shape());
        let (values, added) = (numbers::<f32>(&inputs[0])?, numbers::<f32>(&inputs[1])?);
        let to = Sides { border: self.result_border, ..from };
        let sum = to.made(0.0, |result| {
            for row in 0..from.pictures * from.rows {
                let (picture, y) = (row / from.rows, row % from.rows);
                let at = |of: &Sides, y: usize| picture * of.picture_step() + of.first() + y * of.row_step();
                let length = from.columns * from.channels;
                let values = values[at(&from, y)..][..length].chunks_exact(2 * from.channels);
                let added = added[at(&small, y / 2)..][..length / 2].chunks_exact(from.channels);
                let result = result[at(&to, y)..][..length].chunks_exact_mut(2 * from.channels);
                for ((result, values), added) in result.zip(values).zip(added) {
                    let pixels = result.chunks_exact_mut(from.channels).zip(values.chunks_exact(from.channels));
                    for (result, values) in pixels {
                        for ((result, value), added) in result.iter_mut().zip(values).zip(added) {
                            *result = value + added;
                        }
                    }
                }
            }
        })?;
        SPARE.give(inputs);
        Ok(tvec![sum.into_tvalue()])
    }
}

impl TypedOp for Sum {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let side = |of: usize, axis: usize| inputs[of].shape[axis].clone() - 2 * self.borders[of] as i64;
        let [rows, columns] = [side(0, 1), side(0, 2)];
        let alike = |axis: usize| inputs[0].shape[axis] == inputs[1].shape[axis];
        ensure!(
            alike(0) && alike(3) && rows == side(1, 1) * 2 && columns == side(1, 2) * 2,
            "{:?} doubled is added to {:?}",
            inputs[1].shape,
            inputs[0].shape
        );
        let border = 2 * self.result_border;
        Ok(tvec![f32::fact([inputs[0].shape[0].clone(), rows + border, columns + border, inputs[0].shape[3].clone()])])
    }

    as_op!();
}
