// Three-dimensional convolution and its gradients for problems that cuDNN has no plan for (`conv.cuh`).
#include "conv.cuh"

// Operations on float dtypes. `forward`: a, b are the layer's input and the filter. `grad_input`: the gradient of the output, and
// the filter. `grad_weight`: the input, and the gradient of the output. Blocks: one per `256 >> lanes.log2` results.
FAMILY(conv3d, VolumeConvolution shape, address a, address b, address out);

#define CONV3D(name, T, direction, Direction)                                                                      \
    KERNEL_OF(4) conv3d_##direction##_##name(BY_VALUE VolumeConvolution p, const T* a, const T* b, T* out) {              \
        convolve<T, Direction>(p, a, b, out);                                                                      \
    }
FOR_FLOAT(CONV3D, forward, Forward)
FOR_FLOAT(CONV3D, grad_input, GradInput)
FOR_FLOAT(CONV3D, grad_weight, GradWeight)
