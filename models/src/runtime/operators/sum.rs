//! The sum of a layer and a doubled smaller one. A residual is part of its convolution.

use super::*;

/// Adds the second input, with half the rows and columns, to the first: each of its pixels counts
/// two by two times.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct Sum {
    pub(in crate::runtime) borders: [usize; 2],
    pub(in crate::runtime) result_border: usize,
}

impl Eq for Sum {}

impl Op for Sum {
    fn name(&self) -> StaticName {
        "Sum".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Sum {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [from, small] = [
            Sides::of(&inputs[0], self.borders[0])?,
            Sides::of(&inputs[1], self.borders[1])?,
        ];
        let fits = [
            small.pictures,
            2 * small.rows,
            2 * small.columns,
            small.channels,
        ] == [from.pictures, from.rows, from.columns, from.channels];
        ensure!(
            fits,
            "{:?} doubled is not {:?}",
            small.shape(),
            from.shape()
        );
        let (values, added) = (numbers::<f32>(&inputs[0])?, numbers::<f32>(&inputs[1])?);
        let to = Sides {
            border: self.result_border,
            ..from
        };
        let sum = to.made(0.0, |result| {
            for row in 0..from.pictures * from.rows {
                let (picture, y) = (row / from.rows, row % from.rows);
                let at = |of: &Sides, y: usize| {
                    picture * of.picture_step() + of.first() + y * of.row_step()
                };
                let length = from.columns * from.channels;
                let values = values[at(&from, y)..][..length].chunks_exact(2 * from.channels);
                let added = added[at(&small, y / 2)..][..length / 2].chunks_exact(from.channels);
                let result = result[at(&to, y)..][..length].chunks_exact_mut(2 * from.channels);
                for ((result, values), added) in result.zip(values).zip(added) {
                    let pixels = result
                        .chunks_exact_mut(from.channels)
                        .zip(values.chunks_exact(from.channels));
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
        let side =
            |of: usize, axis: usize| inputs[of].shape[axis].clone() - 2 * self.borders[of] as i64;
        let [rows, columns] = [side(0, 1), side(0, 2)];
        let alike = |axis: usize| inputs[0].shape[axis] == inputs[1].shape[axis];
        ensure!(
            alike(0) && alike(3) && rows == side(1, 1) * 2 && columns == side(1, 2) * 2,
            "{:?} doubled is added to {:?}",
            inputs[1].shape,
            inputs[0].shape
        );
        let border = 2 * self.result_border;
        Ok(tvec![f32::fact([
            inputs[0].shape[0].clone(),
            rows + border,
            columns + border,
            inputs[0].shape[3].clone()
        ])])
    }

    as_op!();
}
