//! Input operator: turns pixels into the network's numbers. It does not resize.

use std::fmt;

use super::*;

/// Maps pixels to the network's numbers, by a table for each channel.
#[derive(Clone, PartialEq)]
pub(in crate::runtime) struct Input {
    pub(in crate::runtime) border: usize,
    pub(in crate::runtime) table: InputTable,
    /// True if the network takes blue, green, red.
    pub(in crate::runtime) reversed: bool,
}

#[derive(Clone, PartialEq)]
pub(in crate::runtime) enum InputTable {
    Float(Box<[[f32; 256]; 3]>),
    /// Table, and the byte in the border; a fourth channel of that byte completes a group of
    /// inputs.
    Bytes(Box<[[u8; 256]; 3]>, u8),
}

/// Channels of a picture as bytes.
const BYTE_CHANNELS: usize = 4;

/// Makes the input of `Input` from pixels.
pub(in crate::runtime) fn picture(
    [pictures, channels, rows, columns]: [usize; 4],
    pixels: &[u8],
) -> TractResult<Tensor> {
    let sides = Sides {
        pictures,
        rows,
        columns,
        channels,
        border: 0,
    };
    let fits = pixels.len() == sides.shape().iter().product::<usize>();
    ensure!(fits, "{} numbers for {:?}", pixels.len(), sides.shape());
    sides.made(0, |values| values.copy_from_slice(pixels))
}

impl Op for Input {
    fn name(&self) -> StaticName {
        "Input".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Input {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let from = Sides::of(&inputs[0], 0)?;
        ensure!(
            from.channels == 3,
            "{} channels instead of red, green, blue",
            from.channels
        );
        let pixels = numbers::<u8>(&inputs[0])?;
        let to = Sides {
            channels: self.channels(),
            border: self.border,
            ..from
        };
        let output = match &self.table {
            InputTable::Float(table) => to.made(0.0_f32, |values| {
                self.fill::<f32, 3>(&from, pixels, &to, values, 0.0, |plane, pixel| {
                    table[plane][usize::from(pixel)]
                });
            })?,
            InputTable::Bytes(table, zero) => to.made(*zero, |values| {
                self.fill::<u8, BYTE_CHANNELS>(
                    &from,
                    pixels,
                    &to,
                    values,
                    *zero,
                    |plane, pixel| table[plane][usize::from(pixel)],
                );
            })?,
        };
        SPARE.give(inputs);
        Ok(tvec![output.into_tvalue()])
    }
}

impl Input {
    fn channels(&self) -> usize {
        match self.table {
            InputTable::Float(_) => 3,
            InputTable::Bytes(..) => BYTE_CHANNELS,
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
            let values = values[begin..begin + CHANNELS * to.columns]
                .as_chunks_mut::<CHANNELS>()
                .0;
            for (value, &[red, green, blue]) in values.iter_mut().zip(pixels.as_chunks::<3>().0) {
                let (first, third) = if self.reversed {
                    (blue, red)
                } else {
                    (red, blue)
                };
                value[0] = convert(0, first);
                value[1] = convert(1, green);
                value[2] = convert(2, third);
                value[3..].fill(blank);
            }
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input with a border of {}", self.border)
    }
}

impl TypedOp for Input {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = inputs[0].shape.to_tvec();
        let [pictures, rows, columns, _] = &*shape else {
            bail!("not four axes")
        };
        let datum = if let InputTable::Float(_) = self.table {
            f32::datum_type()
        } else {
            u8::datum_type()
        };
        let border = 2 * self.border;
        let channels = self.channels().to_dim();
        Ok(tvec![datum.fact([
            pictures.clone(),
            rows.clone() + border,
            columns.clone() + border,
            channels
        ])])
    }

    as_op!();
}

impl Eq for Input {}
