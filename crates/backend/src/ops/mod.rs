//! The primitives, one file per family: the descriptors of its operations, and the trait that each backend implements
//! in a file of the same name.

mod arg_reduce;
mod attention;
mod binary;
mod class_loss;
mod conv2d;
mod conv2d_calls;
mod conv2d_rule;
mod conv3d;
mod copy;
mod dropout;
mod fill;
mod grad_scaler;
mod index;
mod linear;
mod matmul;
mod memory;
mod norm;
mod optim;
mod pointwise_loss;
mod pool2d;
mod random;
mod reduce;
mod relu_bias_grad;
mod rnn_cell;
mod scan;
mod softmax;
mod sort;
mod tril_triu;
mod unary;
mod where_cond;

pub use arg_reduce::{ArgReduceArgs, ArgReduceBackend, ArgReduceOp};
pub use attention::{
    AttentionArgs, AttentionBackend, AttentionCall, AttentionDropout, AttentionGradArgs, AttentionRule,
};
pub use binary::{BinaryArgs, BinaryAssignArgs, BinaryBackend, BinaryGradArgs};
pub use class_loss::{
    ClassLoss, ClassLossArgs, ClassLossBackend, ClassLossExtents, ClassLossGradArgs, ClassLossInput, ClassLossOperands,
    Reduction,
};
pub use conv2d::{
    Conv2dArgs, Conv2dBackend, Conv2dExtents, Conv2dGradInputArgs, Conv2dGradWeightArgs, Conv2dReluGradInputArgs,
    conv2d_relu_grad_input_in_parts,
};
pub use conv2d_calls::{Conv2dCall, Conv2dDirection, Conv2dFusion, with_conv2d_calls};
pub use conv2d_rule::{Conv1d, Conv2d, Conv3d, Convolution};
pub use conv3d::{Conv3dArgs, Conv3dBackend, Conv3dGradInputArgs, Conv3dGradWeightArgs};
pub use copy::{CopyArgs, CopyBackend};
pub use dropout::{DropoutArgs, DropoutBackend};
pub use fill::{Arange, FillBackend};
pub use grad_scaler::{GradScalerBackend, UnscaleGradsArgs, UpdateScaleArgs};
pub use index::{
    GatherArgs, IndexAddArgs, IndexBackend, IndexSelectArgs, ScatterArgs, ScatterMode, index_axis, index_vector_strides,
};
pub use linear::{
    Activation, LinearArgs, LinearBackend, LinearGradArgs, LinearReluGradArgs, ReluMask, linear_relu_grad_in_parts,
};
pub use matmul::{MatmulArgs, MatmulBackend, MatmulPlan};
pub use memory::MemoryBackend;
pub use norm::{
    Affine, BatchNormArgs, BatchNormBackend, BatchNormEvalArgs, BatchNormGradArgs, BatchNormGradThen, BatchNormThen,
    LayerNormArgs, LayerNormBackend, LayerNormGradArgs, NormGrads, ReluAfterNorm, RunningStats,
};
pub use optim::{OptimArgs, OptimBackend, OptimRule, OptimScaling, OptimSlot};
pub use pointwise_loss::{
    PointwiseLoss, PointwiseLossArgs, PointwiseLossBackend, PointwiseLossGradArgs, PointwiseLossKind,
};
pub use pool2d::{
    AvgPool2dArgs, AvgPool2dGradArgs, MaxPool2dArgs, MaxPool2dGradArgs, Pool2d, Pool2dBackend, PoolDivisor,
};
pub use random::{Distribution, RandomArgs, RandomBackend, RandomState, bernoulli_threshold};
pub use reduce::{ReduceArgs, ReduceBackend, ReduceOp};
pub use relu_bias_grad::{ReluBiasGradArgs, ReluBiasGradBackend};
pub use rnn_cell::{GatedCell, RnnCellArgs, RnnCellBackend, RnnCellGradArgs, SAVED_GATES};
pub use scan::{CumExtreme, CumExtremeArgs, CumsumArgs, ScanBackend};
pub use softmax::{SoftmaxArgs, SoftmaxBackend, SoftmaxGradArgs, softmax_name};
pub use sort::{SearchsortedArgs, SortArgs, SortBackend};
pub use tril_triu::{TrilTriuArgs, TrilTriuBackend};
pub use unary::{UnaryArgs, UnaryBackend, UnaryGradArgs};
pub use where_cond::{WhereCondArgs, WhereCondBackend};
