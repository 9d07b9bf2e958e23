"""Faults in matrix products and convolutions."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "matmul_broadcast_stride", "the batch stride of a factor that the batch shares is not 0",
        "crates/cuda/src/ops/matmul.rs",
        "let [sa, sb, so] = batch.steps.map(|step| step as i64);",
        "let [sa, sb, so] = batch.steps.map(|step| (step as i64).max(1));",
        ["matmul_of_broadcast_factors"],
    ),
    Mutation(
        "convolution_workspace", "one byte less than cuDNN's plan asked for",
        "crates/cuda/src/conv/dnn.rs",
        "match self.memory.block(plan.workspace) {",
        "match self.memory.block(plan.workspace.saturating_sub(1)) {",
        ["conv2d_shapes"],
        "uncached",
    ),
    Mutation(
        "convolution_binding", "filter and image exchanged in what a plan is given",
        "crates/cuda/src/conv/dnn.rs",
        "[(uid::X, at.x), (uid::W, at.w),",
        "[(uid::W, at.x), (uid::X, at.w),",
        ["conv2d_shapes"],
    ),
    Mutation(
        "convolution_strides", "the strides of rows and columns exchanged in what cuDNN is told of a tensor",
        "crates/cuda/src/conv/graph.rs",
        "&wide(self.problem.format.strides(dims))",
        "&{ let [n, c, h, w] = wide(self.problem.format.strides(dims)); [n, c, w, h] }",
        ["conv2d_shapes"],
    ),
    Mutation(
        "convolution_alignment", "cuDNN is told that every address is a multiple of 16",
        "crates/cuda/src/conv/problem.rs",
        "1 << bits.trailing_zeros()",
        "16 << (bits.trailing_zeros() & 0)",
        ["conv2d_layouts"],
    ),
    Mutation(
        "convolution_device", "plans of one device are kept for another one, too",
        "crates/cuda/src/context.rs",
        "name: name.clone(), compute_capability: *compute_capability, multi",
        "name: name[..9].into(), compute_capability: (compute_capability.0 * 0, 0), multi",
        ["plans_are_found"],
        "plan_cache",
    ),
    Mutation(
        "convolution_bias_relu", "ReLU after a convolution and its bias, asked for or not",
        "crates/cuda/src/ops/conv2d.rs",
        "(Some(bias), None, false) => (bias, Conv2dFusion::Bias),",
        "(Some(bias), None, false) => (bias, Conv2dFusion::BiasRelu),",
        ["conv2d_shapes"],
    ),
    Mutation(
        "convolution_sums", "the sums of a fused bias gradient are added to what was there",
        "crates/cuda/src/conv/dnn.rs",
        "if !problem.has_channel_sums() {",
        "if problem.has_channel_sums() {",
        ["conv2d_settings"],
    ),
    Mutation(
        "matmul_workspace", "half of the memory that cuBLASLt's algorithm asked for",
        "crates/cuda/src/gemm/lt.rs",
        "self.memory.block(bytes)",
        "self.memory.block(bytes / 2)",
        ["matmul"],
        "uncached",
    ),
    Mutation(
        "matmul_barrier", "the next tile is written while the last one is being read",
        "kernels/matmul.cu",
        "* (uint64_t)right[k][threadIdx.x];\n                __syncthreads();\n",
        "* (uint64_t)right[k][threadIdx.x];\n",
        ["turns::matmul"],
    ),
    Mutation(
        "conv2d_padding", "taps in the padding after the image are read",
        "kernels/conv2d.cu",
        "return in >= 0 && in < p.size[d];",
        "return in >= 0 && in <= p.size[d];",
        ["conv2d_by_the_kernel"],
    ),
    Mutation(
        "conv2d_stride", "the gradient of the input comes from pixels between the strides, too",
        "kernels/conv2d.cu",
        "return out * (int64_t)p.stride[d].extent == place && out < p.out_size[d];",
        "return out < p.out_size[d];",
        ["conv2d_by_the_kernel"],
    ),
]
