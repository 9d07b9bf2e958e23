//! Gradient checks: views, joining, indexing, reductions, products, losses, in-place operations.

use kiln_tensor::{
    AttentionOptions, BagMode, BagOptions, BatchNorm, ClassLoss, ClassLossInput, Conv1d, Conv2d, Conv3d, DType, Device,
    Ellipsis, GridMode, GridPadding, GridSample, InterpolateMode, NewAxis, PadMode, PointwiseLossKind, PoolDivisor,
    Pooling, Reduction, Result, Running, SlidingWindow, Tensor, step,
};

use super::{
    check::{ANY, Check, PAIRS},
    inputs::Values::*,
};

/// A list of shapes for one operand, and lists of lists for several.
macro_rules! shapes {
    ($($name:ident = $([$($dims:expr),*])*;)*) => {
        $(const $name: &[&[&[usize]]] = &[$(&[$(&$dims),*]),*];)*
    };
}

shapes! {
    SCALAR = [[]];
    MATRIX = [[2, 3]] [[0, 3]] [[3, 1]];
    CUBE = [[2, 3, 4]] [[2, 0, 4]];
    FULL = [[2, 3]] [[]] [[1, 1]];
    FULL_CUBE = [[2, 3, 2]];
    ONES_INSIDE = [[1, 3, 1]] [[1, 0, 1]];
    ROWS = [[4, 3]];
    SQUARE = [[3, 3]] [[2, 3]] [[3, 2]];
    VECTOR = [[5]];
    VECTOR_OR_MATRIX = [[3]] [[3, 4]];
    COLUMN = [[2, 1]] [[1]] [[0, 1]];
    TWO_MATRICES = [[2, 3], [2, 3]] [[1, 3], [2, 3]] [[0, 3], [2, 3]];
    TWO_EQUAL = [[2, 3], [2, 3]] [[], []] [[0, 3], [0, 3]];
    TWO_VECTORS = [[4], [4]] [[0], [0]] [[1], [1]];
    UNEQUAL_VECTORS = [[2], [3]] [[0], [3]];
    PRODUCTS_2D = [[2, 3], [3, 4]] [[2, 0], [0, 3]] [[0, 3], [3, 2]];
    PRODUCTS_ND = [[3], [3]] [[3], [3, 2]] [[2, 3], [3]] [[2, 2, 3], [3]] [[3], [2, 3, 2]] [[2, 2, 3], [3, 2]]
        [[2, 3], [2, 3, 2]] [[2, 1, 2, 3], [2, 3, 2]] [[0, 2, 3], [3, 2]];
    PRODUCTS_3D = [[2, 2, 3], [2, 3, 2]] [[0, 2, 3], [0, 3, 2]];
    MATRIX_VECTOR = [[2, 3], [3]] [[0, 3], [3]];
    LINEAR = [[4, 3], [2, 3], [2]] [[3], [2, 3], [2]] [[2, 2, 3], [2, 3], [2]] [[0, 3], [2, 3], [2]];
    LINEAR_BY_VECTOR = [[4, 3], [3], []] [[3], [3], []];
    LINEAR_NO_BIAS = [[4, 3], [2, 3]] [[3], [2, 3]];
    LSTM = [[2, 8], [2, 8], [2, 2]] [[0, 8], [0, 8], [0, 2]];
    GRU = [[2, 6], [2, 6], [2, 2]] [[0, 6], [0, 6], [0, 2]];
    LSTM_LAYER = [[3, 2, 8], [2, 2], [2, 2], [8, 2]] [[1, 1, 4], [1, 1], [1, 1], [4, 1]] [[2, 0, 8], [0, 2], [0, 2], [8, 2]];
    RNN_LAYER = [[3, 2, 2], [2, 2], [2, 2]] [[1, 1, 1], [1, 1], [1, 1]] [[2, 0, 2], [0, 2], [2, 2]];
    GRU_LAYER = [[3, 2, 6], [2, 2], [6, 2], [6]] [[1, 1, 3], [1, 1], [3, 1], [3]] [[2, 0, 6], [0, 2], [6, 2], [6]];
    BASE_AND_SOURCE = [[3, 4], [2, 2]];
    BASE_AND_ROWS = [[3, 2], [4, 2]];
    SCORES = [[3, 4]];
    SCORES_3D = [[2, 4, 3]];
    CONVOLUTION = [[2, 2, 4, 3], [3, 2, 3, 2], [3]] [[2, 4, 3], [2, 2, 2, 2], [2]] [[0, 2, 4, 4], [1, 2, 3, 3], [1]];
    RESIDUAL = [[2, 2, 4, 3], [3, 2, 3, 2], [3], [2, 3, 2, 5]] [[2, 4, 3], [2, 2, 2, 2], [2], [2, 3, 5]]
        [[0, 2, 4, 4], [1, 2, 3, 3], [1], [0, 1, 2, 4]];
    STACKED = [[2, 2, 4, 3], [4, 2, 3, 2], [4], [2, 2, 2, 2]] [[0, 2, 4, 4], [2, 2, 3, 3], [2], [2, 1, 1, 1]];
    GROUPS = [[1, 4, 5, 4], [2, 2, 2, 3]];
    TRANSPOSED = [[2, 2, 3, 2], [2, 3, 2, 3], [3]] [[2, 2, 3], [2, 1, 3, 3], [1]];
    TRANSPOSED_GROUPS = [[1, 4, 2, 3], [4, 2, 3, 2]];
    SIGNAL_CONVOLUTION = [[2, 2, 6], [3, 2, 2], [3]] [[2, 5], [2, 2, 3], [2]] [[0, 2, 6], [1, 2, 3], [1]];
    SIGNAL_CONVOLUTION_T = [[2, 2, 3], [2, 3, 2], [3]] [[2, 3], [2, 1, 3], [1]];
    VOLUME_CONVOLUTION = [[2, 2, 3, 3, 2], [2, 2, 2, 2, 3], [2]] [[1, 2, 3, 2], [1, 1, 2, 1, 2], [1]]
        [[0, 1, 3, 3, 2], [1, 1, 2, 2, 2], [1]];
    VOLUME_GROUPS = [[1, 4, 3, 2, 2], [2, 2, 2, 2, 1]];
    VOLUME_UNEVEN = [[1, 1, 4, 5, 3], [2, 1, 3, 2, 1]];
    VOLUME_GROUPS_T = [[1, 2, 2, 1, 2], [2, 2, 2, 3, 1]];
    VOLUME_CONVOLUTION_T = [[1, 2, 2, 2, 2], [2, 2, 2, 2, 1], [2]] [[1, 2, 1, 2], [1, 1, 3, 1, 2], [1]];
    SIGNALS = [[2, 2, 6]] [[1, 6]] [[0, 2, 6]];
    VOLUMES = [[1, 2, 3, 3, 4]] [[1, 2, 3, 4]] [[0, 1, 2, 2, 3]];
    NORMALIZED_INSTANCES = [[2, 3, 2, 2], [3], [3]] [[2, 2, 3], [2], [2]];
    NORMALIZED_BY_SQUARES = [[2, 3], [3]] [[2, 2, 3], [2, 3]] [[0, 3], [3]];
    PAIRS_OF_VECTORS = [[2, 3], [2, 3]] [[1, 3], [2, 3]] [[0, 3], [0, 3]];
    MATRIX_AND_PRODUCT = [[2, 4], [2, 3], [3, 4]] [[4], [2, 3], [3, 4]] [[], [0, 3], [3, 2]];
    VECTOR_AND_PRODUCT = [[2], [2, 3], [3]] [[1], [2, 3], [3]];
    BATCH_AND_PRODUCT = [[2, 2, 2], [2, 2, 3], [2, 3, 2]] [[2], [0, 2, 3], [0, 3, 2]];
    MATRIX_AND_BATCHES = [[2, 2], [2, 2, 3], [2, 3, 2]] [[], [3, 2, 1], [3, 1, 2]];
    MATRIX_AND_VECTORS = [[2, 3], [2], [3]] [[3], [2], [3]];
    THREE = [[2, 3], [2, 3], [2, 3]] [[3], [2, 1], []];
    INNER = [[3], [3]] [[2, 3], [3]] [[2, 3], [1, 3]] [[], [2, 3]];
    INNER_CUBES = [[2, 4, 3], [3, 2, 2]];
    SQUARES = [[2, 2]] [[2, 2, 2]];
    PAIRS_OF_LISTS = [[2, 3], [4, 3]] [[2, 2, 3], [1, 2, 3]];
    QUANTILES = [[2, 5], [2]];
    TWO_ROWS = [[2, 5]];
    SIGNALS_ALONE = [[2, 1, 5]] [[0, 2, 6]];
    IMAGES_ALONE = [[1, 2, 4, 3]] [[0, 2, 5, 4]];
    VOLUMES_ALONE = [[1, 1, 3, 2, 2]];
    IMAGES_AND_PLACES = [[1, 2, 3, 2], [1, 1, 2, 2]] [[0, 2, 3, 4], [0, 2, 3, 2]];
    VOLUMES_AND_PLACES = [[1, 1, 2, 3, 2], [1, 1, 1, 1, 3]];
    AFFINE_MAPS = [[2, 2, 3]];
    AFFINE_MAPS_3D = [[1, 3, 4]];
    ROWS_AND_WEIGHTS = [[4, 3], [4]];
    BLOCKS = [[2, 12, 4]] [[6, 4]];
    PIXELS = [[1, 4, 2, 2]] [[4, 2, 4]];
    ROWS_AND_PLACES = [[4, 3], [4]];
    BASE_AND_ROWS_2 = [[4, 3], [2, 3]];
    BASE_AND_DIAGONAL = [[3, 4], [3]];
    BASE_AND_COLUMN = [[3, 4], [3]];
    BILINEAR = [[2, 2, 3], [2, 2, 2], [2, 3, 2], [2]] [[3], [2], [1, 3, 2]] [[0, 3], [0, 2], [2, 3, 2], [2]];
    IMAGES = [[2, 2, 5, 4]] [[1, 5, 4]] [[0, 2, 5, 4]];
    NORMALIZED = [[2, 3, 2, 2], [3], [3]] [[4, 2], [2], [2]] [[2, 2, 3], [2], [2]];
    NORMALIZED_ROWS = [[2, 3, 4], [3, 4], [3, 4]];
    NORMALIZED_GROUPS = [[2, 4, 3], [4], [4]] [[2, 4, 2, 2], [4], [4]];
}

macro_rules! checks {
    ($($op:ident $shapes:ident $values:ident |$x:ident| $call:expr;)*) => {
        &[$(Check { op: stringify!($op), shapes: $shapes, values: $values, call: |$x| $call },)*]
    };
}

fn numbers(values: &[i64], shape: impl kiln_tensor::Extents) -> Tensor {
    Tensor::from_slice(values, shape, Device::Cpu).unwrap()
}

fn mask(flags: &[bool], shape: impl kiln_tensor::Extents) -> Tensor {
    Tensor::from_slice(flags, shape, Device::Cpu).unwrap()
}

/// Rows that are not equal.
fn apart(x: &Tensor) -> Result<Tensor> {
    x.add(&Tensor::arange(0, x.size(0)? as i64, x.detach().options())?.mul(3.0)?.unsqueeze(1)?)
}

/// Several results as one: part `i` is weighted by `i + 1`, so that mixing parts up shows.
fn joined(parts: Vec<Tensor>) -> Result<Tensor> {
    let flat = |(i, part): (usize, &Tensor)| part.flatten_all()?.mul(i as f64 + 1.0);
    Tensor::cat(&parts.iter().enumerate().map(flat).collect::<Result<Vec<_>>>()?, 0)
}

fn joined_pair((first, second): (Tensor, Tensor)) -> Result<Tensor> {
    joined(vec![first, second])
}

pub const VIEWS: &[Check] = checks! {
    transpose CUBE Any |x| x[0].transpose(0, -1);
    transpose ANY Any |x| x[0].transpose(0, 0);
    swapaxes CUBE Any |x| x[0].swapaxes(1, 2);
    mt CUBE Any |x| x[0].mt();
    t MATRIX Any |x| x[0].t();
    t VECTOR Any |x| x[0].t();
    permute CUBE Any |x| x[0].permute([2, 0, 1]);
    movedim CUBE Any |x| x[0].movedim(0, 2);
    movedim CUBE Any |x| x[0].movedim([2, 0], [0, 1]);
    narrow CUBE Any |x| x[0].narrow(2, 1, 2);
    slice CUBE Any |x| x[0].slice(-1, -3, 4, 2);
    slice CUBE Any |x| x[0].slice(0, 5, 9, 1);
    select CUBE Any |x| x[0].select(2, -2);
    squeeze ONES_INSIDE Any |x| x[0].squeeze(());
    squeeze ONES_INSIDE Any |x| x[0].squeeze([0, 1]);
    unsqueeze ANY Any |x| x[0].unsqueeze(-1);
    unsqueeze ANY Any |x| x[0].unsqueeze(0);
    expand COLUMN Any |x| x[0].expand([2, x[0].dims()[0] as i64, 4]);
    expand ANY Any |x| x[0].expand([&[2], x[0].dims()].concat());
    expand_as COLUMN Any |x| x[0].expand_as(&Tensor::zeros([3, x[0].dims()[0], 2], Device::Cpu)?);
    broadcast_to COLUMN Any |x| x[0].broadcast_to([2, x[0].dims()[0] as i64, 2]);
    reshape CUBE Any |x| x[0].reshape([x[0].dims()[1] * 2, 4]);
    reshape ANY Any |x| x[0].reshape([x[0].numel()]);
    view ANY Any |x| x[0].copy()?.view([1, x[0].numel()]);
    view_as ANY Any |x| x[0].copy()?.view_as(&Tensor::zeros([x[0].numel(), 1], Device::Cpu)?);
    unflatten CUBE Any |x| x[0].unflatten(2, [2, -1]);
    flatten CUBE Any |x| x[0].flatten(1, -1);
    flatten ANY Any |x| x[0].flatten(0, -1);
    flatten_all ANY Any |x| x[0].flatten_all();
    diagonal CUBE Any |x| x[0].diagonal(1, 0, 2);
    diagonal SQUARE Any |x| x[0].diagonal(-1, 0, 1);
    diag VECTOR_OR_MATRIX Any |x| x[0].diag(1);
    diag VECTOR_OR_MATRIX Any |x| x[0].diag(-1);
    split CUBE Any |x| joined(x[0].split(3, 2)?);
    split CUBE Any |x| joined(x[0].split([1, 0, 3], 2)?);
    chunk CUBE Any |x| joined(x[0].chunk(3, -1)?);
    unbind CUBE Any |x| joined(x[0].unbind(2)?);
    meshgrid UNEQUAL_VECTORS Any |x| joined(Tensor::meshgrid(x)?);
    meshgrid_xy UNEQUAL_VECTORS Any |x| joined(Tensor::meshgrid_xy(x)?);
    i CUBE Any |x| x[0].i((.., .., step(0..4, 2)));
    i CUBE Any |x| x[0].i((Ellipsis, -1, NewAxis));
    i ROWS Any |x| x[0].i(numbers(&[2, 0, 2], 3));
    i ROWS Any |x| x[0].i((.., numbers(&[2, 0, 2, -3], [2, 2])));
    i ROWS Any |x| x[0].i(mask(&[true, false, true, true], 4));
    cat TWO_MATRICES Any |x| Tensor::cat(x, 0);
    cat TWO_EQUAL Any |x| if x[0].rank() == 0 { Tensor::stack(x, 0) } else { Tensor::cat(x, -1) };
    stack TWO_EQUAL Any |x| Tensor::stack(x, -1);
    flip CUBE Any |x| x[0].flip([0, 2]);
    flip ANY Any |x| x[0].flip(());
    roll CUBE Any |x| x[0].roll([1, -3], [0, 2]);
    roll ANY Any |x| x[0].roll(2, ());
    repeat MATRIX Any |x| x[0].repeat([2, 1, 3]);
    repeat MATRIX Any |x| x[0].repeat([0, 2]);
    repeat_interleave MATRIX Any |x| x[0].repeat_interleave(2, 0);
    repeat_interleave MATRIX Any |x| x[0].repeat_interleave(3, ());
    repeat_interleave ROWS Any |x| x[0].repeat_interleave(&numbers(&[2, 0, 1, 3], 4), 0);
    tril CUBE Any |x| x[0].tril(1);
    triu MATRIX Any |x| x[0].triu(-1);
    t MATRIX Any |x| x[0].t()?.mul(&x[0].t()?);
};

pub const INDEXING: &[Check] = checks! {
    index_select ROWS Any |x| x[0].index_select(0, &numbers(&[3, 0, 0], 3));
    index_select CUBE Any |x| x[0].index_select(2, &numbers(&[1, 1], 2));
    index_select CUBE Any |x| x[0].index_select(2, &numbers(&[], 0));
    index_select SCALAR Any |x| x[0].index_select(0, &numbers(&[0], 1));
    take_along_dim ROWS Any |x| x[0].take_along_dim(&numbers(&[-1, 3, -4], [1, 3]), 0);
    take_along_dim ROWS Any |x| x[0].take_along_dim(&numbers(&[-1, 3, -4], [1, 3]), ());
    gather ROWS Any |x| x[0].gather(1, &numbers(&[0, 0, 2, 1], [2, 2]));
    gather ROWS Any |x| x[0].gather(0, &numbers(&[3, 3, 1], [1, 3]));
    take_along_dim ROWS Any |x| x[0].take_along_dim(&numbers(&[3, 3, 1], [1, 3]), 0);
    scatter BASE_AND_SOURCE Any |x| x[0].scatter(1, &numbers(&[0, 2, 3, 1], [2, 2]), &x[1]);
    scatter ROWS Any |x| x[0].scatter(0, &numbers(&[2, 0, 1], [1, 3]), 2.5);
    scatter_add BASE_AND_SOURCE Any |x| x[0].scatter_add(1, &numbers(&[0, 0, 3, 3], [2, 2]), &x[1]);
    index_add BASE_AND_ROWS Any |x| x[0].index_add(0, &numbers(&[0, 2, 2, 1], 4), &x[1]);
    index_add_alpha BASE_AND_ROWS Any |x| x[0].index_add_alpha(0, &numbers(&[0, 2, 2, 1], 4), &x[1], -1.5);
    index_put BASE_AND_ROWS Any |x| x[0].index_put((.., 0), &x[1].i((..3, 1))?, false);
    index_put BASE_AND_ROWS Any |x| x[0].index_put(numbers(&[2, 0, 2, 2], 4), &x[1], true);
    masked_select ROWS Any |x| x[0].masked_select(&mask(&[true, false, true], 3));
    sort ROWS Distinct |x| Ok(x[0].sort(0, false)?.0);
    sort ANY Distinct |x| Ok(x[0].sort(-1, true)?.0);
    topk ROWS Distinct |x| Ok(x[0].topk(2, 0, true)?.0);
    topk ROWS Distinct |x| Ok(x[0].topk(3, -1, false)?.0);
    kthvalue ROWS Distinct |x| Ok(x[0].kthvalue(2, 0)?.0);
    kthvalue_keepdim ROWS Distinct |x| Ok(x[0].kthvalue_keepdim(2, 0)?.0);
    median ROWS Distinct |x| Ok(x[0].median(1)?.0);
    median_keepdim ROWS Distinct |x| Ok(x[0].median_keepdim(1)?.0);
    median_all FULL Distinct |x| x[0].median_all();
    max_dim ROWS Distinct |x| Ok(x[0].max_dim(0)?.0);
    max_dim FULL Distinct |x| Ok(x[0].max_dim(-1)?.0);
    max_dim_keepdim ROWS Distinct |x| Ok(x[0].max_dim_keepdim(1)?.0);
    min_dim ROWS Distinct |x| Ok(x[0].min_dim(0)?.0);
    min_dim_keepdim ROWS Distinct |x| Ok(x[0].min_dim_keepdim(1)?.0);
};

macro_rules! reductions {
    ($($op:ident $shapes:ident $cubes:ident $values:ident ($($arg:expr),*);)*) => {
        &[$(
            Check { op: stringify!($op), shapes: $shapes, values: $values, call: |x| x[0].$op(() $(, $arg)*) },
            Check { op: stringify!($op), shapes: $cubes, values: $values, call: |x| x[0].$op(-1 $(, $arg)*) },
            Check { op: stringify!($op), shapes: $cubes, values: $values, call: |x| x[0].$op([0, 2] $(, $arg)*) },
        )*]
    };
}

pub const REDUCING: &[Check] = {
    // Two tables in one: the reductions by all, one and two dimensions, and what is like them.
    const BY_DIMS: &[Check] = reductions! {
        sum ANY CUBE Any ();
        sum_keepdim ANY CUBE Any ();
        mean FULL CUBE Any ();
        mean_keepdim FULL CUBE Any ();
        prod ANY CUBE Any ();
        prod_keepdim ANY CUBE Any ();
        amax FULL FULL_CUBE Distinct ();
        amax_keepdim FULL FULL_CUBE Distinct ();
        amin FULL FULL_CUBE Distinct ();
        amin_keepdim FULL FULL_CUBE Distinct ();
        max FULL FULL_CUBE Distinct ();
        max_keepdim FULL FULL_CUBE Distinct ();
        min FULL FULL_CUBE Distinct ();
        min_keepdim FULL FULL_CUBE Distinct ();
        var MATRIX_ONLY FULL_CUBE Any (1.0);
        var_keepdim MATRIX_ONLY FULL_CUBE Any (0.0);
        std MATRIX_ONLY FULL_CUBE Distinct (1.0);
        std_keepdim MATRIX_ONLY FULL_CUBE Distinct (0.0);
        logsumexp FULL FULL_CUBE Any ();
        logsumexp_keepdim FULL FULL_CUBE Any ();
    };
    BY_DIMS
};

shapes! {
    MATRIX_ONLY = [[2, 3]];
}

/// A convolution with stride, padding and dilation.
fn rule(groups: usize) -> Conv2d {
    Conv2d { stride: [2, 1], padding: [1, 2], dilation: [1, 2], groups }
}

fn windows() -> Pooling {
    Pooling::new([3, 2]).stride([2, 1]).padding([1, 1])
}

pub const IMAGE_OPS: &[Check] = checks! {
    conv2d CONVOLUTION Any |x| x[0].conv2d(&x[1], Some(&x[2]), &Conv2d { padding: [1, 1], ..Conv2d::default() });
    conv2d CONVOLUTION Any |x| x[0].conv2d(&x[1], Some(&x[2]), &rule(1));
    conv2d GROUPS Any |x| x[0].conv2d(&x[1], None, &rule(2));
    conv2d GROUPS Any |x| x[0].channels_last()?.conv2d(&x[1], None, &rule(2));
    conv2d_relu CONVOLUTION Any |x| x[0].conv2d_relu(&x[1], Some(&x[2]), &rule(1));
    conv2d_add_relu RESIDUAL Any |x| x[0].conv2d_add_relu(&x[1], Some(&x[2]), &x[3], &rule(1));
    conv2d_add_relu RESIDUAL Any
        |x| x[0].conv2d_add_relu(&x[1], None, &x[3], &rule(1))?.conv2d(&x[1].transpose(0, 1)?, None, &rule(1));
    conv2d_relu STACKED Any |x| x[0].conv2d_relu(&x[1], Some(&x[2]), &rule(1))?.conv2d(&x[3], None, &rule(2));
    conv2d_relu STACKED Any
        |x| x[0].channels_last()?.conv2d_relu(&x[1], None, &rule(1))?.conv2d_relu(&x[3], Some(&x[2].narrow(0, 0, 2)?), &rule(2));
    conv_transpose2d TRANSPOSED Any |x| x[0].conv_transpose2d(&x[1], Some(&x[2]), &rule(1), [1, 0]);
    conv_transpose2d TRANSPOSED_GROUPS Any |x| x[0].conv_transpose2d(&x[1], None, &rule(2), [1, 0]);
    channels_last GROUPS Any |x| x[0].channels_last();
    max_pool2d IMAGES Distinct |x| x[0].max_pool2d(&windows());
    max_pool2d IMAGES Distinct |x| x[0].max_pool2d(&windows().dilation([1, 2]).ceil_mode(true));
    max_pool2d_with_indices IMAGES Distinct |x| Ok(x[0].max_pool2d_with_indices(&windows())?.0);
    avg_pool2d IMAGES Any |x| x[0].avg_pool2d(&windows(), PoolDivisor::WithPadding);
    avg_pool2d IMAGES Any |x| x[0].avg_pool2d(&windows().ceil_mode(true), PoolDivisor::Inside);
    avg_pool2d IMAGES Any |x| x[0].avg_pool2d(&windows(), PoolDivisor::Fixed(5));
    adaptive_avg_pool2d IMAGES Any |x| x[0].adaptive_avg_pool2d([3, 2]);
    adaptive_avg_pool2d IMAGES Any |x| x[0].adaptive_avg_pool2d([7, 7]);
    adaptive_avg_pool2d IMAGES Any |x| x[0].adaptive_avg_pool2d([None, Some(2)]);
    adaptive_max_pool2d IMAGES Distinct |x| x[0].adaptive_max_pool2d([3, 3]);
    adaptive_max_pool2d_with_indices IMAGES Distinct |x| Ok(x[0].adaptive_max_pool2d_with_indices([2, 3])?.0);
    batch_norm NORMALIZED Any |x| x[0].batch_norm(Some(&x[1]), Some(&x[2]), None, true, 0.1, 0.5);
    batch_norm NORMALIZED Any |x| {
        let c = x[1].numel();
        let mean = Tensor::full([c], 0.3, DType::F64)?;
        let running = Running { mean: &mean, var: &mean };
        x[0].batch_norm(Some(&x[1]), Some(&x[2]), Some(running), false, 0.1, 0.5)
    };
    batch_norm_with NORMALIZED Any |x| {
        let norm = BatchNorm { weight: Some(&x[1]), bias: Some(&x[2]), training: true, eps: 0.5, ..BatchNorm::default() };
        x[0].batch_norm_with(&BatchNorm { relu: true, ..norm })?.batch_norm_with(&BatchNorm { bias_before: Some(&x[2]), ..norm })
    };
    batch_norm_with NORMALIZED Any |x| {
        let norm = BatchNorm { weight: Some(&x[1]), bias: Some(&x[2]), training: true, eps: 0.5, ..BatchNorm::default() };
        let residual = x[0].square()?;
        let images = if x[0].rank() == 4 { x[0].channels_last()? } else { x[0].clone() };
        images.batch_norm_with(&BatchNorm { residual: Some(&residual), relu: true, ..norm })
    };
    batch_norm_with NORMALIZED Any |x| {
        let mean = Tensor::full([x[1].numel()], 0.3, DType::F64)?;
        let (running, residual) = (Some(Running { mean: &mean, var: &mean }), x[0].square()?);
        let norm = BatchNorm { weight: Some(&x[1]), bias_before: Some(&x[2]), running, eps: 0.5, ..BatchNorm::default() };
        let out = x[0].batch_norm_with(&BatchNorm { residual: Some(&residual), ..norm })?;
        out.batch_norm_with(&BatchNorm { residual: Some(&residual), relu: true, ..norm })
    };
    layer_norm NORMALIZED_ROWS Any |x| x[0].layer_norm(&[3, 4], Some(&x[1]), Some(&x[2]), 0.5);
    group_norm NORMALIZED_GROUPS Any |x| x[0].group_norm(2, Some(&x[1]), Some(&x[2]), 0.5);
    pad IMAGES Any |x| x[0].pad(&[1, 2, -1, 0], PadMode::Constant(2.0));
    pad IMAGES Any |x| x[0].pad(&[1, 2, 3, -1], PadMode::Reflect);
    pad IMAGES Any |x| x[0].pad(&[1, 2], PadMode::Replicate);
    pad IMAGES Any |x| x[0].pad(&[4, 0, 1, 1], PadMode::Circular);
    pad IMAGES Any |x| x[0].pad(&[-1, 2, 1, -2], PadMode::Circular);
    embedding ROWS Any |x| x[0].embedding(&numbers(&[2, 0, 2, 3], [2, 2]), None, false);
};

macro_rules! gradient_rows {
    ($($op:ident {
        $(golden |$x:ident, $a:ident| $golden:expr;)?
        $(gradient $shapes:ident $values:ident |$gx:ident| $call:expr;)*
        random |$rx:ident, $ry:ident, $rr:ident| $random:expr;
    })*) => {
        &[$($(Check { op: stringify!($op), shapes: $shapes, values: $values, call: |$gx| $call },)*)*]
    };
}
pub const SCANS: &[Check] = op_rows!(gradient_rows);
pub const SPATIAL: &[Check] = spatial_rows!(gradient_rows);
pub const COMPOSED: &[Check] = composed_rows!(gradient_rows);
pub const STATISTICS: &[Check] = composed_statistics_rows!(gradient_rows);
pub const COMPOSED_ELEMENTWISE: &[Check] = composed_elementwise_rows!(gradient_rows);

pub const PRODUCTS: &[Check] = checks! {
    trace SQUARE Any |x| x[0].trace();
    norm FULL Any |x| x[0].norm(2, ());
    norm CUBE Any |x| x[0].norm(1, [0, 2]);
    norm FULL_CUBE Distinct |x| x[0].norm(f64::INFINITY, 1);
    norm FULL_CUBE Positive |x| x[0].norm(3, 1);
    norm FULL_CUBE Positive |x| x[0].norm(0.5, ());
    norm_keepdim CUBE Any |x| x[0].norm_keepdim(2, 2);
    scaled_dot_product_attention CUBE Any |x| {
        let (q, k) = (x[0].sin()?, x[0].mul(0.5)?);
        q.scaled_dot_product_attention(&k, &x[0], AttentionOptions::default())
    };
    softmax CUBE Any |x| x[0].softmax(1);
    log_softmax CUBE Any |x| x[0].log_softmax(1);
    matmul PRODUCTS_2D Any |x| x[0].matmul(&x[1]);
    matmul PRODUCTS_ND Any |x| x[0].matmul(&x[1]);
    matmul MATRIX Any |x| x[0].matmul(&x[0].t()?);
    mm PRODUCTS_2D Any |x| x[0].mm(&x[1]);
    bmm PRODUCTS_3D Any |x| x[0].bmm(&x[1]);
    mv MATRIX_VECTOR Any |x| x[0].mv(&x[1]);
    dot TWO_VECTORS Any |x| x[0].dot(&x[1]);
    outer UNEQUAL_VECTORS Any |x| x[0].outer(&x[1]);
    einsum PRODUCTS_2D Any |x| Tensor::einsum("ij,jk->ki", x);
    einsum SQUARE Any |x| Tensor::einsum("ij->j", x);
    einsum TWO_EQUAL_MATRICES Any |x| Tensor::einsum("ij,ij->i", x);
    linear LINEAR Any |x| x[0].linear(&x[1], Some(&x[2]));
    linear LINEAR_NO_BIAS Any |x| x[0].linear(&x[1], None);
    linear LINEAR_BY_VECTOR Any |x| x[0].linear(&x[1], Some(&x[2]));
    lstm_cell LSTM Any |x| {
        let (h, c) = x[0].lstm_cell(&x[1], &x[2])?;
        h.mul(3)?.add(&c)
    };
    lstm_cell LSTM Any |x| Ok(x[0].lstm_cell(&x[1], &x[2])?.0);
    gru_cell GRU Any |x| x[0].gru_cell(&x[1], &x[2]);
    lstm_layer LSTM_LAYER Any |x| {
        let (y, h, c) = x[0].lstm_layer(&x[1], &x[2], &x[3], false)?;
        y.mul(3)?.add(&h)?.add(&c.mul(2)?)
    };
    lstm_layer LSTM_LAYER Any |x| Ok(x[0].lstm_layer(&x[1], &x[2], &x[3], true)?.0);
    lstm_layer LSTM_LAYER Any |x| Ok(x[0].lstm_layer(&x[1], &x[2], &x[3], false)?.2);
    gru_layer GRU_LAYER Any |x| {
        let (y, h) = x[0].gru_layer(&x[1], &x[2], Some(&x[3]), true)?;
        y.mul(3)?.add(&h)
    };
    gru_layer GRU_LAYER Any |x| Ok(x[0].gru_layer(&x[1], &x[2], Some(&x[3]), false)?.1);
    rnn_tanh_layer RNN_LAYER Any |x| {
        let (y, h) = x[0].rnn_tanh_layer(&x[1], &x[2], false)?;
        y.mul(3)?.add(&h)
    };
    rnn_tanh_layer RNN_LAYER Any |x| Ok(x[0].rnn_tanh_layer(&x[1], &x[2], true)?.1);
    rnn_relu_layer RNN_LAYER Any |x| Ok(x[0].rnn_relu_layer(&x[1], &x[2], false)?.0);
    rnn_relu_layer RNN_LAYER Positive |x| {
        let (y, h) = x[0].rnn_relu_layer(&x[1], &x[2], true)?;
        y.mul(3)?.add(&h)
    };
    linear_relu LINEAR Any |x| x[0].linear_relu(&x[1], Some(&x[2]));
    linear_relu LINEAR_NO_BIAS Any |x| x[0].linear_relu(&x[1], None);
    class_loss SCORES Any |x| class_loss(&x[0], &numbers(&[1, 3, 0], 3), ClassLossInput::Logits, Reduction::Mean, 0.1);
    class_loss SCORES Any |x| class_loss(&x[0], &numbers(&[1, -100, 0], 3), ClassLossInput::Logits, Reduction::None, 0.0);
    class_loss SCORES Any |x| class_loss(&x[0], &numbers(&[1, 3, 0], 3), ClassLossInput::LogProbs, Reduction::Sum, 0.0);
    class_loss SCORES_3D Any |x| class_loss(&x[0], &numbers(&[1, 3, 0, 2, 2, 1], [2, 3]), ClassLossInput::Logits, Reduction::Mean, 0.2);
    class_loss TWO_EQUAL_MATRICES Probability |x| class_loss(&x[0], &x[1], ClassLossInput::Logits, Reduction::Mean, 0.1);
    pointwise_loss TWO_EQUAL Any |x| pointwise_loss(x, PointwiseLossKind::Mse, Reduction::Sum);
    pointwise_loss TWO_EQUAL Any |x| pointwise_loss(x, PointwiseLossKind::Mse, Reduction::None);
    pointwise_loss TWO_EQUAL Distinct |x| pointwise_loss(x, PointwiseLossKind::L1, Reduction::Sum);
    pointwise_loss TWO_EQUAL_MATRICES Any |x| pointwise_loss(x, PointwiseLossKind::Mse, Reduction::Mean);
    pointwise_loss TWO_EQUAL_MATRICES Distinct |x| pointwise_loss(x, PointwiseLossKind::L1, Reduction::Mean);
    pointwise_loss TWO_EQUAL Probability |x| pointwise_loss(x, PointwiseLossKind::BceWithLogits, Reduction::Sum);
    pointwise_loss TWO_EQUAL_MATRICES Probability |x| {
        let (weight, positive) = (Positive.draw(5, &[2, 1]), Positive.draw(6, &[3]));
        let kind = PointwiseLossKind::BceWithLogits;
        x[0].pointwise_loss(kind, &x[1], Some(&weight), Some(&positive), Reduction::Mean)
    };
};

shapes! {
    TWO_EQUAL_MATRICES = [[2, 3], [2, 3]];
}

fn class_loss(x: &Tensor, target: &Tensor, input: ClassLossInput, reduction: Reduction, smooth: f64) -> Result<Tensor> {
    let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing: smooth };
    let weight = Positive.draw(5, &[x.dims()[1]]);
    x.class_loss(target, Some(&weight), &rule)
}

fn pointwise_loss(x: &[Tensor], kind: PointwiseLossKind, reduction: Reduction) -> Result<Tensor> {
    x[0].pointwise_loss(kind, &x[1], None, None, reduction)
}

/// A new tensor with `x`'s values and history, changed by `change`.
fn changed(x: &Tensor, change: impl FnOnce(&Tensor) -> Result<()>) -> Result<Tensor> {
    let y = x.mul(1.0)?;
    change(&y)?;
    y.add(x)
}

shapes! {
    SAME_OR_ROW = [[2, 3], [2, 3]] [[2, 3], [3]] [[2, 3], []] [[], []] [[0, 3], [3]];
}

pub const IN_PLACE: &[Check] = checks! {
    add_ SAME_OR_ROW Any |x| changed(&x[0], |y| y.add_(&x[1]));
    sub_ SAME_OR_ROW Any |x| changed(&x[0], |y| y.sub_(&x[1]));
    mul_ SAME_OR_ROW Any |x| changed(&x[0], |y| y.mul_(&x[1]));
    div_ SAME_OR_ROW Positive |x| changed(&x[0], |y| y.div_(&x[1]));
    mul_ ANY Any |x| changed(&x[0], |y| y.mul_(2.5));
    add_alpha_ SAME_OR_ROW Any |x| changed(&x[0], |y| y.add_alpha_(&x[1], 2.5));
    sub_alpha_ SAME_OR_ROW Any |x| changed(&x[0], |y| y.sub_alpha_(&x[1], 2.5));
    copy_ SAME_OR_ROW Any |x| changed(&x[0], |y| y.copy_(&x[1]));
    clamp_ ANY Any |x| changed(&x[0], |y| y.clamp_(-0.99, 0.99));
    fill_ ANY Any |x| changed(&x[0], |y| y.fill_(3));
    zero_ ANY Any |x| changed(&x[0], |y| y.zero_());
    uniform_ ANY Any |x| changed(&x[0], |y| y.uniform_(0.0, 1.0));
    normal_ ANY Any |x| changed(&x[0], |y| y.normal_(0.0, 1.0));
    bernoulli_ ANY Any |x| changed(&x[0], |y| y.bernoulli_(0.5));
    masked_fill_ ROWS Any |x| changed(&x[0], |y| y.masked_fill_(&mask(&[true, false, true], 3), 7));
    scatter_ BASE_AND_SOURCE Any |x| changed(&x[0], |y| y.scatter_(1, &numbers(&[0, 2, 3, 1], [2, 2]), &x[1]));
    scatter_add_ BASE_AND_SOURCE Any |x| changed(&x[0], |y| y.scatter_add_(1, &numbers(&[0, 0, 3, 3], [2, 2]), &x[1]));
    index_add_ BASE_AND_ROWS Any |x| changed(&x[0], |y| y.index_add_(0, &numbers(&[0, 2, 2, 1], 4), &x[1]));
    index_put_ BASE_AND_ROWS Any |x| changed(&x[0], |y| y.index_put_(numbers(&[2, 0, 2, 2], 4), &x[1], true));
    i_assign BASE_AND_ROWS Any |x| changed(&x[0], |y| y.i_assign((.., 0), &x[1].i((..3, 1))?));
    i_assign BASE_AND_ROWS Any |x| changed(&x[0], |y| y.i_assign(numbers(&[2, 0], 2), &x[1].i(..2)?));
    t_ MATRIX Any |x| {
        let mut y = x[0].mul(1.0)?;
        y.t_()?;
        y.mul(&y)
    };
    add_ PAIRS_OF_VIEWS Any |x| changed(&x[0], |y| y.t()?.narrow(0, 1, 2)?.add_(&x[1]));
};

shapes! {
    PAIRS_OF_VIEWS = [[2, 3], [2, 2]];
}
