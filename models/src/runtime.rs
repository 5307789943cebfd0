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

use crate::{Device, Pack, VisionError};

/// What runs the networks, with its version.
pub const RUNTIME_VERSION: &str = "tract 0.23.9";

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
        Self::parse(file, &pack.read(file)?, outputs)
    }

    /// The same from a file's bytes; `file` is for messages.
    pub(crate) fn parse(file: &str, bytes: &[u8], outputs: &[&'static str]) -> Result<Self, VisionError> {
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

    /// Optimises for inputs of `shape`. For a GPU, call within [`on_gpu`].
    pub(crate) fn plan(&self, shape: &[usize], device: Device) -> Result<Plan, VisionError> {
        let model = self.typed(shape)?;
        let plan = match device {
            Device::Cpu => model.into_optimized().and_then(IntoRunnable::into_runnable),
            Device::Cuda => model.into_decluttered().and_then(gpu::plan),
        };
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
            // Of what a GPU made, this fetches the numbers.
            let plain = output.try_as_plain_ram().map_err(failed)?;
            let finite = plain.as_slice::<f32>().is_ok_and(|values| values.iter().all(|v| v.is_finite()));
            if !finite {
                let reason = format!("output {ix} is not made of finite numbers");
                return Err(VisionError::Inference { file: self.file.clone(), reason });
            }
        }
        Ok(Outputs(outputs))
    }
}

#[cfg(test)]
impl Plan {
    /// The nodes of a plan made for a GPU that run on the processor all the same.
    pub(crate) fn on_processor(&self) -> Vec<String> {
        let runs_there =
            |name: &str| ["Cuda", "Gpu", "DeviceSync", "Source", "Const"].iter().any(|p| name.starts_with(p));
        let nodes = self.plan.model().nodes.iter();
        nodes
            .filter(|node| !runs_there(&node.op.name()))
            .map(|node| format!("{} ({})", node.name, node.op.name()))
            .collect()
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

/// Runs `work`, which plans or runs networks on a GPU. Without a GPU that can be used, or if the driver's binding
/// panics, which it does wherever a library lacks something, the error says so in one sentence.
pub(crate) fn on_gpu<T>(work: impl FnOnce() -> Result<T, VisionError>) -> Result<T, VisionError> {
    let unusable = |reason| VisionError::NoGpu { reason };
    // A half-made network is dropped with the panic, and the driver's binding keeps nothing half-made.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        gpu::check().map_err(unusable).and_then(|()| work())
    })) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its driver panicked");
            Err(unusable(text.split_whitespace().collect::<Vec<_>>().join(" ")))
        }
    }
}

#[cfg(any(feature = "cuda", feature = "cuda-13"))]
mod gpu {
    use std::sync::Arc;

    use tract_cuda::utils::{REQUIRED_CUDA_API, ensure_cuda_runtime_dependencies};
    use tract_onnx::prelude::*;
    use tract_onnx::tract_core::runtime::runtime_for_name;

    /// Looks for the driver, a GPU and the libraries.
    pub(super) fn check() -> Result<(), String> {
        ensure_cuda_runtime_dependencies("CUDA").map_err(|error| {
            // The cause comes with explanations over several lines; its first sentence says what is missing.
            let cause = error.root_cause().to_string();
            let first = cause.lines().next().and_then(|line| line.split(". ").next()).unwrap_or_default();
            let first = first.trim_start_matches("CUDA: ").trim_end_matches('.');
            let (major, minor) = (REQUIRED_CUDA_API / 1000, REQUIRED_CUDA_API % 1000 / 10);
            format!("{first}, and this build needs CUDA {major} from {major}.{minor} on with cuDNN 9")
        })
    }

    /// Uploads the weights and compiles what the graph needs.
    pub(super) fn plan(model: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
        let missing = || TractError::msg("the CUDA runtime is not linked in");
        let runnable = runtime_for_name("cuda")?.ok_or_else(missing)?.prepare(model)?;
        runnable.typed_plan().cloned().ok_or_else(|| TractError::msg("the CUDA runtime made no plan"))
    }
}

#[cfg(not(any(feature = "cuda", feature = "cuda-13")))]
mod gpu {
    use std::sync::Arc;

    use tract_onnx::prelude::*;

    const MISSING: &str = "this build has no CUDA";

    pub(super) fn check() -> Result<(), String> {
        Err(MISSING.to_owned())
    }

    pub(super) fn plan(_: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
        Err(TractError::msg(MISSING))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_cargo_builds() {
        let version = RUNTIME_VERSION.strip_prefix("tract ").unwrap();
        for crate_name in ["tract-onnx", "tract-cuda"] {
            let line = format!("{crate_name} = {{ version = \"={version}\"");
            assert!(include_str!("../Cargo.toml").contains(&line), "Cargo.toml has no {line}");
        }
    }

    #[cfg(any(feature = "cuda", feature = "cuda-13"))]
    #[test]
    fn the_cuda_runtime_is_in_the_program_though_nothing_names_it() {
        // An error is a machine without a GPU, none a program without the runtime.
        assert!(!matches!(tract_onnx::tract_core::runtime::runtime_for_name("cuda"), Ok(None)));
    }

    #[test]
    fn a_panic_of_the_drivers_binding_is_an_error_of_one_line() {
        let error = on_gpu::<()>(|| panic!("no\n  stream")).unwrap_err().to_string();
        // Without a GPU it does not come to the panic.
        assert!(error.starts_with("this machine has no usable NVIDIA GPU: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
