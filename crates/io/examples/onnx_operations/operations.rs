//! The exported networks: one function for each operation.

use kiln_tensor::{
    ClassLoss, ClassLossInput, Conv1d, Conv3d, DType, Device, GridMode, GridPadding, GridSample, InterpolateMode,
    PadMode, PointwiseLossKind, PoolDivisor, Pooling, Reduction, Result, ScatterReduction, SlidingWindow, Tensor,
};

pub type Entry = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>);

macro_rules! entries {
    ($($name:ident |$x:ident, $w:ident| $body:expr;)*) => {
        [$((stringify!($name), (|$x: &Tensor, $w: &Tensor| $body) as fn(&Tensor, &Tensor) -> Result<Tensor>)),*]
    };
}

/// On an input `[N, 3, 4]` with a weight `[3, 4]`.
pub fn operations() -> Vec<Entry> {
    let unary = entries! {
        neg |x, _w| x.neg(); abs |x, _w| x.sub(0.5)?.abs(); sign |x, _w| x.sub(0.5)?.sign(); square |x, _w| x.square();
        reciprocal |x, _w| x.reciprocal(); sqrt |x, _w| x.sqrt(); rsqrt |x, _w| x.rsqrt(); exp |x, _w| x.exp();
        log |x, _w| x.log(); sin |x, _w| x.sin(); cos |x, _w| x.cos(); tan |x, _w| x.tan();
        asin |x, _w| x.mul(0.5)?.asin(); acos |x, _w| x.mul(0.5)?.acos(); atan |x, _w| x.atan(); sinh |x, _w| x.sinh();
        cosh |x, _w| x.cosh(); tanh |x, _w| x.tanh(); sigmoid |x, _w| x.sigmoid(); relu |x, _w| x.sub(0.5)?.relu();
        gelu |x, _w| x.sub(0.5)?.gelu(); gelu_tanh |x, _w| x.sub(0.5)?.gelu_tanh(); silu |x, _w| x.silu();
        softplus |x, _w| x.softplus(); erf |x, _w| x.erf(); floor |x, _w| x.mul(3)?.floor();
        ceil |x, _w| x.mul(3)?.ceil(); round |x, _w| x.mul(3)?.round();
        leaky_relu |x, _w| x.sub(0.5)?.leaky_relu(0.2); elu |x, _w| x.sub(0.5)?.elu(1.5);
        celu |x, _w| x.sub(0.5)?.celu(1.5); selu |x, _w| x.sub(0.5)?.selu(); relu6 |x, _w| x.sub(0.3)?.mul(12)?.relu6();
        hardsigmoid |x, _w| x.sub(0.5)?.mul(9)?.hardsigmoid(); hardswish |x, _w| x.sub(0.5)?.mul(9)?.hardswish();
        hardtanh |x, _w| x.sub(0.5)?.hardtanh(-0.2, 0.3); hardshrink |x, _w| x.sub(0.5)?.hardshrink(0.2);
        softshrink |x, _w| x.sub(0.5)?.softshrink(0.2); threshold |x, _w| x.threshold(0.4, 2.0); glu |x, _w| x.glu(-1);
        softsign |x, _w| x.sub(0.5)?.softsign(); tanhshrink |x, _w| x.sub(0.5)?.mul(3)?.tanhshrink();
        asinh |x, _w| x.sub(0.5)?.asinh(); acosh |x, _w| x.add(1)?.acosh(); atanh |x, _w| x.mul(0.8)?.atanh();
        erfc |x, _w| x.sub(0.5)?.mul(3)?.erfc(); ndtr |x, _w| x.sub(0.5)?.ndtr(); entr |x, _w| x.entr();
        sinc |x, _w| x.sub(0.5)?.sinc(); logit |x, _w| x.logit(Some(0.2)); frac |x, _w| x.mul(-3)?.frac();
        prelu |x, w| x.sub(0.5)?.prelu(&w.select(1, 0)?); softmin |x, _w| x.softmin(-1);
    };
    let others = entries! {
        add |x, w| x.add(w); rsub |x, _w| 1.5 - x; mul |x, w| x.mul(w); div |x, w| x.div(w);
        pow |x, w| x.pow(w); pow_number |x, _w| x.pow(3); maximum |x, w| x.maximum(w); minimum |x, _w| x.minimum(0.5);
        clamp |x, _w| x.clamp(0.3, 0.7); lerp |x, w| x.lerp(w, 0.25);
        add_alpha |x, w| x.add_alpha(w, 0.5)?.sub_alpha(w, 3); rsub_alpha |x, w| x.rsub_alpha(w, 2.5);
        lerp_by_tensor |x, w| x.lerp(w, w); softplus_beta |x, _w| x.softplus_beta(2.5, 1.5);
        round_decimals |x, _w| x.mul(100)?.round_decimals(1)?.add(&x.mul(1000)?.round_decimals(-1)?);
        softmax |x, _w| x.softmax(1); log_softmax |x, _w| x.log_softmax(-1);
        matmul |x, w| x.matmul(&w.t()?); matmul_vector |x, w| x.matmul(&w.select(0, 1)?);
        linear |x, w| x.linear(w, None); linear_relu |x, w| x.linear_relu(w, None);
        permute |x, _w| x.permute([0, 2, 1]); transpose |x, _w| x.transpose(0, 2); movedim |x, _w| x.movedim(0, 1);
        flatten |x, _w| x.flatten(1, -1); flatten_batch |x, _w| x.flatten(0, 1); unsqueeze |x, _w| x.unsqueeze(1);
        squeeze |x, _w| x.unsqueeze(1)?.squeeze(1); expand |x, _w| x.unsqueeze(1)?.expand([-1, 2, -1, -1]);
        narrow |x, _w| x.narrow(2, 1, 2); slice |x, _w| x.slice(2, 0, 4, 2); select |x, _w| x.select(1, -1);
        first |x, _w| x.slice(0, 1, i64::MAX, 1); cat |x, w| Tensor::cat(&[x, &x.mul(w)?], 1);
        chunk |x, _w| x.chunk(2, 2)?[0].mul(&x.chunk(2, 2)?[1]);
        sum |x, _w| x.sum(1); sum_all |x, _w| x.sum(()); sum_keepdim |x, _w| x.sum_keepdim([1, 2]);
        mean |x, _w| x.mean([0, 2]); mean_keepdim |x, _w| x.mean_keepdim(-1);
        standardized |x, _w| { let c = x.sub(&x.mean_keepdim(-1)?)?; c.div(&c.square()?.mean_keepdim(-1)?.add(1e-5)?.sqrt()?) };
        attention |x, w| {
            let q = x.matmul(&w.t()?)?;
            q.matmul(&q.transpose(1, 2)?)?.div(2.0)?.softmax(-1)?.matmul(x)
        };
        twice |x, _w| x.add(x);
        weight_alone |x, w| x.mul(0)?.add(&w.exp()?);
        doubles |x, _w| x.to_dtype(DType::F64)?.mul(0.1);
    };
    let more = entries! {
        exp2 |x, _w| x.exp2(); expm1 |x, _w| x.expm1(); log2 |x, _w| x.log2(); log10 |x, _w| x.log10();
        log1p |x, _w| x.log1p(); trunc |x, _w| x.sub(0.5)?.mul(5)?.trunc(); mish |x, _w| x.sub(0.5)?.mish();
        log_sigmoid |x, _w| x.sub(0.5)?.log_sigmoid(); atan2 |x, w| x.sub(0.6)?.atan2(&w.sub(1.0)?);
        logaddexp |x, w| x.logaddexp(w); hypot |x, w| x.hypot(w); xlogy |x, w| x.sub(0.5)?.xlogy(w);
        fmax |x, w| x.fmax(&w.log()?.sqrt()?); copysign |x, w| x.copysign(&w.sub(1.0)?);
        atan2_axes |x, _w| x.sub(0.6)?.sign()?.atan2(&x.mul(0)?);
        remainder |x, w| x.sub(0.5)?.remainder(&w.sub(2.0)?); remainder_number |x, _w| x.mul(-3)?.remainder(0.7);
        floor_divide |x, _w| x.mul(7)?.floor_divide(2); trunc_divide |x, _w| x.sub(0.5)?.mul(7)?.trunc_divide(2);
        fmod |x, w| x.sub(0.5)?.mul(9)?.fmod(&w.sub(2.0)?);
        quotients |x, _w| whole(x, 20)?.sub(7)?.trunc_divide(3)?.add(&whole(x, 20)?.sub(7)?.fmod(3)?);
        logical_numbers |x, _w| whole(x, 3)?.logical_and(1);
        integers |x, _w| whole(x, 20)?.sub(7)?.remainder(3)?.add(&whole(x, 9)?.floor_divide(4)?)?.abs()?.mul(-2);
        bytes |x, _w| whole(x, 9)?.to_dtype(DType::U8)?.add(3)?.mul(2)?.maximum(12);
        eq |x, _w| whole(x, 3)?.eq(1); ne |x, w| x.ne(&x.mul(w)?); lt |x, w| x.lt(&w.sub(0.5)?); le |x, _w| x.le(0.6);
        gt |x, _w| x.gt(0.6); ge |x, w| w.sub(0.5)?.ge(x); eq_bool |x, _w| x.gt(0.5)?.eq(&x.gt(0.7)?);
        between |x, _w| whole(x, 3)?.lt(0.5);
        logical_and |x, _w| x.gt(0.3)?.logical_and(&x.lt(0.8)?); logical_or |x, _w| x.lt(0.3)?.logical_or(&x.gt(0.8)?);
        logical_xor |x, _w| x.lt(0.7)?.logical_xor(&x.gt(0.3)?); logical_not |x, _w| x.gt(0.5)?.logical_not();
        isnan |x, _w| x.sub(0.5)?.log()?.isnan(); isinf |x, _w| x.sub(x)?.reciprocal()?.isinf();
        isfinite |x, _w| x.sub(0.5)?.log()?.isfinite(); isclose |x, _w| x.isclose(&x.add(0.05)?, 0.1, 0.0);
        where_tensors |x, w| x.gt(0.5)?.where_cond(x, &x.mul(w)?); where_number |x, _w| x.gt(0.5)?.where_cond(x, 0.0);
        where_first |x, _w| x.gt(0.5)?.where_cond(-1, x);
        where_bool |x, _w| x.gt(0.5)?.where_cond(&x.gt(0.7)?, &x.lt(0.2)?);
        masked_fill |x, _w| x.masked_fill(&x.gt(0.5)?, -3.0); masked_row |x, w| x.masked_fill(&w.gt(1)?, 0);
        clamp_tensors |x, w| x.clamp(&w.mul(0.3)?, 0.8); clamp_min |x, _w| x.clamp_min(0.5); clamp_max |x, _w| x.clamp_max(0.5);
        prod |x, _w| x.prod(1); prod_all |x, _w| x.prod([1, 2]); amax |x, _w| x.amax([1, 2]); amin |x, _w| x.amin_keepdim(-1);
        max_all |x, _w| x.max(()); min |x, _w| x.min(2); logsumexp |x, _w| x.logsumexp([1, 2]);
        var |x, _w| x.var(-1, 1.0); std |x, _w| x.std_keepdim([1, 2], 0.0); var_batch |x, _w| x.var(0, 1.0);
        std_all |x, _w| x.std((), 1.0); any |x, _w| x.gt(0.9)?.any(1); all |x, _w| x.gt(0.3)?.all([1, 2]);
        any_numbers |x, _w| whole(x, 3)?.any_keepdim(2); sum_bool |x, _w| x.gt(0.5)?.sum(1); sum_int |x, _w| whole(x, 9)?.sum(());
        max_bool |x, _w| x.gt(0.8)?.max(1);
        norm |x, _w| x.norm(2, 1); norm_1 |x, _w| x.norm(1, [1, 2]); norm_inf |x, _w| x.sub(0.5)?.norm(f64::INFINITY, -1);
        norm_3 |x, _w| x.norm_keepdim(3, 2); norm_0 |x, _w| x.sub(0.5)?.relu()?.norm(0, 1); norm_all |x, _w| x.norm(2, ());
        argmax |x, _w| x.argmax(1); argmin |x, _w| x.argmin(-1); argmax_keepdim |x, _w| x.argmax_keepdim(2);
        argmax_all |x, _w| x.slice(0, 0, 1, 1)?.argmax(()); argmax_int |x, _w| whole(x, 9)?.argmax(1);
        max_dim |x, _w| Ok(x.max_dim(1)?.0); max_dim_indices |x, _w| Ok(x.max_dim_keepdim(2)?.1); min_dim |x, _w| Ok(x.min_dim(-1)?.0);
        sort |x, _w| Ok(x.sort(1, false)?.0); sort_down |x, _w| Ok(x.sort(-1, true)?.0); argsort |x, _w| x.argsort(2, true);
        argsort_ties |x, _w| whole(x, 2)?.argsort(2, false);
        sort_batch |x, _w| Ok(x.sort(0, false)?.0); topk |x, _w| Ok(x.topk(2, -1, true)?.0); topk_indices |x, _w| Ok(x.topk(2, 1, false)?.1);
        kthvalue |x, _w| Ok(x.kthvalue(2, 2)?.0); median |x, _w| Ok(x.median(-1)?.0); median_indices |x, _w| Ok(x.median(2)?.1);
        cumsum |x, _w| x.cumsum(1); cumsum_bool |x, _w| x.gt(0.5)?.cumsum(-1); cumsum_batch |x, _w| x.cumsum(0);
        flip |x, _w| x.flip([1, 2]); flip_batch |x, _w| x.flip(0); flip_all |x, _w| x.flip(());
        roll |x, _w| x.roll(1, 2); roll_back |x, _w| x.roll([-2, 5], [1, 2]); roll_flat |x, _w| x.roll(3, ()); roll_batch |x, _w| x.roll(1, 0);
        repeat |x, _w| x.repeat([1, 2, 3]); repeat_more |x, _w| x.repeat([2, 1, 1, 2]); repeat_interleave |x, _w| x.repeat_interleave(3, 1);
        repeat_batch |x, _w| x.repeat([3, 1, 1]);
        stack |x, _w| Tensor::stack(&[x, &x.mul(2)?], 1); stack_last |x, _w| Tensor::stack(&[x, x, x], -1);
        tril |x, _w| x.tril(0); triu |x, _w| x.triu(1); tril_bool |x, _w| x.gt(0.4)?.tril(-1);
        diagonal |x, _w| x.diagonal(0, 1, 2); diagonal_offset |x, _w| x.diagonal(-1, 2, 1); diag |x, w| x.matmul(&w.select(0, 0)?.diag(1)?.narrow(0, 0, 4)?);
        diag_matrix |x, w| x.add(&w.narrow(1, 0, 3)?.diag(0)?.sum(())?); trace |x, w| x.mul(&w.narrow(1, 1, 3)?.trace()?);
        pad |x, _w| x.pad(&[1, 2, 0, 1], PadMode::Constant(0.5)); pad_negative |x, _w| x.pad(&[-1, 2], PadMode::Constant(0.0));
        pad_circular |x, _w| x.pad(&[1, 2, 2, 0], PadMode::Circular); pad_bool |x, _w| x.gt(0.5)?.pad(&[1, 1], PadMode::Constant(1.0));
        index_select |x, _w| x.index_select(1, &Tensor::new(&[2i64, 0, 2], Device::Cpu)?);
        index_scalar |x, _w| x.index_select(2, &Tensor::new(1i64, Device::Cpu)?);
        index_list |x, _w| x.i((.., &Tensor::new(&[-1i64, 0], Device::Cpu)?)); index_two |x, _w| { let i = Tensor::new(&[0i64, -1], Device::Cpu)?; x.i((.., &i, &i)) };
        index_mixed |x, _w| x.i((.., 1, 1usize..)); index_alias |x, _w| x.i(..)?.mul(2);
        gather |x, _w| x.gather(2, &x.argsort(2, true)?); gather_part |x, _w| x.gather(1, &whole(x, 2)?.narrow(2, 0, 2)?);
        take_along_dim |x, _w| x.take_along_dim(&x.argmax_keepdim(1)?, 1);
        scatter |x, _w| x.scatter(2, &x.argsort(2, false)?, x); scatter_number |x, _w| x.scatter(1, &whole(x, 2)?.narrow(1, 0, 1)?, 7);
        scatter_prod |x, w| {
            x.scatter_reduce(2, &whole(x, 3)?, &x.mul(w)?, ScatterReduction::Prod, true)?
                .add(&x.scatter_reduce(1, &whole(x, 2)?, x, ScatterReduction::Prod, false)?)
        };
        scatter_mean |x, _w| x.scatter_reduce(2, &whole(x, 3)?, x, ScatterReduction::Mean, true);
        index_copy |x, _w| x.index_copy(1, &Tensor::new(&[2i64, 0], Device::Cpu)?, &x.narrow(1, 0, 2)?.neg()?);
        scatter_add |x, _w| x.scatter_add(2, &whole(x, 3)?, x); scatter_part |x, w| x.scatter(1, &x.argmin_keepdim(1)?, &x.mul(w)?);
        index_add |x, w| x.index_add(1, &Tensor::new(&[2i64, 0], Device::Cpu)?, &x.mul(w)?.narrow(1, 1, 2)?);
        index_put |x, w| x.index_put((.., 1), &w.select(0, 0)?, false);
        index_put_list |x, _w| x.index_put((.., &Tensor::new(&[0i64, -1], Device::Cpu)?), 0.5, false);
        index_put_add |x, w| x.index_put((.., .., &Tensor::new(&[1i64, 1], Device::Cpu)?), &w.narrow(1, 0, 2)?, true);
        kthvalue_keepdim |x, _w| Ok(x.kthvalue_keepdim(3, 2)?.0);
        index_add_alpha |x, w| x.index_add_alpha(1, &Tensor::new(&[1i64], Device::Cpu)?, &x.mul(w)?.narrow(1, 0, 1)?, 2.5);
        meshgrid_xy |x, w| x.add(&Tensor::meshgrid_xy(&[&w.select(0, 0)?, &w.select(0, 1)?.narrow(0, 0, 3)?])?[1]);
        index_i32 |x, _w| x.index_select(1, &Tensor::new(&[2i32, 0], Device::Cpu)?);
        halves |x, _w| x.mul(8)?.floor()?.to_dtype(DType::F16)?.mul(2)?.permute([0, 2, 1])?.relu()?.to_dtype(DType::F32);
        softmax_doubles |x, _w| x.to_dtype(DType::F64)?.softmax(-1)?.log()?.std(1, 1.0);
        one_hot |x, _w| whole(x, 4)?.one_hot(5); einsum |x, w| Tensor::einsum("nij,kj->nik", &[x, w]);
        outer |x, w| x.select(0, 0)?.select(0, 0)?.outer(&w.select(0, 1)?); dot |x, w| x.matmul(&w.t()?)?.mul(&w.select(0, 1)?.dot(&w.select(0, 2)?)?);
        split |x, _w| Ok(x.split(2, 2)?[1].clone()); chunk |x, _w| Ok(x.chunk(2, 2)?[0].clone()); unbind |x, _w| x.unbind(1)?[2].exp();
        arange |x, _w| x.add(&Tensor::arange(0, 4, Device::Cpu)?.to_dtype(DType::F32)?); linspace |x, _w| x.mul(&Tensor::linspace(0.5, 2.0, 4, Device::Cpu)?);
        arange_batch |x, _w| x.add(&Tensor::arange(0, x.dims()[0] as i64, Device::Cpu)?.to_dtype(DType::F32)?.reshape([x.dims()[0], 1, 1])?);
        eye |x, _w| x.matmul(&Tensor::eye(4, Device::Cpu)?.add(1)?); zeros_like |x, _w| Tensor::cat(&[x, &x.zeros_like()?], 1);
        full_batch |x, _w| Tensor::cat(&[x, &Tensor::full([x.dims()[0], 2, 4], 0.5, Device::Cpu)?], 1);
        new |x, _w| x.mul(&Tensor::new(&[1f32, -1., 2., 0.], Device::Cpu)?); detach |x, _w| x.detach().mul(2);
        expand_batch |x, w| Tensor::cat(&[x, &w.unsqueeze(0)?.expand([x.dims()[0], 3, 4])?], 2);
        meshgrid |x, w| x.add(&Tensor::meshgrid(&[&w.select(0, 0)?.narrow(0, 0, 3)?, &w.select(0, 1)?])?[0]);
        heads |x, _w| x.reshape([x.dims()[0], 3, 2, 2])?.transpose(1, 2)?.reshape([x.dims()[0] * 2, 6]);
        max_pool_indices |x, _w| Ok(x.unsqueeze(1)?.max_pool2d_with_indices(&Pooling::new([2, 2]).stride([1, 1]))?.1);
        adaptive_indices |x, _w| Ok(x.unsqueeze(1)?.adaptive_max_pool2d_with_indices([1, 2])?.1);
        mse_loss |x, w| x.pointwise_loss(PointwiseLossKind::Mse, &x.mul(w)?, None, None, Reduction::Mean);
        l1_loss |x, w| x.pointwise_loss(PointwiseLossKind::L1, &x.mul(w)?, None, None, Reduction::None);
        bce_with_logits |x, w| x.sub(0.5)?.pointwise_loss(PointwiseLossKind::BceWithLogits, &x.gt(0.6)?.to_dtype(DType::F32)?, Some(&w.detach()), Some(&w.detach().select(0, 0)?), Reduction::Sum);
        cross_entropy |x, _w| x.class_loss(&whole(&x.select(1, 0)?, 2)?, None, &rule(ClassLossInput::Logits, Reduction::Mean));
        nll_loss |x, w| x.log_softmax(1)?.class_loss(&whole(&x.select(1, 0)?, 2)?, Some(&w.select(1, 0)?), &rule(ClassLossInput::LogProbs, Reduction::Mean));
    };
    let spatial = entries! {
        conv1d |x, w| x.conv1d(&w.reshape([2, 3, 2])?, None, &Conv1d { padding: [1], ..Conv1d::default() });
        conv_transpose1d |x, w| {
            x.conv_transpose1d(&w.reshape([3, 2, 2])?, None, &Conv1d { stride: [2], ..Conv1d::default() }, [1])
        };
        conv3d |x, w| {
            volume(x)?.conv3d(&w.reshape([3, 1, 2, 2, 1])?, None, &Conv3d { padding: [1, 0, 0], ..Conv3d::default() })
        };
        conv_transpose3d |x, w| {
            let rule = Conv3d { stride: [2, 1, 1], ..Conv3d::default() };
            volume(x)?.conv_transpose3d(&w.reshape([1, 3, 2, 1, 2])?, None, &rule, [1, 0, 0])
        };
        max_pool1d |x, _w| x.max_pool1d(&Pooling::new([2]).padding([1]));
        max_pool3d |x, _w| volume(x)?.max_pool3d(&Pooling::new([2, 1, 2]).stride([1, 1, 1]));
        max_pool3d_indices |x, _w| Ok(volume(x)?.max_pool3d_with_indices(&Pooling::new([2, 1, 2]).stride([1, 1, 1]))?.1);
        avg_pool1d |x, _w| x.avg_pool1d(&Pooling::new([2]).padding([1]), PoolDivisor::Inside);
        avg_pool3d |x, _w| volume(x)?.avg_pool3d(&Pooling::new([3, 2, 1]).padding([1, 0, 0]), PoolDivisor::WithPadding);
        adaptive_avg_pool1d |x, _w| x.adaptive_avg_pool1d(2);
        adaptive_max_pool3d |x, _w| volume(x)?.adaptive_max_pool3d([3, 1, 2]);
        lp_pool1d |x, _w| x.lp_pool1d(2.0, &Pooling::new([2]));
        instance_norm |x, w| x.instance_norm(None, Some(&w.select(1, 0)?), Some(&w.select(1, 1)?), true, 0.1, 1e-5);
        rms_norm |x, w| x.rms_norm(&[4], Some(&w.select(0, 0)?), None);
        local_response_norm |x, _w| x.local_response_norm(2, 0.5, 0.75, 1.0);
        interpolate_nearest |x, _w| image(x)?.interpolate(&[5, 7], InterpolateMode::Nearest);
        interpolate_exact |x, _w| image(x)?.interpolate(&[5, 7], InterpolateMode::NearestExact);
        interpolate_linear |x, _w| x.interpolate_by(&[2.0], InterpolateMode::Linear { align_corners: false });
        interpolate_bilinear |x, _w| image(x)?.interpolate(&[5, 2], InterpolateMode::Linear { align_corners: true });
        interpolate_bicubic |x, _w| image(x)?.interpolate(&[5, 7], InterpolateMode::Cubic { align_corners: false });
        interpolate_area |x, _w| image(x)?.interpolate(&[2, 2], InterpolateMode::Area);
        grid_sample |x, _w| image(x)?.grid_sample(&x.reshape([x.dims()[0], 2, 3, 2])?, GridSample::default());
        grid_sample_bicubic |x, _w| {
            let (mode, padding_mode) = (GridMode::Bicubic, GridPadding::Reflection);
            let places = x.mul(2)?.sub(1)?.reshape([x.dims()[0], 3, 2, 2])?;
            image(x)?.grid_sample(&places, GridSample { mode, padding_mode, align_corners: true })
        };
        pixel_shuffle |x, _w| x.reshape([x.dims()[0], 12, 1, 1])?.pixel_shuffle(2);
        pixel_unshuffle |x, _w| image(x)?.pixel_unshuffle(1)?.channel_shuffle(1);
        im2col |x, _w| image(x)?.im2col(SlidingWindow { padding: [1, 0], ..SlidingWindow::new([2, 3]) });
        col2im |x, _w| x.transpose(1, 2)?.col2im([2, 4], SlidingWindow::new([2, 2]));
        unflatten |x, _w| x.unflatten(2, [2, -1]); cosine_similarity |x, w| x.cosine_similarity(w, 1, 1e-8);
        pairwise_distance |x, w| x.pairwise_distance(w, 2.0, 1e-6, false);
    };
    unary.into_iter().chain(others).chain(more).chain(spatial).collect()
}

/// The input as images `[N, 1, 3, 4]`.
fn image(x: &Tensor) -> Result<Tensor> {
    x.unsqueeze(1)
}

/// The input as volumes `[N, 1, 3, 2, 2]`.
fn volume(x: &Tensor) -> Result<Tensor> {
    x.reshape([x.dims()[0], 1, 3, 2, 2])
}

/// Whole numbers from 0 to `most`.
fn whole(x: &Tensor, most: i64) -> Result<Tensor> {
    x.sub(0.1)?.mul(most + 1)?.floor()?.clamp(0, most)?.to_dtype(DType::I64)
}

fn rule(input: ClassLossInput, reduction: Reduction) -> ClassLoss {
    ClassLoss { input, reduction, ignore_index: 1, label_smoothing: 0.0 }
}
