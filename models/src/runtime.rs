//! Loading and running of networks. This module and its submodules are the only ones that name
//! tract's types. It handles shapes and numbers, not their meaning.
//!
//! On the processor a plain convolutional network runs in operators of our own (`graph`, `lower`,
//! `operators`), any other one in tract's; on a GPU always in tract's.

mod graph;
mod layers;
mod lower;
mod operators;
mod stored;

use std::any::Any;
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use prost::Message;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::cnn::Conv;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::infer::InferenceModelExt;

use crate::pixels::Pixels;
use crate::{Device, Pack, Precision, VisionError};

/// The inference runtime and its version.
pub const RUNTIME_VERSION: &str = "tract 0.23.9";

/// A parsed network without a fixed input shape.
pub(crate) struct Network {
    file: String,
    graph: ModelProto,
    outputs: Vec<&'static str>,
}

/// A network prepared for inputs of a shape. Running it needs no lock.
pub(crate) struct Plan {
    file: String,
    pixels: Pixels,
    /// Shape of inputs; an open side takes any length.
    shape: [Option<usize>; 4],
    plan: Arc<TypedRunnableModel>,
    /// True if it runs in our own operators, which take pixels as they are.
    own: bool,
}

/// Outputs of a run: one tensor each, in the order the decoder asked for.
pub(crate) struct Outputs(TVec<TValue>);

impl Network {
    /// Parses a file of the pack and checks that it has the outputs `outputs`.
    pub(crate) fn load(
        pack: &Pack,
        file: &str,
        outputs: &[&'static str],
    ) -> Result<Self, VisionError> {
        Self::parse(file, &pack.read(file)?, outputs)
    }

    /// Parses a file's bytes; `file` is for messages.
    pub(crate) fn parse(
        file: &str,
        bytes: &[u8],
        outputs: &[&'static str],
    ) -> Result<Self, VisionError> {
        let unusable = |reason: String| VisionError::Network {
            file: file.to_owned(),
            reason,
        };
        let graph = tract_onnx::onnx()
            .proto_model_for_read(&mut Cursor::new(bytes))
            .map_err(|error| unusable(format!("it cannot be parsed: {error:#}")))?;
        Self::of(file, graph, outputs)
    }

    /// Makes the network of one precision from a file with weights stored once.
    pub(crate) fn stored(
        file: &str,
        bytes: &[u8],
        precision: Precision,
        outputs: &[&'static str],
    ) -> Result<Self, VisionError> {
        let stored = Self::parse(file, bytes, outputs)?;
        let graph = stored
            .graph
            .graph
            .as_ref()
            .ok_or_else(|| "it has no graph".to_owned());
        let graph = graph.and_then(|graph| stored::network(graph, precision));
        let graph = graph.map_err(|reason| VisionError::Network {
            file: file.to_owned(),
            reason,
        })?;
        Self::of(file, graph, outputs)
    }

    fn of(file: &str, graph: ModelProto, outputs: &[&'static str]) -> Result<Self, VisionError> {
        let unusable = |reason: String| VisionError::Network {
            file: file.to_owned(),
            reason,
        };
        let of = graph
            .graph
            .as_ref()
            .ok_or_else(|| unusable("it has no graph".into()))?;
        for name in outputs {
            if of.output.iter().all(|output| output.name != *name) {
                return Err(unusable(format!("it has no output named {name}")));
            }
        }
        let inputs = of.input.iter().filter(|input| {
            of.initializer
                .iter()
                .all(|constant| constant.name != input.name)
        });
        match inputs.count() {
            1 => Ok(Self {
                file: file.to_owned(),
                graph,
                outputs: outputs.to_vec(),
            }),
            count => Err(unusable(format!("it has {count} inputs, not one"))),
        }
    }

    /// Returns the bytes of an ONNX file.
    pub(crate) fn file(&self) -> Vec<u8> {
        self.graph.encode_to_vec()
    }

    /// Prepares the network for inputs of one shape. For a GPU, call this within [`on_gpu`].
    pub(crate) fn plan(
        &self,
        shape: [usize; 4],
        device: Device,
        pixels: &Pixels,
    ) -> Result<Plan, VisionError> {
        if device == Device::Cpu
            && let Ok(plan) = self.open_plan(shape.map(Some), pixels)
        {
            return Ok(plan);
        }
        self.plan_in_tract(shape, device, pixels)
    }

    fn plan_in_tract(
        &self,
        shape: [usize; 4],
        device: Device,
        pixels: &Pixels,
    ) -> Result<Plan, VisionError> {
        let plan = match device {
            Device::Cpu => caught(|| self.translated(shape)?.into_optimized()?.into_runnable()),
            Device::Cuda => self
                .translated(shape)
                .and_then(TypedModel::into_decluttered)
                .and_then(gpu::plan),
        };
        let plan = plan.map_err(|error| self.unusable(&error))?;
        Ok(Plan {
            file: self.file.clone(),
            pixels: pixels.clone(),
            shape: shape.map(Some),
            plan,
            own: false,
        })
    }

    /// Prepares the network for inputs of every shape with these sides, in our own operators.
    pub(crate) fn open_plan(
        &self,
        shape: [Option<usize>; 4],
        pixels: &Pixels,
    ) -> Result<Plan, VisionError> {
        let graph = self
            .graph
            .graph
            .as_ref()
            .ok_or_else(|| "it has no graph".to_owned());
        let model = graph.and_then(|graph| lower::lower(graph, &self.outputs, shape, pixels));
        let model = model.map_err(|reason| VisionError::Network {
            file: self.file.clone(),
            reason,
        })?;
        let plan = model
            .into_runnable()
            .map_err(|error| self.unusable(&error))?;
        Ok(Plan {
            file: self.file.clone(),
            pixels: pixels.clone(),
            shape,
            plan,
            own: true,
        })
    }

    /// Fails if any convolution would run in floating point, naming each.
    pub(crate) fn require_integer_convolutions(
        &self,
        shape: [usize; 4],
    ) -> Result<(), VisionError> {
        let graph = self.graph.graph.as_ref();
        let nodes =
            match graph.and_then(|graph| lower::float_convolutions(graph, &self.outputs).ok()) {
                Some(nodes) => nodes,
                None => self.float_convolutions_in_tract(shape)?,
            };
        if nodes.is_empty() {
            Ok(())
        } else {
            Err(VisionError::FloatConvolution {
                file: self.file.clone(),
                nodes,
            })
        }
    }

    fn float_convolutions_in_tract(&self, shape: [usize; 4]) -> Result<Vec<String>, VisionError> {
        // The decluttered graph still has convolutions; later tract lowers them to matrix products
        // that are no longer recognisable.
        let model = caught(|| self.translated(shape)?.into_decluttered())
            .map_err(|error| self.unusable(&error))?;
        let mut nodes = Vec::new();
        for node in &model.nodes {
            let of_numbers = |outlet: &OutletId| {
                model
                    .outlet_fact(*outlet)
                    .is_ok_and(|fact| fact.datum_type.is_float())
            };
            let float_conv = node
                .op_as::<Conv>()
                .is_some_and(|conv| conv.q_params.is_none());
            // A 1×1 convolution becomes a product over four axes; the last layer's has two.
            let float_product = node.op_is::<EinSum>()
                && node.inputs.iter().any(of_numbers)
                && model
                    .outlet_fact(OutletId::new(node.id, 0))
                    .is_ok_and(|fact| fact.rank() > 2);
            if float_conv || float_product {
                nodes.push(node.name.clone());
            }
        }
        Ok(nodes)
    }

    fn translated(&self, shape: [usize; 4]) -> TractResult<TypedModel> {
        let mut model = tract_onnx::onnx().model_for_proto_model(&self.graph)?;
        let mut outlets = Vec::new();
        for &name in &self.outputs {
            let labelled = model
                .outputs
                .iter()
                .find(|o| model.outlet_label(**o) == Some(name));
            let named = || {
                model
                    .outputs
                    .iter()
                    .find(|o| model.node(o.node).name == name)
            };
            outlets.push(
                *labelled
                    .or_else(named)
                    .ok_or_else(|| TractError::msg(format!("no output named {name}")))?,
            );
        }
        model.outputs = outlets;
        model
            .with_input_fact(0, f32::fact(shape).into())
            .and_then(InferenceModelExt::into_typed)
    }

    fn unusable(&self, error: &TractError) -> VisionError {
        VisionError::Network {
            file: self.file.clone(),
            reason: format!("{error:#}"),
        }
    }
}

impl Plan {
    /// Runs the network on pictures of interleaved RGB. `shape` is pictures, channels, height and
    /// width, and must fit the network's input.
    pub(crate) fn run(&self, shape: [usize; 4], pixels: &[u8]) -> Result<Outputs, VisionError> {
        let failed = |reason: String| VisionError::Inference {
            file: self.file.clone(),
            reason,
        };
        if shape
            .iter()
            .zip(&self.shape)
            .any(|(side, expected)| expected.is_some_and(|expected| *side != expected))
        {
            return Err(failed(format!(
                "an input of {shape:?} does not fit {:?}",
                self.shape
            )));
        }
        let wrong = |error: TractError| failed(format!("{error:#}"));
        let input = if self.own {
            operators::picture(shape, pixels)
        } else {
            Tensor::from_shape(&shape, &self.pixels.planes(shape[0], pixels))
        };
        let input = input.map_err(wrong)?;
        let outputs = self.plan.run(tvec!(input.into_tvalue())).map_err(wrong)?;
        for (ix, output) in outputs.iter().enumerate() {
            // Fetches the numbers if a GPU made them.
            let plain = output.try_as_plain_ram().map_err(wrong)?;
            let finite = plain
                .as_slice::<f32>()
                .is_ok_and(|values| values.iter().all(|v| v.is_finite()));
            if !finite {
                return Err(failed(format!("output {ix} is not made of finite numbers")));
            }
        }
        Ok(Outputs(outputs))
    }

    /// Fails unless an input of `shape` gives outputs of exactly these shapes, so that decoders may
    /// index without checks.
    pub(crate) fn require_shapes(
        &self,
        shape: [usize; 4],
        expected: &[&[usize]],
    ) -> Result<(), VisionError> {
        let outputs = self.run(shape, &vec![0; shape.iter().product()])?;
        for (ix, expected) in expected.iter().enumerate() {
            let found = outputs.shape(ix);
            if found != *expected {
                let reason = format!(
                    "for input {shape:?} its output {ix} has the shape {found:?}, not {expected:?}"
                );
                return Err(VisionError::Network {
                    file: self.file.clone(),
                    reason,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Plan {
    /// Tells whether the plan runs in the operators of this crate.
    pub(crate) fn is_our_own(&self) -> bool {
        self.own
    }

    /// Returns the nodes of a plan for a GPU that run on the processor nevertheless.
    pub(crate) fn on_processor(&self) -> Vec<String> {
        let runs_there = |name: &str| {
            ["Cuda", "Gpu", "DeviceSync", "Source", "Const"]
                .iter()
                .any(|p| name.starts_with(p))
        };
        let nodes = self.plan.model().nodes.iter();
        nodes
            .filter(|node| !runs_there(&node.op.name()))
            .map(|node| format!("{} ({})", node.name, node.op.name()))
            .collect()
    }
}

impl Outputs {
    /// Returns one output, flat, row by row.
    pub(crate) fn get(&self, ix: usize) -> &[f32] {
        // `Plan::run` lets only float tensors in main memory through.
        self.0[ix]
            .as_plain_ram()
            .and_then(|view| view.as_slice().ok())
            .unwrap_or_default()
    }

    /// Returns one row of a two-dimensional output, if there is such an output of this width.
    pub(crate) fn row<const N: usize>(&self, ix: usize, row: usize) -> Option<[f32; N]> {
        let (rows, _) = self.0.get(ix).map(|_| self.get(ix).as_chunks())?;
        rows.get(row).copied()
    }

    /// Returns one output's shape.
    pub(crate) fn shape(&self, ix: usize) -> &[usize] {
        self.0[ix].shape()
    }
}

/// Runs `work`, which plans or runs networks on a GPU. If there is no usable GPU, or if the
/// driver's binding panics, as it does whenever a library lacks something, the error says so in one
/// sentence.
pub(crate) fn on_gpu<T>(work: impl FnOnce() -> Result<T, VisionError>) -> Result<T, VisionError> {
    let unusable = |reason| VisionError::NoGpu { reason };
    // Unwind safe: a half-made network is dropped with the panic, and the driver's binding keeps no
    // state of it.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        gpu::check().map_err(unusable).and_then(|()| work())
    })) {
        Ok(result) => result,
        Err(panic) => Err(unusable(
            said(panic.as_ref()).unwrap_or_else(|| "its driver panicked".to_owned()),
        )),
    }
}

/// Turns tract's panics at malformed files, which no converter writes, into errors.
fn caught<T>(work: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    // Unwind safe: a half-made network is dropped with the panic.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = said(panic.as_ref()).unwrap_or_default();
        Err(TractError::msg(format!("tract cannot run it: {text}")))
    })
}

/// Returns a panic's message on one line.
fn said(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(any(feature = "cuda", feature = "cuda-13"))]
mod gpu {
    use std::sync::Arc;

    use tract_cuda::utils::{REQUIRED_CUDA_API, ensure_cuda_runtime_dependencies};
    use tract_onnx::prelude::*;
    use tract_onnx::tract_core::runtime::runtime_for_name;

    /// Checks for the driver, a GPU and the libraries.
    pub(super) fn check() -> Result<(), String> {
        ensure_cuda_runtime_dependencies("CUDA").map_err(|error| {
            // The cause spans several lines of explanation; its first sentence names the missing
            // part.
            let cause = error.root_cause().to_string();
            let first = cause
                .lines()
                .next()
                .and_then(|line| line.split(". ").next())
                .unwrap_or_default();
            let first = first.trim_start_matches("CUDA: ").trim_end_matches('.');
            let (major, minor) = (REQUIRED_CUDA_API / 1000, REQUIRED_CUDA_API % 1000 / 10);
            format!(
                "{first}, and this build needs CUDA {major} from {major}.{minor} on with cuDNN 9"
            )
        })
    }

    /// Uploads the weights and compiles the kernels that the graph needs.
    pub(super) fn plan(model: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
        let missing = || TractError::msg("the CUDA runtime is not linked in");
        let runnable = runtime_for_name("cuda")?
            .ok_or_else(missing)?
            .prepare(model)?;
        runnable
            .typed_plan()
            .cloned()
            .ok_or_else(|| TractError::msg("the CUDA runtime made no plan"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_cargo_builds() {
        let version = RUNTIME_VERSION.strip_prefix("tract ").unwrap();
        for crate_name in ["tract-onnx", "tract-cuda"] {
            let line = format!("{crate_name} = {{ version = \"={version}\"");
            assert!(
                include_str!("../Cargo.toml").contains(&line),
                "Cargo.toml has no {line}"
            );
        }
    }

    #[cfg(any(feature = "cuda", feature = "cuda-13"))]
    #[test]
    fn the_cuda_runtime_is_in_the_program_though_nothing_names_it() {
        // `Err` means a machine without a GPU, `Ok(None)` a program without the runtime.
        assert!(!matches!(
            tract_onnx::tract_core::runtime::runtime_for_name("cuda"),
            Ok(None)
        ));
    }

    #[test]
    fn a_panic_of_the_drivers_binding_is_an_error_of_one_line() {
        let error = on_gpu::<()>(|| panic!("no\n  stream"))
            .unwrap_err()
            .to_string();
        // Without a GPU, `on_gpu` fails before it calls the closure.
        assert!(
            error.starts_with("this machine has no usable NVIDIA GPU: "),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}
