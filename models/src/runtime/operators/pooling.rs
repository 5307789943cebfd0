//! Max pooling, and the mean over a picture. Pooling right after a convolution is part of that
//! convolution.

use kith_kernels::Element;

use super::*;

/// Max pooling of squares with stride 2.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct MaxPool {
    pub(in crate::runtime) kernel: usize,
    /// Rows and columns by which the last square may exceed the input.
    pub(in crate::runtime) extra: usize,
    pub(in crate::runtime) border: usize,
    pub(in crate::runtime) result_border: usize,
    pub(in crate::runtime) flip: u8,
    /// The byte in the border.
    pub(in crate::runtime) blank: u8,
}

const MAX_POOL_STRIDE: usize = 2;

impl Eq for MaxPool {}

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

    fn pool<T: Number>(
        &self,
        input: &Tensor,
        blank: T,
        larger: impl Fn(T, T) -> T,
    ) -> TractResult<Tensor> {
        let from = Sides::of(input, self.border)?;
        let values = numbers::<T>(input)?;
        let smaller = from.rows.min(from.columns) + self.extra < self.kernel;
        ensure!(!smaller, "the input is smaller than the kernel");
        let (rows, columns) = (self.result_side(from.rows), self.result_side(from.columns));
        let to = Sides {
            pictures: from.pictures,
            rows,
            columns,
            channels: from.channels,
            border: self.result_border,
        };
        let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x)));
        let pooled = to.made(blank, |result| {
            for picture in 0..from.pictures {
                for (y, x) in places.clone() {
                    let to = picture * to.picture_step()
                        + to.first()
                        + y * to.row_step()
                        + x * to.channels;
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
            // Flipped bytes compare as signed numbers, others as unsigned.
            _ if self.flip == 0 => self.pool(&inputs[0], self.blank, u8::max)?,
            _ => self.pool(&inputs[0], self.blank, |a, b| {
                a.cast_signed().max(b.cast_signed()).cast_unsigned()
            })?,
        };
        SPARE.give(inputs);
        Ok(tvec![pooled.into_tvalue()])
    }
}

impl TypedOp for MaxPool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let side = |axis: usize| {
            let without_kernel = self.extra as i64 - 2 * self.border as i64 - self.kernel as i64;
            (inputs[0].shape[axis].clone() + without_kernel) / MAX_POOL_STRIDE as u64
                + 1
                + 2 * self.result_border
        };
        let shape = [
            inputs[0].shape[0].clone(),
            side(1),
            side(2),
            inputs[0].shape[3].clone(),
        ];
        Ok(tvec![inputs[0].datum_type.fact(shape)])
    }

    as_op!();
}

/// The mean of every channel, less its zero point, times `scale`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct Mean {
    pub(in crate::runtime) border: usize,
    pub(in crate::runtime) scale: f32,
    pub(in crate::runtime) flip: u8,
    /// Zero point of the input.
    pub(in crate::runtime) zero: u8,
}

impl Eq for Mean {}

impl Op for Mean {
    fn name(&self) -> StaticName {
        "Mean".into()
    }

    op_as_typed_op!();
}

impl Mean {
    fn mean<T: Datum + Element>(&self, input: &Tensor) -> TractResult<Tensor> {
        let from = Sides::of(input, self.border)?;
        let values = numbers::<T>(input)?;
        let to = Sides {
            rows: 1,
            columns: 1,
            border: 0,
            ..from
        };
        let share = self.scale / (from.rows * from.columns) as f32;
        let means = to.made(0.0, |means: &mut [f32]| {
            means.fill(0.0);
            for (picture, means) in means.chunks_exact_mut(from.channels).enumerate() {
                for y in 0..from.rows {
                    let at = picture * from.picture_step() + from.first() + y * from.row_step();
                    for pixel in
                        values[at..at + from.columns * from.channels].chunks_exact(from.channels)
                    {
                        for (mean, value) in means.iter_mut().zip(pixel) {
                            *mean += value.value(self.flip);
                        }
                    }
                }
                means
                    .iter_mut()
                    .for_each(|mean| *mean = *mean * share - f32::from(self.zero) * self.scale);
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
        Ok(tvec![f32::fact([
            shape[0].clone(),
            1.to_dim(),
            1.to_dim(),
            shape[3].clone()
        ])])
    }

    as_op!();
}
