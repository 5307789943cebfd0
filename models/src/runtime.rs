//! Loading and running networks: the only file that names tract types. Knows shapes and numbers,
//! not what they mean.

use std::collections::VecDeque;
use std::fmt;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::cnn::Conv;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::infer::InferenceModelExt;

use crate::{Pack, VisionError};

/// A parsed network whose input shape is not decided yet.
pub(crate) struct Network {
    file: String,
    model: InferenceModel,
    outputs: Vec<&'static str>,
}

/// A network optimised for one input shape. Running it needs no lock.
pub(crate) struct Plan {
    file: String,
    shape: Vec<usize>,
    plan: Arc<TypedRunnableModel>,
}

/// What a run returns: one tensor for each output, in the order the decoder asked for.
pub(crate) struct Outputs(TVec<TValue>);

impl Network {
    /// Parses a file of the pack and finds the outputs the caller needs, by name.
    pub(crate) fn load(pack: &Pack, file: &str, outputs: &[&'static str]) -> Result<Self, VisionError> {
        Self::parse(file, pack.read(file)?, outputs)
    }

    /// The same from a file's bytes; `file` is for messages.
    pub(crate) fn parse(file: &str, bytes: Vec<u8>, outputs: &[&'static str]) -> Result<Self, VisionError> {
        let unusable = |reason: String| VisionError::Network { file: file.to_owned(), reason };
        let mut model = tract_onnx::onnx()
            .model_for_read(&mut Cursor::new(bytes))
            .map_err(|error| unusable(format!("it cannot be parsed: {error:#}")))?;
        let mut outlets = Vec::new();
        for &name in outputs {
            let labelled = model.outputs.iter().find(|o| model.outlet_label(**o) == Some(name));
            let named = || model.outputs.iter().find(|o| model.node(o.node).name == name);
            outlets.push(*labelled.or_else(named).ok_or_else(|| unusable(format!("it has no output named {name}")))?);
        }
        if model.inputs.len() != 1 {
            return Err(unusable(format!("it has {} inputs, not one", model.inputs.len())));
        }
        model.outputs = outlets;
        Ok(Self { file: file.to_owned(), model, outputs: outputs.to_vec() })
    }

    /// Optimises for inputs of `shape`.
    pub(crate) fn plan(&self, shape: &[usize]) -> Result<Plan, VisionError> {
        let plan = self.typed(shape)?.into_optimized().and_then(IntoRunnable::into_runnable);
        let plan = plan.map_err(|error| self.unusable(&error))?;
        Ok(Plan { file: self.file.clone(), shape: shape.to_vec(), plan })
    }

    /// Fails unless inputs of `shape` give outputs of exactly these shapes, so that decoders may
    /// index without looking.
    pub(crate) fn require_shapes(&self, shape: &[usize], expected: &[&[usize]]) -> Result<(), VisionError> {
        let model = self.typed(shape)?;
        for (ix, (name, expected)) in self.outputs.iter().zip(expected).enumerate() {
            let fact = model.output_fact(ix).map_err(|error| self.unusable(&error))?;
            if fact.shape.as_concrete() != Some(expected) {
                let reason =
                    format!("for input {shape:?} its output {name} has the shape {:?}, not {expected:?}", fact.shape);
                return Err(VisionError::Network { file: self.file.clone(), reason });
            }
        }
        Ok(())
    }

    /// Fails if any convolution would run in floating point, naming each.
    pub(crate) fn require_integer_convolutions(&self, shape: &[usize]) -> Result<(), VisionError> {
        // Asked of the decluttered graph: later tract lowers convolutions to matrix products
        // that no longer say what they were.
        let model = self.typed(shape)?.into_decluttered().map_err(|error| self.unusable(&error))?;
        let mut nodes = Vec::new();
        for node in &model.nodes {
            let of_numbers =
                |outlet: &OutletId| model.outlet_fact(*outlet).is_ok_and(|fact| fact.datum_type.is_float());
            let float_conv = node.op_as::<Conv>().is_some_and(|conv| conv.q_params.is_none());
            // A 1×1 convolution becomes a product over four axes; the last layer's has two.
            let float_product = node.op_is::<EinSum>()
                && node.inputs.iter().any(of_numbers)
                && model.outlet_fact(OutletId::new(node.id, 0)).is_ok_and(|fact| fact.rank() > 2);
            if float_conv || float_product {
                nodes.push(node.name.clone());
            }
        }
        if nodes.is_empty() { Ok(()) } else { Err(VisionError::FloatConvolution { file: self.file.clone(), nodes }) }
    }

    fn typed(&self, shape: &[usize]) -> Result<TypedModel, VisionError> {
        let model = self.model.clone().with_input_fact(0, f32::fact(shape).into());
        model.and_then(InferenceModelExt::into_typed).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &TractError) -> VisionError {
        VisionError::Network { file: self.file.clone(), reason: format!("{error:#}") }
    }
}

impl Plan {
    /// Runs the network on as many numbers as its shape holds.
    pub(crate) fn run(&self, input: &[f32]) -> Result<Outputs, VisionError> {
        let failed =
            |error: TractError| VisionError::Inference { file: self.file.clone(), reason: format!("{error:#}") };
        let input = Tensor::from_shape(&self.shape, input).map_err(failed)?;
        let outputs = self.plan.run(tvec!(input.into_tvalue())).map_err(failed)?;
        for (ix, output) in outputs.iter().enumerate() {
            let plain = output.as_plain_ram().and_then(|view| view.as_slice::<f32>().ok());
            let finite = plain.is_some_and(|values| values.iter().all(|v| v.is_finite()));
            if !finite {
                let reason = format!("output {ix} is not made of finite numbers");
                return Err(VisionError::Inference { file: self.file.clone(), reason });
            }
        }
        Ok(Outputs(outputs))
    }
}

impl Outputs {
    /// One output, flat and row by row.
    pub(crate) fn get(&self, ix: usize) -> &[f32] {
        // `Plan::run` let only float tensors in main memory through.
        self.0[ix].as_plain_ram().and_then(|view| view.as_slice().ok()).unwrap_or_default()
    }

    /// One row of a two-dimensional output, if there is such an output of this width.
    pub(crate) fn row<const N: usize>(&self, ix: usize, row: usize) -> Option<[f32; N]> {
        let (rows, _) = self.0.get(ix).map(|_| self.get(ix).as_chunks())?;
        rows.get(row).copied()
    }

    /// One output's shape.
    pub(crate) fn shape(&self, ix: usize) -> &[usize] {
        self.0[ix].shape()
    }
}

/// Plans of one network for the picture sizes met lately. Cameras send one size, so they pay for
/// optimising once; a folder of mixed sizes cannot fill the memory.
pub(crate) struct PlanCache {
    file: String,
    /// Decluttered with height and width still open, which is over half of the work.
    model: TypedModel,
    height: Symbol,
    width: Symbol,
    capacity: usize,
    /// The latest used last.
    plans: Mutex<VecDeque<Arc<Plan>>>,
}

impl PlanCache {
    /// For a network whose input is one picture of three planes.
    pub(crate) fn new(network: &Network, capacity: usize) -> Result<Self, VisionError> {
        let [height, width] = ["height", "width"].map(|name| network.model.symbols.sym(name));
        let shape = tvec![TDim::from(1), TDim::from(3), TDim::from(height.clone()), TDim::from(width.clone())];
        let fact = InferenceFact::dt_shape(f32::datum_type(), shape);
        let model = network.model.clone().with_input_fact(0, fact);
        let model = model.and_then(InferenceModelExt::into_typed).and_then(TypedModel::into_decluttered);
        let model = model.map_err(|error| network.unusable(&error))?;
        Ok(Self { file: network.file.clone(), model, height, width, capacity, plans: Mutex::default() })
    }

    /// The plan for pictures of this size, built if it is not there. Two threads may build the
    /// same plan at once: that costs time only, a lock held while building would cost everybody's.
    pub(crate) fn get(&self, height: usize, width: usize) -> Result<Arc<Plan>, VisionError> {
        let shape = [1, 3, height, width];
        if let Some(plan) = self.touch(&shape) {
            return Ok(plan);
        }
        let sides = [(self.height.clone(), height.to_dim()), (self.width.clone(), width.to_dim())];
        let model = self.model.set_symbols(&sides.into_iter().collect());
        let plan = model.and_then(TypedModel::into_optimized).and_then(IntoRunnable::into_runnable);
        let plan =
            plan.map_err(|error| VisionError::Network { file: self.file.clone(), reason: format!("{error:#}") })?;
        let plan = Arc::new(Plan { file: self.file.clone(), shape: shape.to_vec(), plan });
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.push_back(Arc::clone(&plan));
        if plans.len() > self.capacity {
            plans.pop_front();
        }
        Ok(plan)
    }

    fn touch(&self, shape: &[usize]) -> Option<Arc<Plan>> {
        // A panic elsewhere leaves the list whole: every change of it is a single call.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plans.iter().position(|plan| plan.shape == shape)?;
        let plan = plans.remove(at)?;
        plans.push_back(Arc::clone(&plan));
        Some(plan)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?}", self.file, self.shape)
    }
}

impl fmt::Debug for PlanCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for up to {} sizes", self.file, self.capacity)
    }
}
