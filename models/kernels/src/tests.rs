//! Compares every instruction set of this processor with sums written out plainly.

use super::*;

/// A reproducible stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// A convolution of one picture, as rows of numbers.
struct Case<A: Arithmetic> {
    rows: usize,
    run: usize,
    row_step: usize,
    input: Vec<A::Input>,
    /// By channel, row and position.
    weights: Vec<A::Weight>,
    channels: Vec<Channel>,
    zeros: Zeros,
    places: Vec<Row>,
    outputs: usize,
    residual: Option<Added<A::Input>>,
}

/// Like `Residual`, with numbers of its own.
struct Added<I> {
    values: Vec<I>,
    channels: usize,
    scale: f32,
    pooled: Option<usize>,
}

fn case<A: Arithmetic>(
    numbers: &mut Numbers,
    input: impl Fn(&mut Numbers) -> A::Input,
    weight: impl Fn(&mut Numbers) -> A::Weight,
    with: (bool, bool),
    count: usize,
) -> Case<A> {
    let (with_residual, with_pool) = with;
    let (rows, run) = (1 + numbers.next(3), A::GROUP * (1 + numbers.next(9)));
    let (width, height) = (2 + numbers.next(15), 2 + numbers.next(4));
    let step = A::GROUP * (1 + numbers.next(3));
    let row_step = (2 * width + 1) * step + run;
    let length = (2 * height + 1 + rows) * row_step;
    let pool = with_pool.then_some([step, row_step]);
    let (across, down) = if with_pool {
        (2 * step, 2 * row_step)
    } else {
        (step, row_step)
    };
    // The residual reaches one column further than the convolution.
    let beyond = usize::from(with_residual);
    let output_row = (width + beyond) * count;
    let pooled = with_residual && numbers.next(2) == 1;
    let factor = if pooled { 2 } else { 1 };
    let residual_channels = 1 + numbers.next(count);
    let residual_row = factor * (width + beyond) * residual_channels;
    let line = |first, step| Line { first, step };
    let mut places = Vec::new();
    for y in 0..height {
        let to = y * output_row;
        let residual =
            with_residual.then(|| line(factor * y * residual_row, factor * residual_channels));
        let input = Some(line(y * down, across));
        places.push(Row {
            count: width,
            input,
            output: line(to, count),
            residual,
            pool,
        });
        let residual = residual.map(|of| line(of.at(width), of.step));
        places.push(Row {
            count: beyond,
            input: None,
            output: line(to + width * count, count),
            residual,
            pool: None,
        });
    }
    // Slopes of one kind, some of which have a fast path, or of any kind.
    let slopes: &[f32] = [
        &[0.0, 1.0, 0.25, -0.5, 1.5][..],
        &[0.0, 0.5, 1.0],
        &[1.0],
        &[0.0],
    ][numbers.next(4)];
    let channel = |numbers: &mut Numbers| Channel {
        scale: (1 + numbers.next(50)) as f32 / 1000.0,
        bias: numbers.next(200) as f32 - 100.0,
        slope: slopes[numbers.next(slopes.len())],
    };
    Case {
        rows,
        run,
        row_step,
        input: (0..length).map(|_| input(numbers)).collect(),
        weights: (0..count * rows * run).map(|_| weight(numbers)).collect(),
        channels: (0..count).map(|_| channel(numbers)).collect(),
        zeros: Zeros::default(),
        places,
        outputs: height * output_row,
        residual: with_residual.then(|| {
            let values = (0..factor * height * residual_row)
                .map(|_| input(numbers))
                .collect();
            Added {
                values,
                channels: residual_channels,
                scale: 0.5,
                pooled: pooled.then_some(residual_row),
            }
        }),
    }
}

/// Computes the same by definition, in 64-bit numbers.
fn plainly<A: Arithmetic>(case: &Case<A>, flip: u8) -> Vec<f64> {
    let value = |number: A::Input| f64::from(number.value(flip));
    let mut results = vec![0.0; case.outputs];
    for row in &case.places {
        for ix in 0..row.count {
            for (c, channel) in case.channels.iter().enumerate() {
                let residual =
                    case.residual
                        .as_ref()
                        .zip(row.residual)
                        .map_or(0.0, |(of, line)| {
                            let Added {
                                values,
                                channels,
                                scale,
                                pooled,
                            } = of;
                            if c >= *channels {
                                return 0.0;
                            }
                            let at = line.at(ix) + c;
                            let sum = match pooled {
                                None => value(values[at]),
                                Some(row) => {
                                    [0, *channels, *row, row + channels]
                                        .iter()
                                        .map(|by| value(values[at + by]))
                                        .sum::<f64>()
                                        / 4.0
                                }
                            };
                            sum * f64::from(*scale)
                        });
                let at = |begin: usize| {
                    let mut sum = 0.0;
                    for kernel_row in 0..case.rows {
                        for k in 0..case.run {
                            let weight: f64 =
                                case.weights[(c * case.rows + kernel_row) * case.run + k].into();
                            if weight == 0.0 {
                                continue;
                            }
                            let input = value(case.input[begin + kernel_row * case.row_step + k]);
                            sum += weight * (input - f64::from(case.zeros.input));
                        }
                    }
                    sum * f64::from(channel.scale) + f64::from(channel.bias)
                };
                let activated = |value: f64| {
                    if value < 0.0 {
                        value * f64::from(channel.slope)
                    } else {
                        value
                    }
                };
                let begin = row.input.map(|line| line.at(ix));
                let result = match (begin, row.pool) {
                    (None, _) => activated(residual),
                    (Some(begin), None) => activated(at(begin) + residual),
                    (Some(begin), Some([right, below])) => [0, right, below, right + below]
                        .iter()
                        .map(|by| activated(at(begin + by) + residual))
                        .fold(f64::NEG_INFINITY, f64::max),
                };
                results[row.output.at(ix) + c] = result;
            }
        }
    }
    results
}

/// Checks the results and returns them as bytes with the flip undone.
fn compare<A: Arithmetic>(kernels: &'static Kernels<A>, case: &Case<A>, bytes: bool) -> Vec<u8> {
    let weight = |channel: usize, row: usize, at: usize| {
        case.weights[(channel * case.rows + row) * case.run + at]
    };
    compare_packed(
        &Weights::pack_for(
            kernels,
            case.rows,
            case.run,
            &case.channels,
            case.zeros,
            weight,
        ),
        case,
        bytes,
    )
}

fn compare_packed<A: Arithmetic>(weights: &Weights<A>, case: &Case<A>, bytes: bool) -> Vec<u8> {
    let kernels = weights.kernels;
    let residual = case.residual.as_ref().map(|of| Residual {
        values: of.values.as_slice(),
        channels: of.channels,
        scale: of.scale,
        pooled: of.pooled,
    });
    let expected = plainly(case, kernels.flip);
    let (mut values, mut rounded) = (vec![0.0; case.outputs], vec![kernels.flip; case.outputs]);
    let mut output = if bytes {
        Output::Bytes(&mut rounded)
    } else {
        Output::Float(&mut values)
    };
    convolve(
        weights,
        &case.input,
        case.row_step,
        residual,
        &mut output,
        &case.places.iter().copied(),
    );
    for (ix, expected) in expected.iter().enumerate() {
        if bytes {
            let found = f64::from(rounded[ix] ^ kernels.flip);
            let expected = expected + f64::from(case.zeros.output);
            // Exactly between two whole numbers either is right.
            assert!(
                (found - expected.clamp(0.0, 255.0)).abs() <= 0.502,
                "{}: {found} instead of {expected}",
                kernels.name
            );
        } else {
            let off = (f64::from(values[ix]) - expected).abs();
            assert!(
                off <= 1e-4 * (1.0 + expected.abs()),
                "{}: {} instead of {expected}",
                kernels.name,
                values[ix]
            );
        }
    }
    rounded.iter().map(|byte| byte ^ kernels.flip).collect()
}

fn zero(numbers: &mut Numbers) -> u8 {
    [0, 0, 0, 1, 127, 128, 255, numbers.next(256) as u8][numbers.next(8)]
}

fn turn_over(case: &mut Case<Integer>, flip: u8) {
    let added = case
        .residual
        .iter_mut()
        .flat_map(|residual| &mut residual.values);
    for byte in case.input.iter_mut().chain(added) {
        *byte ^= flip;
    }
}

const WITH: [(bool, bool); 3] = [(false, false), (true, false), (false, true)];

#[test]
fn integers_are_added_up_as_by_hand_on_every_instruction_set() {
    let mut numbers = Numbers(1);
    let sets: Vec<_> = own::integer()
        .into_iter()
        .chain([&portable::INTEGER])
        .collect();
    println!("{:?}", sets.iter().map(|set| set.name).collect::<Vec<_>>());
    for round in 0..120 {
        // The full range, signed and unsigned, so that any overflow of a product or of a sum of two
        // in 16 bits shows.
        let input =
            |numbers: &mut Numbers| [0, 127, 128, 255, numbers.next(256) as u8][numbers.next(5)];
        let weight = |numbers: &mut Numbers| {
            [-127, 127, (numbers.next(255) as i16 - 127) as i8][numbers.next(3)]
        };
        let count = 1 + numbers.next(70);
        let mut case = case::<Integer>(&mut numbers, input, weight, WITH[round % 3], count);
        case.zeros = Zeros {
            input: zero(&mut numbers),
            output: zero(&mut numbers),
        };
        let mut results = Vec::new();
        for kernels in &sets {
            // Stored as the set keeps them; `value` flips them back.
            turn_over(&mut case, kernels.flip);
            results.push(compare(kernels, &case, round % 2 == 0));
            turn_over(&mut case, kernels.flip);
        }
        assert!(
            results.iter().all(|bytes| *bytes == results[0]),
            "two instruction sets round differently"
        );
    }
}

#[test]
fn floats_are_added_up_as_by_hand_on_every_instruction_set() {
    let mut numbers = Numbers(2);
    let sets: Vec<_> = own::float().into_iter().chain([&portable::FLOAT]).collect();
    println!("{:?}", sets.iter().map(|set| set.name).collect::<Vec<_>>());
    for round in 0..120 {
        let number = |numbers: &mut Numbers| numbers.next(2001) as f32 / 1000.0 - 1.0;
        let count = 1 + numbers.next(70);
        let case = case::<Float>(&mut numbers, number, number, WITH[round % 3], count);
        for kernels in &sets {
            compare(kernels, &case, false);
        }
    }
}

/// Turns the case into a depthwise one: a full convolution whose other weights are 0, with the
/// channels one after the other. Returns the number of columns.
fn one_kernel_each<A: Arithmetic>(
    case: &mut Case<A>,
    numbers: &mut Numbers,
    input: impl Fn(&mut Numbers) -> A::Input,
    weight: impl Fn(&mut Numbers) -> A::Weight,
) -> usize {
    let (count, columns) = (case.channels.len(), 1 + numbers.next(3));
    case.run = columns * count;
    let own = |ix: usize| ix % count == ix / (case.rows * case.run);
    let weights = 0..count * case.rows * case.run;
    case.weights = weights
        .map(|ix| {
            if own(ix) {
                weight(numbers)
            } else {
                A::Weight::default()
            }
        })
        .collect();
    case.row_step += case.run;
    let reach = case
        .places
        .iter()
        .filter_map(|row| Some(row.input?.at(row.count) + 2 * case.row_step));
    let length = reach.max().unwrap_or_default() * 2 + case.rows * case.row_step + case.run;
    case.input = (0..length).map(|_| input(numbers)).collect();
    columns
}

fn pack_each<A: Arithmetic>(
    kernels: &'static Kernels<A>,
    case: &Case<A>,
    columns: usize,
) -> Weights<A> {
    let count = case.channels.len();
    let weight = |channel: usize, row: usize, column: usize| {
        case.weights[(channel * case.rows + row) * case.run + column * count + channel]
    };
    Weights::pack_depthwise_for(
        kernels,
        case.rows,
        columns,
        &case.channels,
        case.zeros,
        weight,
    )
}

#[test]
fn floats_of_a_kernel_each_are_added_up_as_by_hand() {
    let mut numbers = Numbers(3);
    for round in 0..120 {
        let number = |numbers: &mut Numbers| numbers.next(2001) as f32 / 1000.0 - 1.0;
        let count = 1 + numbers.next(40);
        let mut case = case::<Float>(&mut numbers, number, number, WITH[round % 3], count);
        let columns = one_kernel_each(&mut case, &mut numbers, number, number);
        for kernels in own::float().into_iter().chain([&portable::FLOAT]) {
            let weights = pack_each(kernels, &case, columns);
            assert_eq!(weights.depthwise, count >= kernels.depthwise.lanes);
            compare_packed(&weights, &case, false);
        }
    }
}

#[test]
fn integers_of_a_kernel_each_are_added_up_as_by_hand() {
    let mut numbers = Numbers(4);
    for round in 0..120 {
        let input =
            |numbers: &mut Numbers| [0, 127, 128, 255, numbers.next(256) as u8][numbers.next(5)];
        let weight = |numbers: &mut Numbers| {
            [-127, 127, (numbers.next(255) as i16 - 127) as i8][numbers.next(3)]
        };
        // Too few channels to fill a vector make it a full convolution, which takes groups.
        let count = 1 + numbers.next(40);
        let count = if count < 16 {
            count.next_multiple_of(Integer::GROUP)
        } else {
            count
        };
        let mut case = case::<Integer>(&mut numbers, input, weight, WITH[round % 3], count);
        case.zeros = Zeros {
            input: zero(&mut numbers),
            output: zero(&mut numbers),
        };
        let columns = one_kernel_each(&mut case, &mut numbers, input, weight);
        let mut results = Vec::new();
        for kernels in own::integer().into_iter().chain([&portable::INTEGER]) {
            let weights = pack_each(kernels, &case, columns);
            assert_eq!(weights.depthwise, count >= kernels.depthwise.lanes);
            turn_over(&mut case, kernels.flip);
            results.push(compare_packed(&weights, &case, round % 2 == 0));
            turn_over(&mut case, kernels.flip);
        }
        assert!(
            results.iter().all(|bytes| *bytes == results[0]),
            "two instruction sets round differently"
        );
    }
}

#[test]
fn planes_hold_one_channel_each() {
    let channels = [Channel {
        scale: 1.0,
        bias: 0.0,
        slope: 1.0,
    }; 3];
    let weights = Weights::<Float>::pack(1, 2, &channels, Zeros::default(), |channel, _, at| {
        (10 * channel + at) as f32
    });
    let mut planes = vec![0.0; 6];
    let row = Row {
        count: 2,
        input: Some(Line { first: 0, step: 2 }),
        output: Line { first: 0, step: 1 },
        ..Row::default()
    };
    convolve(
        &weights,
        &[1.0, 2.0, 3.0, 4.0],
        4,
        None,
        &mut Output::Planes(&mut planes, 2),
        &[row].into_iter(),
    );
    assert_eq!(planes, [2.0, 4.0, 32.0, 74.0, 62.0, 144.0]);
}

#[test]
#[should_panic = "a convolution reaches beyond its input"]
fn a_place_beyond_the_input_is_refused() {
    let channel = [Channel {
        scale: 1.0,
        bias: 0.0,
        slope: 1.0,
    }];
    let weights = Weights::<Float>::pack(2, 3, &channel, Zeros::default(), |_, _, _| 1.0);
    let row = Row {
        count: 2,
        input: Some(Line { first: 0, step: 1 }),
        output: Line { first: 0, step: 1 },
        ..Row::default()
    };
    // The first place fits exactly, the second is one too far.
    convolve(
        &weights,
        &[0.0; 8],
        5,
        None,
        &mut Output::Float(&mut [0.0; 2]),
        &[row].into_iter(),
    );
}

#[test]
#[should_panic = "a convolution reaches beyond its output"]
fn a_result_beyond_the_output_is_refused() {
    let channels = vec![
        Channel {
            scale: 1.0,
            bias: 0.0,
            slope: 1.0
        };
        Float::kernels().full.lanes
    ];
    let weights = Weights::<Float>::pack(1, 1, &channels, Zeros::default(), |_, _, _| 1.0);
    let step = channels.len();
    let row = Row {
        count: 2,
        input: Some(Line::default()),
        output: Line { first: 1, step },
        ..Row::default()
    };
    convolve(
        &weights,
        &[0.0; 8],
        5,
        None,
        &mut Output::Float(&mut vec![0.0; 2 * step]),
        &[row].into_iter(),
    );
}

#[test]
fn what_is_no_number_becomes_zero_as_a_byte() {
    let channel = [Channel {
        scale: f32::NAN,
        bias: 0.0,
        slope: 1.0,
    }];
    for kernels in own::integer().into_iter().chain([&portable::INTEGER]) {
        let weights = Weights::pack_for(kernels, 1, 4, &channel, Zeros::default(), |_, _, _| 1);
        let row = Row {
            count: 1,
            input: Some(Line::default()),
            ..Row::default()
        };
        let mut bytes = [7];
        convolve(
            &weights,
            &[1; 4],
            4,
            None,
            &mut Output::Bytes(&mut bytes),
            &[row].into_iter(),
        );
        assert_eq!(bytes, [kernels.flip]);
    }
}

#[test]
#[should_panic = "a weight of -128 is too large"]
fn a_weight_with_sums_beyond_16_bits_is_refused() {
    let channel = [Channel {
        scale: 1.0,
        bias: 0.0,
        slope: 1.0,
    }];
    Weights::<Integer>::pack(1, 4, &channel, Zeros::default(), |_, _, _| -128);
}
