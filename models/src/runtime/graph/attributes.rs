//! Attributes of a node. The callers know which ones an operator may have.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

/// Checks that a node has at most these inputs and only these attributes, so that nothing in it is
/// ignored.
pub(super) fn understood(
    node: &NodeProto,
    inputs: usize,
    attributes: &[&str],
) -> Result<(), String> {
    if !node.domain.is_empty() && node.domain != "ai.onnx" {
        return Err(format!("the domain {} is not ONNX's", node.domain));
    }
    if node.input.len() > inputs {
        return Err(format!("it has {} inputs", node.input.len()));
    }
    for AttributeProto { name, r#type, .. } in &node.attribute {
        let kind = match name.as_str() {
            "dilations" | "kernel_shape" | "pads" | "perm" | "strides" => AttributeType::Ints,
            "auto_pad" | "coordinate_transformation_mode" | "mode" | "nearest_mode" => {
                AttributeType::String
            }
            "alpha" | "beta" | "cubic_coeff_a" | "extrapolation_value" => AttributeType::Float,
            _ => AttributeType::Int,
        };
        if !attributes.contains(&name.as_str()) || *r#type != kind as i32 {
            return Err(format!("its attribute {name} is not understood"));
        }
    }
    Ok(())
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute
        .iter()
        .find(|attribute| attribute.name == name)
}

pub(super) fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |attribute| attribute.i)
}

pub(super) fn ints<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|attribute| attribute.ints.as_slice())
}

pub(super) fn text<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [u8]> {
    attribute(node, name).map(|attribute| attribute.s.as_slice())
}

/// Returns the number that all entries share, if it is within the bounds.
pub(super) fn square<const COUNT: usize>(
    numbers: &[i64],
    least: usize,
    most: usize,
) -> Option<usize> {
    let number = usize::try_from(*numbers.first()?).ok()?;
    (numbers == [numbers[0]; COUNT] && (least..=most).contains(&number)).then_some(number)
}

pub(super) fn pads_as_told(node: &NodeProto) -> bool {
    node.attribute
        .iter()
        .all(|attribute| attribute.name != "auto_pad" || attribute.s == b"NOTSET")
}
