//! Sums of two layers, and sums and products at the graph's input.

use tract_onnx::pb::NodeProto;

use super::attributes::understood;
use super::{Reading, Value, floats};
use crate::runtime::layers::{Added, Kind, Layer};

impl Reading<'_> {
    pub(super) fn multiply(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 2, &[])?;
        let factors = self.per_plane(node)?;
        let (layer, multiply, add) = self.entrance(node)?;
        for (channel, factor) in factors.into_iter().enumerate() {
            multiply[channel] *= factor;
            add[channel] *= factor;
        }
        Ok(Value::Layer(layer))
    }

    pub(super) fn add(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 2, &[])?;
        if let Ok(terms) = self.per_plane(node) {
            let (layer, _, add) = self.entrance(node)?;
            for (add, term) in add.iter_mut().zip(terms) {
                *add += term;
            }
            return Ok(Value::Layer(layer));
        }
        for ix in 0..2 {
            if let (Value::Layer(layer), Value::Doubled(doubled)) =
                (self.value(node, ix)?, self.value(node, 1 - ix)?)
            {
                return Ok(Value::Layer(self.push(Kind::Sum { doubled }, layer, None)));
            }
        }
        let ix = (0..2)
            .find(|ix| self.unfinished(node, *ix).is_ok())
            .ok_or("neither of its inputs is a convolution that only it reads")?;
        let mut zeros = [[0; 3]; 2];
        let (added, pooled) = match self.value(node, 1 - ix)? {
            Value::Layer(layer) => (layer, false),
            Value::Pooled(layer) => (layer, true),
            Value::Padded(layer, pooled, behind) => {
                zeros[1] = behind;
                (layer, pooled)
            }
            _ => return Err("its other input is not a layer".into()),
        };
        let (value, convolution) = self.unfinished(node, ix)?;
        let layer = match value {
            Value::Padded(layer, _, behind) => {
                zeros[0] = behind;
                layer
            }
            Value::Layer(layer) => layer,
            _ => return Err("it does not follow a convolution that only it reads".into()),
        };
        if convolution.residual.is_some() || convolution.pool.is_some() || added == layer {
            return Err("it is not the convolution's first sum".into());
        }
        convolution.residual = Some(Added {
            layer: added,
            pooled,
            zeros,
        });
        Ok(Value::Layer(layer))
    }

    /// Returns a constant for each plane of the input.
    fn per_plane(&self, node: &NodeProto) -> Result<[f32; 3], String> {
        let tensor = self.constant(node, 1, "its other input is not constant")?;
        match (tensor.shape(), floats(&tensor)?.as_slice()) {
            (shape, &[one]) if shape.len() <= 4 => Ok([one; 3]),
            ([3, 1, 1] | [1, 3, 1, 1], &[a, b, c]) => Ok([a, b, c]),
            _ => Err("it does not have one number for each plane".into()),
        }
    }

    /// Returns the graph's input layer, if only this node uses it.
    fn entrance(
        &mut self,
        node: &NodeProto,
    ) -> Result<(usize, &mut [f32; 3], &mut [f32; 3]), String> {
        let layer = self.layer(node, 0)?;
        let once = self.uses.get(node.input[0].as_str()) == Some(&1);
        match &mut self.layers[layer] {
            Layer {
                kind: Kind::Input { multiply, add },
                bytes: None,
                shared: false,
                ..
            } if once => Ok((layer, multiply, add)),
            _ => Err("it is not at the graph's input".into()),
        }
    }
}
