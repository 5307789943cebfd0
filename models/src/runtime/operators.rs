//! Our own operators in tract's graphs: a network's layers as direct convolutions. Values are
//! \[picture, row, column, channel\], with a border of zeros if the next layer pads. Shapes are
//! handled here; `lower` builds the operators, crate `kith-kernels` computes the convolutions.

mod chain;
mod convolution;
mod input;
mod pooling;
mod spare;
mod sum;

use tract_onnx::tract_core::internal::*;

pub(super) use chain::{Chain, LONGEST};
pub(super) use convolution::{Convolution, Layout, ResidualLayer};
pub(super) use input::{Input, InputTable, picture};
pub(super) use pooling::{MaxPool, Mean};
use spare::SPARE;
pub(super) use sum::Sum;

/// Limit far above any network's layer, so that a damaged file cannot exhaust the memory.
const MOST_NUMBERS: usize = 1 << 28;

/// Sides of a value without its border.
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
        let &[pictures, rows, columns, channels] = tensor.shape() else {
            bail!("not four axes: {:?}", tensor.shape())
        };
        ensure!(
            rows > 2 * border && columns > 2 * border,
            "no pixels inside the border"
        );
        Ok(Self {
            pictures,
            rows: rows - 2 * border,
            columns: columns - 2 * border,
            channels,
            border,
        })
    }

    fn row_step(&self) -> usize {
        (self.columns + 2 * self.border) * self.channels
    }

    fn picture_step(&self) -> usize {
        (self.rows + 2 * self.border) * self.row_step()
    }

    /// Returns the position of the top left pixel.
    fn first(&self) -> usize {
        self.border * (self.row_step() + self.channels)
    }

    fn shape(&self) -> [usize; 4] {
        [
            self.pictures,
            self.rows + 2 * self.border,
            self.columns + 2 * self.border,
            self.channels,
        ]
    }

    /// Makes a tensor of these sides with a border of `blank`. `write` must write to everything
    /// inside.
    fn made<T: Number>(&self, blank: T, write: impl FnOnce(&mut [T])) -> TractResult<Tensor> {
        let numbers = self
            .shape()
            .iter()
            .try_fold(1_usize, |numbers, side| numbers.checked_mul(*side));
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
            // Makes numbers that were not written visible.
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

fn numbers<T: Datum>(tensor: &Tensor) -> TractResult<&[T]> {
    tensor.try_as_plain_ram()?.as_slice::<T>()
}
