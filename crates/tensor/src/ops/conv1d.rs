//! Convolution and transposed convolution along one dimension: those of images of height 1.

use kiln_backend::{Conv1d, Conv2d, Result};
use kiln_derive::located;

use super::{
    conv2d::{check_bias, check_channels, check_transposed_channels, check_weight, output_size, transposed_size},
    images::batched_of,
};
use crate::{autocast::cast_operands, tensor::Tensor};

/// The rule for images of height 1.
fn of_rows(rule: &Conv1d) -> Conv2d {
    let Conv1d { stride: [stride], padding: [padding], dilation: [dilation], groups } = *rule;
    Conv2d { stride: [1, stride], padding: [0, padding], dilation: [1, dilation], groups }
}

#[located]
impl Tensor {
    /// Convolves signals `[N, C, L]` (or one signal `[C, L]`) with a weight `[O, C / groups, k]` and adds a bias `[O]`:
    /// the result is `[N, O, L']` with `L' = floor((L + 2 padding - dilation (k - 1) - 1) / stride) + 1`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv1d.html>).
    ///
    /// # Errors
    /// If the shapes do not fit together, the kernel is longer than the padded signal, or dtypes or devices differ.
    pub fn conv1d(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv1d) -> Result<Tensor> {
        const OP: &str = "conv1d";
        cast_operands(OP, [self, weight], [bias], |[x, weight], [bias]| x.conv1d_no_autocast(weight, bias, rule))
    }

    fn conv1d_no_autocast(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv1d) -> Result<Tensor> {
        const OP: &str = "conv1d";
        batched_of(OP, 1, self, |x| {
            check_weight(OP, x, weight, bias, rule)?;
            check_channels(OP, x, weight, rule)?;
            check_bias(OP, bias, weight.dims()[0])?;
            output_size(OP, x, weight, rule)?;
            x.unsqueeze(2)?.conv2d(&weight.unsqueeze(2)?, bias, &of_rows(rule))?.squeeze(2)
        })
    }

    /// The transposed convolution: the gradient of [`conv1d`](Tensor::conv1d) with respect to its input, as an operation
    /// of its own. The signals are `[N, C, L]` (or one `[C, L]`), the weight `[C, O / groups, k]`, the result `[N, O, L']`
    /// with `L' = (L - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv_transpose1d.html>).
    ///
    /// # Errors
    /// If the shapes do not fit together, the result would be empty, `output_padding` is not below the stride or the
    /// dilation, or dtypes or devices differ.
    pub fn conv_transpose1d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv1d,
        output_padding: [usize; 1],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose1d";
        cast_operands(OP, [self, weight], [bias], |[x, weight], [bias]| {
            x.conv_transpose1d_no_autocast(weight, bias, rule, output_padding)
        })
    }

    fn conv_transpose1d_no_autocast(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv1d,
        output_padding: [usize; 1],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose1d";
        batched_of(OP, 1, self, |x| {
            check_weight(OP, x, weight, bias, rule)?;
            check_bias(OP, bias, check_transposed_channels(OP, x, weight, rule)?)?;
            transposed_size(OP, x, weight, rule, output_padding)?;
            let (x, weight) = (x.unsqueeze(2)?, weight.unsqueeze(2)?);
            x.conv_transpose2d(&weight, bias, &of_rows(rule), [0, output_padding[0]])?.squeeze(2)
        })
    }
}
