//! The calls of each operation with random arguments.

use kiln_tensor::{AttentionOptions, DType, Device, PadMode, PoolDivisor, Result, RoundingMode, Running, Tensor};

use super::{
    choices::Choices,
    operands::{
        batch_norm, batch_norm_with, changed, class_loss, convolution, convolution_of, cube, each, embedding_bag,
        grid_sample, images, index, interpolate_mode, linear, one_of, operand, pair, pair_of, pointwise_loss, pooling,
        pooling_of, recurrent, rule, shape_of_few, sliding_window, small, spatial, weight,
    },
};

/// A call with operands that are of one dtype.
pub type Call = fn(&Tensor, &Tensor, &mut Choices) -> Result<Vec<Tensor>>;

macro_rules! calls {
    ($($op:ident |$x:pat_param, $y:pat_param, $r:ident| $call:expr;)*) => {
        &[$((stringify!($op), |$x, $y, $r| { let _ = &$r; Ok(vec![$call?]) }),)*]
    };
}

macro_rules! unary {
    ($($op:ident)*) => { &[$((stringify!($op), |x, _, _| Ok(vec![x.$op()?])),)*] };
}

macro_rules! binary {
    ($($op:ident)*) => { &[$((stringify!($op), |x, y, r| Ok(vec![x.$op(operand(y, r))?])),)*] };
}

macro_rules! reductions {
    ($($op:ident)*) => { &[$((stringify!($op), |x, _, r| Ok(vec![x.$op(&r.dims()[..])?])),)*] };
}

pub const CALLS: &[(&str, Call)] = &{
    const PARTS: [&[(&str, Call)]; 11] =
        [UNARY, BINARY, REDUCTIONS, SINGLE, SEVERAL, IN_PLACE, SCANS, SPATIAL, COMPOSED, STATISTICS, ELEMENTWISE];
    const COUNT: usize = {
        let (mut count, mut part) = (0, 0);
        while part < PARTS.len() {
            count += PARTS[part].len();
            part += 1;
        }
        count
    };
    let mut all: [(&str, Call); COUNT] = [PARTS[0][0]; COUNT];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut i = 0;
        while i < PARTS[part].len() {
            all[at] = PARTS[part][i];
            (at, i) = (at + 1, i + 1);
        }
        part += 1;
    }
    all
};

macro_rules! random_rows {
    ($($op:ident {
        $(golden |$x:ident, $a:ident| $golden:expr;)?
        $(gradient $shapes:ident $values:ident |$gx:ident| $gradient:expr;)*
        random |$rx:ident, $ry:ident, $rr:ident| $call:expr;
    })*) => {
        &[$((stringify!($op), |$rx, $ry, $rr| $call),)*]
    };
}
const SCANS: &[(&str, Call)] = op_rows!(random_rows);
const SPATIAL: &[(&str, Call)] = spatial_rows!(random_rows);
const COMPOSED: &[(&str, Call)] = composed_rows!(random_rows);
const STATISTICS: &[(&str, Call)] = composed_statistics_rows!(random_rows);
const ELEMENTWISE: &[(&str, Call)] = composed_elementwise_rows!(random_rows);

macro_rules! unary_rows {
    ($names:tt $(UNARY($variant:ident, $op:ident, $($row:tt)*))*) => {
        const UNARY: &[(&str, Call)] = unary! {
            $($op)*
            isnan isinf isfinite logical_not bitwise_not bernoulli nonzero copy contiguous mt t flatten_all trace
        };
    };
}
kiln_backend::unary_table!(unary_rows);

macro_rules! binary_rows {
    ($names:tt
     $(BINARY($variant:ident, $op:ident, $($row:tt)*))*
     $(COMPARISON($compared:ident, $compare:ident, $($compare_row:tt)*))*
     $(BITWISE($combined:ident, $combine:ident, $($combine_row:tt)*))*
    ) => {
        const BINARY: &[(&str, Call)] = binary! {
            $($op)* $($compare)* gt ge $($combine)*
            logical_and logical_or logical_xor rsub rpow clamp_min clamp_max
        };
    };
}
kiln_backend::binary_table!(binary_rows);

const REDUCTIONS: &[(&str, Call)] = reductions! {
    sum sum_keepdim mean mean_keepdim prod prod_keepdim amax amax_keepdim amin amin_keepdim max max_keepdim min
    min_keepdim any any_keepdim all all_keepdim logsumexp logsumexp_keepdim squeeze flip
};

const SINGLE: &[(&str, Call)] = calls! {
    var |x, _, r| x.var(&r.dims()[..], r.float());
    var_keepdim |x, _, r| x.var_keepdim(&r.dims()[..], r.float());
    std |x, _, r| x.std(&r.dims()[..], r.float());
    std_keepdim |x, _, r| x.std_keepdim(&r.dims()[..], r.float());
    norm |x, _, r| x.norm(r.float(), &r.dims()[..]);
    norm_keepdim |x, _, r| x.norm_keepdim(r.float(), &r.dims()[..]);
    to_dtype |x, _, r| x.to_dtype(r.dtype());
    to_device |x, _, r| x.to_device(if r.flag() { Device::Cpu } else { Device::Cuda(0) });
    leaky_relu |x, _, r| x.leaky_relu(r.float());
    elu |x, _, r| x.elu(r.float());
    celu |x, _, r| x.celu(r.float());
    hardtanh |x, _, r| x.hardtanh(r.float(), r.float());
    hardshrink |x, _, r| x.hardshrink(r.float());
    softshrink |x, _, r| x.softshrink(r.float());
    threshold |x, _, r| x.threshold(r.float(), r.float());
    prelu |x, y, _r| x.prelu(y);
    rrelu |x, _, r| x.rrelu(r.float(), r.float(), r.flag());
    glu |x, _, r| x.glu(r.dim());
    softmin |x, _, r| x.softmin(r.dim());
    lerp |x, y, r| x.lerp(y, operand(x, r));
    add_alpha |x, y, r| x.add_alpha(operand(y, r), r.scalar());
    sub_alpha |x, y, r| x.sub_alpha(operand(y, r), r.scalar());
    rsub_alpha |x, y, r| x.rsub_alpha(operand(y, r), r.scalar());
    div_rounding |x, y, r| x.div_rounding(operand(y, r), r.pick(&[None, Some(RoundingMode::Trunc), Some(RoundingMode::Floor)]));
    softplus_beta |x, _, r| x.softplus_beta(r.float(), r.float());
    round_decimals |x, _, r| x.round_decimals(r.int() as i32);
    clamp |x, y, r| x.clamp(operand(y, r), operand(x, r));
    dropout |x, _, r| x.dropout(r.float(), r.flag());
    transpose |x, _, r| x.transpose(r.dim(), r.dim());
    swapaxes |x, _, r| x.swapaxes(r.dim(), r.dim());
    permute |x, _, r| x.permute(r.dims());
    movedim |x, _, r| if r.flag() { x.movedim(r.dim(), r.dim()) } else { x.movedim(r.dims(), r.dims()) };
    narrow |x, _, r| x.narrow(r.dim(), r.size(), r.size());
    slice |x, _, r| x.slice(r.dim(), r.int(), r.int(), r.size());
    select |x, _, r| x.select(r.dim(), r.int());
    unsqueeze |x, _, r| x.unsqueeze(r.dim());
    expand |x, _, r| if r.flag() { x.expand([&[2], x.dims()].concat()) } else { x.expand(small(r)) };
    expand_as |x, y, _r| x.expand_as(y);
    broadcast_to |x, _, r| x.broadcast_to(small(r));
    reshape |x, _, r| if r.flag() { x.reshape([x.numel(), 1]) } else { x.reshape(r.extents()) };
    view |x, _, r| if r.flag() { x.view([1, x.numel()]) } else { x.view(r.extents()) };
    view_as |x, y, _r| x.view_as(y);
    unflatten |x, _, r| x.unflatten(r.dim(), r.extents());
    flatten |x, _, r| x.flatten(r.dim(), r.dim());
    diagonal |x, _, r| x.diagonal(r.int(), r.dim(), r.dim());
    diag |x, _, r| x.diag(r.below(5) as i64 - 2);
    tril |x, _, r| x.tril(r.int());
    triu |x, _, r| x.triu(r.int());
    i |x, _, r| x.i(&index(r)[..]);
    cat |x, y, r| Tensor::cat(&[x, y, x], r.dim());
    stack |x, y, r| if r.flag() { Tensor::stack(&[x, x], r.dim()) } else { Tensor::stack(&[x, y], r.dim()) };
    roll |x, _, r| if r.flag() { x.roll(r.int(), ()) } else { x.roll(r.extents(), r.dims()) };
    repeat |x, _, r| x.repeat(r.extents());
    repeat_interleave |x, _, r| match r.below(4) {
        0 => x.repeat_interleave(r.size(), ()),
        1 => x.repeat_interleave(&r.index(), r.dim()),
        2 => x.repeat_interleave(r.int(), r.dim()),
        _ => x.repeat_interleave(&r.index().flatten_all()?, ()),
    };
    index_select |x, _, r| x.index_select(r.dim(), &r.index());
    gather |x, _, r| x.gather(r.dim(), &r.index());
    take_along_dim |x, _, r| if r.flag() { x.take_along_dim(&r.index(), r.dim()) } else { x.take_along_dim(&r.index(), ()) };
    scatter |x, y, r| x.scatter(r.dim(), &r.index(), operand(y, r));
    scatter_add |x, y, r| x.scatter_add(r.dim(), &r.index(), y);
    index_add |x, y, r| x.index_add(r.dim(), &r.index(), y);
    index_add_alpha |x, y, r| x.index_add_alpha(r.dim(), &r.index(), y, r.scalar());
    index_put |x, y, r| x.index_put(&index(r)[..], operand(y, r), r.flag());
    median_all |x, _, _r| x.median_all();
    masked_fill |x, y, r| x.masked_fill(&r.mask(), operand(y, r));
    masked_select |x, _, r| x.masked_select(&r.mask());
    where_cond |x, y, r| r.mask().where_cond(operand(x, r), operand(y, r));
    argsort |x, _, r| x.argsort(r.dim(), r.flag());
    argmax |x, _, r| if r.flag() { x.argmax(()) } else { x.argmax(r.dim()) };
    argmax_keepdim |x, _, r| if r.flag() { x.argmax_keepdim(()) } else { x.argmax_keepdim(r.dim()) };
    argmin |x, _, r| if r.flag() { x.argmin(()) } else { x.argmin(r.dim()) };
    argmin_keepdim |x, _, r| if r.flag() { x.argmin_keepdim(()) } else { x.argmin_keepdim(r.dim()) };
    searchsorted_with |x, y, r| {
        let sorter = if r.flag() { x.argsort(-1, false)? } else { r.index() };
        x.searchsorted_with(&sorter, operand(y, r), r.flag())
    };
    searchsorted |x, y, r| x.searchsorted(operand(y, r), r.flag());
    scaled_dot_product_attention |x, y, r| {
        let options = AttentionOptions::default().is_causal(r.flag()).dropout(r.float()).enable_gqa(r.flag());
        x.scaled_dot_product_attention(y, x, if r.flag() { options.mask(y) } else { options })
    };
    softmax |x, _, r| x.softmax(r.dim());
    log_softmax |x, _, r| x.log_softmax(r.dim());
    isclose |x, y, r| x.isclose(y, r.float(), r.float());
    isclose_equal_nan |x, y, r| x.isclose_equal_nan(y, r.float(), r.float());
    multinomial |x, _, r| x.multinomial(r.below(4), r.flag());
    one_hot |x, _, r| x.one_hot(if r.flag() { -1 } else { r.below(6) as i64 - 2 });
    matmul |x, y, r| if r.flag() && x.rank() > 1 { x.matmul(&x.transpose(-1, -2)?) } else { x.matmul(y) };
    mm |x, y, r| if r.flag() { x.mm(&x.t()?) } else { x.mm(y) };
    bmm |x, y, r| if r.flag() { x.bmm(&x.transpose(1, 2)?) } else { x.bmm(y) };
    mv |x, y, r| if r.flag() { x.mv(&x.select(0, 0)?) } else { x.mv(y) };
    dot |x, y, r| if r.flag() { x.dot(x) } else { x.dot(y) };
    outer |x, y, _r| x.outer(y);
    einsum |x, y, r| Tensor::einsum(r.pick(&["ij,jk", "i,i->", "ij->ji", "ii", "...i,i->...", "i,j->ij", "", "->", "ij,,", "i->z", "é"]), &[x, y][..r.pick(&[1, 2])]);
    linear |x, y, r| linear(x, y, r, false);
    linear_relu |x, y, r| linear(x, y, r, true);
    class_loss |x, y, r| class_loss(x, y, r);
    pointwise_loss |x, y, r| pointwise_loss(x, y, r);
    pin_memory |x, _, _r| x.pin_memory();
    channels_last |x, _, r| images(x, r).channels_last();
    pad |x, _, r| x.pad(&r.extents(), r.pick(&[PadMode::Constant(2.0), PadMode::Reflect, PadMode::Replicate, PadMode::Circular]));
    embedding |x, _, r| x.embedding(&r.index(), r.flag().then(|| r.size()), r.flag());
    conv2d |x, y, r| convolution(x, y, r, false, Tensor::conv2d);
    conv2d_add_relu |x, y, r| convolution(x, y, r, false, |x, w, b, rule| {
        // The result has an extent of the residual's shape, often.
        let plain = x.conv2d(w, b, rule)?;
        let residual = if x.rank() % 2 == 0 { plain } else { w.clone() };
        x.conv2d_add_relu(w, b, &residual, rule)
    });
    conv2d_relu |x, y, r| convolution(x, y, r, false, Tensor::conv2d_relu);
    conv_transpose2d |x, y, r| {
        let extra = if r.below(4) == 0 { [r.below(3), r.size()] } else { [0; 2] };
        convolution(x, y, r, true, |x, weight, bias, rule| x.conv_transpose2d(weight, bias, rule, extra))
    };
    max_pool2d |x, _, r| images(x, r).max_pool2d(&pooling(r));
    avg_pool2d |x, _, r| {
        let divisor = r.pick(&[PoolDivisor::WithPadding, PoolDivisor::Inside, PoolDivisor::Fixed(3), PoolDivisor::Fixed(0)]);
        images(x, r).avg_pool2d(&pooling(r), divisor)
    };
    adaptive_avg_pool2d |x, _, r| images(x, r).adaptive_avg_pool2d([r.size(), r.size()]);
    adaptive_max_pool2d |x, _, r| images(x, r).adaptive_max_pool2d([r.size(), r.size()]);
    batch_norm |x, _, r| batch_norm(x, r);
    batch_norm_with |x, y, r| batch_norm_with(x, y, r);
    layer_norm |x, _, r| {
        let shape = if r.flag() { x.dims()[x.rank().min(1)..].to_vec() } else { vec![r.size()] };
        let (weight, bias) = (weight(r, x, &shape_of_few(&shape)), weight(r, x, &shape_of_few(&shape)));
        x.layer_norm(&shape, weight.as_ref(), bias.as_ref(), r.float())
    };
    group_norm |x, _, r| {
        let channels = x.dims().get(1).copied().unwrap_or(1);
        let (weight, bias) = (weight(r, x, &[channels]), weight(r, x, &[channels]));
        x.group_norm(r.size(), weight.as_ref(), bias.as_ref(), r.float())
    };
};

const SEVERAL: &[(&str, Call)] = &[
    ("split", |x, _, r| if r.flag() { x.split(r.size(), r.dim()) } else { x.split(vec![r.size(), r.size()], r.dim()) }),
    ("chunk", |x, _, r| x.chunk(r.below(5), r.dim())),
    ("unbind", |x, _, r| x.unbind(r.dim())),
    ("meshgrid", |x, y, _| Tensor::meshgrid(&[x, y])),
    ("meshgrid_xy", |x, y, _| Tensor::meshgrid_xy(&[x, y])),
    ("sort", |x, _, r| Ok(pair(x.sort(r.dim(), r.flag())?))),
    ("topk", |x, _, r| Ok(pair(x.topk(r.size(), r.dim(), r.flag())?))),
    ("kthvalue", |x, _, r| Ok(pair(x.kthvalue(r.size(), r.dim())?))),
    ("kthvalue_keepdim", |x, _, r| Ok(pair(x.kthvalue_keepdim(r.size(), r.dim())?))),
    ("median", |x, _, r| Ok(pair(x.median(r.dim())?))),
    ("median_keepdim", |x, _, r| Ok(pair(x.median_keepdim(r.dim())?))),
    ("lstm_cell", |x, y, r| {
        let [x, hidden, c, ..] = recurrent(x, y, 4, false, r);
        Ok(pair(x.lstm_cell(&hidden, &c)?))
    }),
    ("gru_cell", |x, y, r| {
        let [x, hidden, h, ..] = recurrent(x, y, 3, false, r);
        one_of(x.gru_cell(&hidden, &h))
    }),
    ("lstm_layer", |x, y, r| {
        let [x, _, h, c, weight, _] = recurrent(x, y, 4, true, r);
        let (output, h, c) = x.lstm_layer(&h, &c, &weight, r.flag())?;
        Ok(vec![output, h, c])
    }),
    ("gru_layer", |x, y, r| {
        let [x, _, h, _, weight, bias] = recurrent(x, y, 3, true, r);
        Ok(pair(x.gru_layer(&h, &weight, r.flag().then_some(&bias), r.flag())?))
    }),
    ("rnn_tanh_layer", |x, y, r| {
        let [x, _, h, _, weight, _] = recurrent(x, y, 1, true, r);
        Ok(pair(x.rnn_tanh_layer(&h, &weight, r.flag())?))
    }),
    ("rnn_relu_layer", |x, y, r| {
        let [x, _, h, _, weight, _] = recurrent(x, y, 1, true, r);
        Ok(pair(x.rnn_relu_layer(&h, &weight, r.flag())?))
    }),
    ("max_dim", |x, _, r| Ok(pair(x.max_dim(r.dim())?))),
    ("max_dim_keepdim", |x, _, r| Ok(pair(x.max_dim_keepdim(r.dim())?))),
    ("min_dim", |x, _, r| Ok(pair(x.min_dim(r.dim())?))),
    ("min_dim_keepdim", |x, _, r| Ok(pair(x.min_dim_keepdim(r.dim())?))),
    ("allclose", |x, y, r| x.allclose(y, r.float(), r.float()).map(|_| vec![])),
    ("allclose_equal_nan", |x, y, r| x.allclose_equal_nan(y, r.float(), r.float()).map(|_| vec![])),
    ("equal", |x, y, _| x.equal(y).map(|_| vec![])),
    ("is_pinned", |x, _, _| {
        let _ = x.is_pinned();
        Ok(vec![])
    }),
    ("is_channels_last", |x, _, r| {
        let _ = images(x, r).is_channels_last();
        Ok(vec![])
    }),
    ("max_pool2d_with_indices", |x, _, r| Ok(pair(images(x, r).max_pool2d_with_indices(&pooling(r))?))),
    ("adaptive_max_pool2d_with_indices", |x, _, r| {
        Ok(pair(images(x, r).adaptive_max_pool2d_with_indices([r.size(), r.size()])?))
    }),
];

const IN_PLACE: &[(&str, Call)] = &[
    ("add_", |x, y, r| changed(x, r, |x, r| x.add_(operand(y, r)))),
    ("sub_", |x, y, r| changed(x, r, |x, r| x.sub_(operand(y, r)))),
    ("mul_", |x, y, r| changed(x, r, |x, r| x.mul_(operand(y, r)))),
    ("div_", |x, y, r| changed(x, r, |x, r| x.div_(operand(y, r)))),
    ("add_alpha_", |x, y, r| changed(x, r, |x, r| x.add_alpha_(operand(y, r), r.scalar()))),
    ("sub_alpha_", |x, y, r| changed(x, r, |x, r| x.sub_alpha_(operand(y, r), r.scalar()))),
    ("copy_", |x, y, r| changed(x, r, |x, _| x.copy_(y))),
    ("clamp_", |x, y, r| changed(x, r, |x, r| x.clamp_(operand(y, r), operand(y, r)))),
    ("fill_", |x, _, r| changed(x, r, |x, r| x.fill_(r.scalar()))),
    ("zero_", |x, _, r| changed(x, r, |x, _| x.zero_())),
    ("uniform_", |x, _, r| changed(x, r, |x, r| x.uniform_(r.float(), r.float()))),
    ("normal_", |x, _, r| changed(x, r, |x, r| x.normal_(r.float(), r.float()))),
    ("embedding_renorm_", |x, _, r| changed(x, r, |x, r| x.embedding_renorm_(&r.index(), r.float(), r.float()))),
    ("bernoulli_", |x, _, r| changed(x, r, |x, r| x.bernoulli_(r.float()))),
    ("masked_fill_", |x, y, r| changed(x, r, |x, r| x.masked_fill_(&r.mask(), operand(y, r)))),
    ("scatter_", |x, y, r| changed(x, r, |x, r| x.scatter_(r.dim(), &r.index(), operand(y, r)))),
    ("scatter_add_", |x, y, r| changed(x, r, |x, r| x.scatter_add_(r.dim(), &r.index(), y))),
    ("index_add_", |x, y, r| changed(x, r, |x, r| x.index_add_(r.dim(), &r.index(), y))),
    ("index_put_", |x, y, r| changed(x, r, |x, r| x.index_put_(&index(r)[..], operand(y, r), r.flag()))),
    ("i_assign", |x, y, r| changed(x, r, |x, r| x.i_assign(&index(r)[..], operand(y, r)))),
    ("t_", |x, _, _| {
        let mut x = x.copy()?;
        x.t_()?;
        Ok(vec![x])
    }),
];
