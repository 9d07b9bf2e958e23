//! Rows of convolution, pooling and normalization in 1 and 3 dimensions, as `rows.rs` describes them.

macro_rules! spatial_rows {
    ($expand:ident) => {
        $expand! {
            conv1d {
                golden |x, a| convolved(x, a, |input, rule: &Conv1d| input.conv1d(&x[1], bias(x, a), rule))?;
                gradient SIGNAL_CONVOLUTION Any |x| {
                    x[0].conv1d(&x[1], x.get(2), &Conv1d { stride: [2], padding: [1], dilation: [2], groups: 1 })
                };
                random |x, y, r| convolution_of(1, x, y, r, |x, w, b, r| Ok(vec![x.conv1d(w, b, &rule(r))?]));
            }
            conv_transpose1d {
                golden |x, a| x[0].conv_transpose1d(&x[1], bias(x, a), &rule(a)?, sizes(a, "output_padding", 0))?;
                gradient SIGNAL_CONVOLUTION_T Any |x| {
                    let rule = Conv1d { stride: [2], padding: [1], dilation: [2], groups: 1 };
                    x[0].conv_transpose1d(&x[1], x.get(2), &rule, [1])
                };
                random |x, y, r| convolution_of(1, x, y, r, |x, w, b, r| {
                    let more = [r.below(2)];
                    Ok(vec![x.conv_transpose1d(w, b, &rule(r), more)?])
                });
            }
            conv3d {
                golden |x, a| convolved(x, a, |input, rule: &Conv3d| input.conv3d(&x[1], bias(x, a), rule))?;
                gradient VOLUME_CONVOLUTION Any |x| {
                    let rule = Conv3d { stride: [2, 1, 1], padding: [1, 0, 1], dilation: [1, 2, 1], groups: 1 };
                    x[0].conv3d(&x[1], x.get(2), &rule)
                };
                gradient VOLUME_GROUPS Any |x| x[0].conv3d(&x[1], None, &Conv3d { groups: 2, ..Conv3d::default() });
                // All numbers differ, along all axes.
                gradient VOLUME_UNEVEN Any |x| {
                    let rule = Conv3d { stride: [3, 1, 2], padding: [2, 1, 0], dilation: [2, 3, 1], groups: 1 };
                    x[0].conv3d(&x[1], None, &rule)
                };
                random |x, y, r| convolution_of(3, x, y, r, |x, w, b, r| Ok(vec![x.conv3d(w, b, &rule(r))?]));
            }
            conv_transpose3d {
                golden |x, a| x[0].conv_transpose3d(&x[1], bias(x, a), &rule(a)?, sizes(a, "output_padding", 0))?;
                gradient VOLUME_CONVOLUTION_T Any |x| {
                    let rule = Conv3d { stride: [2, 1, 1], padding: [1, 0, 0], dilation: [1, 1, 2], groups: 1 };
                    x[0].conv_transpose3d(&x[1], x.get(2), &rule, [1, 0, 1])
                };
                gradient VOLUME_GROUPS_T Any |x| {
                    let rule = Conv3d { stride: [1, 2, 3], padding: [0, 1, 1], dilation: [2, 1, 1], groups: 2 };
                    x[0].conv_transpose3d(&x[1], None, &rule, [1, 0, 2])
                };
                random |x, y, r| convolution_of(3, x, y, r, |x, w, b, r| {
                    let more = [r.below(2), r.below(2), 0];
                    Ok(vec![x.conv_transpose3d(w, b, &rule(r), more)?])
                });
            }
            max_pool1d {
                golden |x, a| maxima(a, x[0].max_pool1d_with_indices(&windows(a))?);
                gradient SIGNALS Distinct |x| x[0].max_pool1d(&Pooling::new([3]).stride([2]).padding([1]));
                random |x, _y, r| Ok(vec![spatial(1, x, r).max_pool1d(&pooling_of(r))?]);
            }
            max_pool1d_with_indices {
                gradient SIGNALS Distinct |x| Ok(x[0].max_pool1d_with_indices(&Pooling::new([2]).dilation([2]))?.0);
                random |x, _y, r| pair_of(spatial(1, x, r).max_pool1d_with_indices(&pooling_of(r))?);
            }
            max_pool3d {
                golden |x, a| maxima(a, x[0].max_pool3d_with_indices(&windows(a))?);
                gradient VOLUMES Distinct |x| x[0].max_pool3d(&Pooling::new([2, 2, 2]).stride([1, 1, 2]).padding([0, 1, 1]));
                random |x, _y, r| Ok(vec![spatial(3, x, r).max_pool3d(&pooling_of(r))?]);
            }
            max_pool3d_with_indices {
                gradient VOLUMES Distinct |x| Ok(x[0].max_pool3d_with_indices(&Pooling::new([2, 2, 2]).stride([1; 3]))?.0);
                random |x, _y, r| pair_of(spatial(3, x, r).max_pool3d_with_indices(&pooling_of(r))?);
            }
            avg_pool1d {
                golden |x, a| x[0].avg_pool1d(&windows(a), divisor(a))?;
                gradient SIGNALS Any |x| {
                    x[0].avg_pool1d(&Pooling::new([3]).stride([2]).padding([1]), PoolDivisor::Inside)
                };
                random |x, _y, r| Ok(vec![spatial(1, x, r).avg_pool1d(&pooling_of(r), PoolDivisor::Inside)?]);
            }
            avg_pool3d {
                golden |x, a| x[0].avg_pool3d(&windows(a), divisor(a))?;
                gradient VOLUMES Any |x| {
                    let windows = Pooling::new([2, 3, 2]).stride([1, 2, 2]).padding([1, 1, 0]).ceil_mode(true);
                    x[0].avg_pool3d(&windows, PoolDivisor::WithPadding)
                };
                gradient VOLUMES Any |x| x[0].avg_pool3d(&Pooling::new([2, 2, 2]), PoolDivisor::Fixed(3));
                random |x, _y, r| Ok(vec![spatial(3, x, r).avg_pool3d(&pooling_of(r), PoolDivisor::WithPadding)?]);
            }
            adaptive_avg_pool1d {
                golden |x, a| x[0].adaptive_avg_pool1d(output_size::<1>(a))?;
                gradient SIGNALS Any |x| x[0].adaptive_avg_pool1d(3);
                random |x, _y, r| Ok(vec![spatial(1, x, r).adaptive_avg_pool1d(r.below(4))?]);
            }
            adaptive_avg_pool3d {
                golden |x, a| x[0].adaptive_avg_pool3d(output_size::<3>(a))?;
                gradient VOLUMES Any |x| x[0].adaptive_avg_pool3d([Some(2), None, Some(3)]);
                random |x, _y, r| Ok(vec![spatial(3, x, r).adaptive_avg_pool3d([r.below(3), 2, r.below(4)])?]);
            }
            adaptive_max_pool1d {
                golden |x, a| maxima(a, x[0].adaptive_max_pool1d_with_indices(output_size::<1>(a))?);
                gradient SIGNALS Distinct |x| x[0].adaptive_max_pool1d(3);
                random |x, _y, r| Ok(vec![spatial(1, x, r).adaptive_max_pool1d(r.below(4))?]);
            }
            adaptive_max_pool1d_with_indices {
                gradient SIGNALS Distinct |x| Ok(x[0].adaptive_max_pool1d_with_indices([None])?.0);
                random |x, _y, r| pair_of(spatial(1, x, r).adaptive_max_pool1d_with_indices(r.below(4))?);
            }
            adaptive_max_pool3d {
                golden |x, a| maxima(a, x[0].adaptive_max_pool3d_with_indices(output_size::<3>(a))?);
                gradient VOLUMES Distinct |x| x[0].adaptive_max_pool3d([Some(2), None, Some(1)]);
                random |x, _y, r| Ok(vec![spatial(3, x, r).adaptive_max_pool3d([r.below(3), 2, 1])?]);
            }
            adaptive_max_pool3d_with_indices {
                gradient VOLUMES Distinct |x| Ok(x[0].adaptive_max_pool3d_with_indices(2)?.0);
                random |x, _y, r| pair_of(spatial(3, x, r).adaptive_max_pool3d_with_indices([r.below(3), 2, 1])?);
            }
            lp_pool1d {
                gradient SIGNALS Positive |x| x[0].lp_pool1d(3.0, &Pooling::new([2]).stride([1]));
                random |x, _y, r| Ok(vec![spatial(1, x, r).lp_pool1d(r.float(), &pooling_of(r))?]);
            }
            lp_pool2d {
                gradient IMAGES Positive |x| x[0].lp_pool2d(2.0, &Pooling::new([2, 2]).stride([1, 2]));
                random |x, _y, r| Ok(vec![images(x, r).lp_pool2d(r.float(), &pooling_of(r))?]);
            }
            lp_pool3d {
                gradient VOLUMES Positive |x| x[0].lp_pool3d(2.0, &Pooling::new([2, 2, 2]));
                random |x, _y, r| Ok(vec![spatial(3, x, r).lp_pool3d(r.float(), &pooling_of(r))?]);
            }
            max_unpool1d {
                golden |x, a| x[0].max_unpool1d(&x[1], &windows(a), unpooled_size(a))?;
                gradient SIGNALS Distinct |x| {
                    let windows = Pooling::new([2]);
                    let (maxima, indices) = x[0].max_pool1d_with_indices(&windows)?;
                    let extents = &x[0].dims()[x[0].rank() - 1..];
                    maxima.max_unpool1d(&indices, &windows, Some(std::array::from_fn(|axis| extents[axis])))
                };
                random |x, _y, r| {
                    let (x, windows) = (spatial(1, x, r), pooling_of(r));
                    let size = if r.flag() { None } else { Some(each(r, 2)) };
                    let indices = r.tensor_of(DType::I64, x.dims()).detach();
                    Ok(vec![x.max_unpool1d(&indices, &windows, size)?])
                };
            }
            max_unpool2d {
                golden |x, a| x[0].max_unpool2d(&x[1], &windows(a), unpooled_size(a))?;
                gradient IMAGES Distinct |x| {
                    let windows = Pooling::new([2, 2]);
                    let (maxima, indices) = x[0].max_pool2d_with_indices(&windows)?;
                    let extents = &x[0].dims()[x[0].rank() - 2..];
                    maxima.max_unpool2d(&indices, &windows, Some(std::array::from_fn(|axis| extents[axis])))
                };
                random |x, _y, r| {
                    let (x, windows) = (spatial(2, x, r), pooling_of(r));
                    let size = if r.flag() { None } else { Some(each(r, 2)) };
                    let indices = r.tensor_of(DType::I64, x.dims()).detach();
                    Ok(vec![x.max_unpool2d(&indices, &windows, size)?])
                };
            }
            max_unpool3d {
                golden |x, a| x[0].max_unpool3d(&x[1], &windows(a), unpooled_size(a))?;
                gradient VOLUMES Distinct |x| {
                    let windows = Pooling::new([1, 1, 2]);
                    let (maxima, indices) = x[0].max_pool3d_with_indices(&windows)?;
                    let extents = &x[0].dims()[x[0].rank() - 3..];
                    maxima.max_unpool3d(&indices, &windows, Some(std::array::from_fn(|axis| extents[axis])))
                };
                random |x, _y, r| {
                    let (x, windows) = (spatial(3, x, r), pooling_of(r));
                    let size = if r.flag() { None } else { Some(each(r, 2)) };
                    let indices = r.tensor_of(DType::I64, x.dims()).detach();
                    Ok(vec![x.max_unpool3d(&indices, &windows, size)?])
                };
            }
            fractional_max_pool2d {
                golden |x, a| maxima(a, x[0].fractional_max_pool2d_with_indices(sizes(a, "kernel_size", 1), sizes(a, "output_size", 1), x.get(1))?);
                gradient IMAGES Distinct |x| {
                    let batch = if x[0].rank() == 4 { x[0].dims()[0] } else { 1 };
                    let samples = Tensor::full([batch, x[0].dims()[x[0].rank() - 3], 2], 0.3, DType::F64)?;
                    x[0].fractional_max_pool2d([2, 2], [2, 2], Some(&samples))
                };
                random |x, _y, r| Ok(vec![spatial(2, x, r).fractional_max_pool2d(each(r, 1), each(r, 1), None)?]);
            }
            fractional_max_pool2d_with_indices {
                gradient IMAGES Distinct |x| {
                    let batch = if x[0].rank() == 4 { x[0].dims()[0] } else { 1 };
                    let samples = Tensor::zeros([batch, x[0].dims()[x[0].rank() - 3], 2], DType::F32)?;
                    Ok(x[0].fractional_max_pool2d_with_indices([2, 2], [2, 2], Some(&samples))?.0)
                };
                random |x, _y, r| pair_of(spatial(2, x, r).fractional_max_pool2d_with_indices(each(r, 1), each(r, 1), None)?);
            }
            fractional_max_pool3d {
                golden |x, a| maxima(a, x[0].fractional_max_pool3d_with_indices(sizes(a, "kernel_size", 1), sizes(a, "output_size", 1), x.get(1))?);
                gradient VOLUMES Distinct |x| {
                    let batch = if x[0].rank() == 5 { x[0].dims()[0] } else { 1 };
                    let samples = Tensor::full([batch, x[0].dims()[x[0].rank() - 4], 3], 0.3, DType::F64)?;
                    x[0].fractional_max_pool3d([1, 2, 2], [2, 1, 2], Some(&samples))
                };
                random |x, _y, r| Ok(vec![spatial(3, x, r).fractional_max_pool3d(each(r, 1), each(r, 1), None)?]);
            }
            fractional_max_pool3d_with_indices {
                gradient VOLUMES Distinct |x| {
                    let batch = if x[0].rank() == 5 { x[0].dims()[0] } else { 1 };
                    let samples = Tensor::zeros([batch, x[0].dims()[x[0].rank() - 4], 3], DType::F32)?;
                    Ok(x[0].fractional_max_pool3d_with_indices([1, 2, 2], [2, 1, 2], Some(&samples))?.0)
                };
                random |x, _y, r| pair_of(spatial(3, x, r).fractional_max_pool3d_with_indices(each(r, 1), each(r, 1), None)?);
            }
            instance_norm {
                golden |x, a| {
                    let copy = |name: &str| a.tensor(name, x).map(|t| t.detach().copy()).transpose();
                    let stats = copy("running_mean")?.zip(copy("running_var")?);
                    let running = stats.as_ref().map(|(mean, var)| Running { mean, var });
                    let by_input = a.get("use_input_stats").is_none_or(|flag| flag.as_bool() == Some(true));
                    let (momentum, eps) = (a.float("momentum").unwrap_or(0.1), a.float("eps").unwrap_or(1e-5));
                    x[0].instance_norm(running, a.tensor("weight", x), a.tensor("bias", x), by_input, momentum, eps)?
                };
                gradient NORMALIZED_INSTANCES Any |x| x[0].instance_norm(None, x.get(1), x.get(2), true, 0.1, 1e-3);
                random |x, _y, r| {
                    let channels = [x.dims().get(1).copied().unwrap_or(1)];
                    let (w, b) = (weight(r, x, &channels), weight(r, x, &channels));
                    let (mean, var) = (r.tensor_of(x.dtype(), &channels).detach(), r.tensor_of(x.dtype(), &channels).detach());
                    let running = r.flag().then_some(Running { mean: &mean, var: &var });
                    Ok(vec![x.instance_norm(running, w.as_ref(), b.as_ref(), r.flag(), r.float(), r.float())?])
                };
            }
            rms_norm {
                golden |x, a| {
                    let shape: Vec<usize> = a.ints("normalized_shape").iter().map(|&n| n as usize).collect();
                    x[0].rms_norm(&shape, a.tensor("weight", x), a.float("eps"))?
                };
                gradient NORMALIZED_BY_SQUARES Any |x| x[0].rms_norm(x[1].dims(), x.get(1), Some(1e-3));
                random |x, _y, r| {
                    let shape = if r.flag() { x.dims()[x.rank().min(1)..].to_vec() } else { vec![r.size()] };
                    let w = weight(r, x, &shape_of_few(&shape));
                    Ok(vec![x.rms_norm(&shape, w.as_ref(), r.flag().then(|| r.float()))?])
                };
            }
            local_response_norm {
                golden |x, a| {
                    let (alpha, beta) = (a.float("alpha").unwrap_or(1e-4), a.float("beta").unwrap_or(0.75));
                    x[0].local_response_norm(a.size("size").unwrap(), alpha, beta, a.float("k").unwrap_or(1.0))?
                };
                gradient IMAGES Any |x| x[0].local_response_norm(2, 0.5, 0.75, 1.0);
                random |x, _y, r| Ok(vec![images(x, r).local_response_norm(r.below(4), r.float(), r.float(), r.float())?]);
            }
            normalize {
                golden |x, a| {
                    let (p, dim) = (a.float("p").unwrap_or(2.0), a.int("dim").unwrap_or(1));
                    x[0].normalize(p, dim, a.float("eps").unwrap_or(1e-12))?
                };
                gradient CUBE Any |x| x[0].normalize(2.0, 1, 1e-12);
                gradient MATRIX Positive |x| x[0].normalize(3.0, [0, 1], 1e-12);
                random |x, _y, r| Ok(vec![x.normalize(r.float(), r.dim(), r.float())?]);
            }
            bilinear {
                golden |x, _a| x[0].bilinear(&x[1], &x[2], x.get(3))?;
                gradient BILINEAR Any |x| x[0].bilinear(&x[1], &x[2], x.get(3));
                random |x, y, r| {
                    let extent = |t: &Tensor| t.dims().last().copied().unwrap_or(1);
                    let y = if r.flag() { x } else { y };
                    let w = r.tensor_of(x.dtype(), &[2, extent(x), extent(y)]);
                    let b = weight(r, x, &[2]);
                    Ok(vec![x.bilinear(y, &w, b.as_ref())?])
                };
            }
            cosine_similarity {
                golden |x, a| x[0].cosine_similarity(&x[1], a.int("dim").unwrap_or(1), a.float("eps").unwrap_or(1e-8))?;
                gradient PAIRS_OF_VECTORS Any |x| x[0].cosine_similarity(&x[1], -1, 1e-8);
                random |x, y, r| Ok(vec![x.cosine_similarity(y, r.dim(), r.float())?]);
            }
            pairwise_distance {
                golden |x, a| {
                    let (p, eps) = (a.float("p").unwrap_or(2.0), a.float("eps").unwrap_or(1e-6));
                    x[0].pairwise_distance(&x[1], p, eps, a.flag("keepdim"))?
                };
                gradient PAIRS_OF_VECTORS Distinct |x| x[0].pairwise_distance(&x[1], 2.0, 1e-6, true);
                gradient PAIRS_OF_VECTORS Distinct |x| x[0].pairwise_distance(&x[1], 3.0, 1e-6, false);
                random |x, y, r| Ok(vec![x.pairwise_distance(y, r.float(), r.float(), r.flag())?]);
            }
        }
    };
}
