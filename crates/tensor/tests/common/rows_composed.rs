//! Rows of operations that are composed of others, as `rows.rs` describes them.

macro_rules! composed_rows {
    ($expand:ident) => {
        $expand! {
            addmm {
                golden |x, a| x[0].addmm(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient MATRIX_AND_PRODUCT Any |x| x[0].addmm(&x[1], &x[2], 0.5, 2.0);
                random |x, y, r| one_of(x.addmm(y, x, r.scalar(), r.scalar()));
            }
            addmv {
                golden |x, a| x[0].addmv(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient VECTOR_AND_PRODUCT Any |x| x[0].addmv(&x[1], &x[2], 0.5, 2.0);
                random |x, y, r| one_of(x.addmv(y, x, r.scalar(), r.scalar()));
            }
            baddbmm {
                golden |x, a| x[0].baddbmm(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient BATCH_AND_PRODUCT Any |x| x[0].baddbmm(&x[1], &x[2], 1, 2.0);
                random |x, y, r| one_of(cube(x, r).baddbmm(&cube(y, r), &cube(x, r), r.scalar(), r.scalar()));
            }
            addbmm {
                golden |x, a| x[0].addbmm(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient MATRIX_AND_BATCHES Any |x| x[0].addbmm(&x[1], &x[2], 0.5, 1);
                random |x, y, r| one_of(x.addbmm(&cube(y, r), &cube(x, r), r.scalar(), r.scalar()));
            }
            addr {
                golden |x, a| x[0].addr(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient MATRIX_AND_VECTORS Any |x| x[0].addr(&x[1], &x[2], 0.5, 2.0);
                random |x, y, r| one_of(x.addr(&y.flatten_all()?, &y.flatten_all()?, r.scalar(), r.scalar()));
            }
            addcmul {
                golden |x, a| x[0].addcmul(&x[1], &x[2], factor(a, "value"))?;
                gradient THREE Any |x| x[0].addcmul(&x[1], &x[2], 0.5);
                random |x, y, r| one_of(x.addcmul(y, x, r.scalar()));
            }
            addcdiv {
                golden |x, a| x[0].addcdiv(&x[1], &x[2], factor(a, "value"))?;
                gradient THREE Positive |x| x[0].addcdiv(&x[1], &x[2], 0.5);
                random |x, y, r| one_of(x.addcdiv(y, x, r.scalar()));
            }
            inner {
                golden |x, _a| x[0].inner(&x[1])?;
                gradient INNER Any |x| x[0].inner(&x[1]);
                random |x, y, r| one_of(if r.flag() { x.inner(x) } else { x.inner(y) });
            }
            tensordot {
                golden |x, a| match a.get("dims").unwrap() {
                    serde_json::Value::Array(pairs) => {
                        let list = |i: usize| serde_json::from_value(pairs[i].clone()).unwrap();
                        x[0].tensordot(&x[1], kiln_tensor::Contraction::Pairs(list(0), list(1)))?
                    }
                    count => x[0].tensordot(&x[1], count.as_u64().unwrap() as usize)?,
                };
                gradient INNER_CUBES Any |x| x[0].tensordot(&x[1], ([0, 2], [1, 0]));
                random |x, y, r| one_of(if r.flag() { x.tensordot(x, ([0], [r.int()])) } else { x.tensordot(y, r.below(3)) });
            }
            kron {
                golden |x, _a| x[0].kron(&x[1])?;
                gradient INNER Any |x| x[0].kron(&x[1]);
                random |x, y, _r| one_of(x.kron(y));
            }
            cross {
                golden |x, a| x[0].cross(&x[1], a.int("dim").unwrap_or(-1))?;
                gradient PAIRS_OF_VECTORS Any |x| x[0].cross(&x[1], -1);
                random |x, _y, r| {
                    let (a, b) = (r.tensor_of(x.dtype(), &[2, 3]), r.tensor_of(x.dtype(), &[1, 3]));
                    one_of(if r.flag() { a.cross(&b, r.dim()) } else { x.cross(&b, r.dim()) })
                };
            }
            vecdot {
                golden |x, a| x[0].vecdot(&x[1], a.int("dim").unwrap_or(-1))?;
                gradient PAIRS_OF_VECTORS Any |x| x[0].vecdot(&x[1], -1);
                random |x, y, r| one_of(x.vecdot(y, r.dim()));
            }
            matrix_power {
                golden |x, a| match a.int("n").unwrap() {
                    n if n < 0 => return Err(crate::suite::lacks("inverse matrices")),
                    n => x[0].matrix_power(n as u32)?,
                };
                gradient SQUARES Unit |x| x[0].matrix_power(3);
                random |x, _y, r| {
                    let square = r.tensor_of(x.dtype(), &[2, 2]);
                    one_of(if r.flag() { x.matrix_power(2) } else { square.matrix_power(r.below(6) as u32) })
                };
            }
            dist {
                golden |x, a| x[0].dist(&x[1], a.float("p").unwrap_or(2.0))?;
                gradient PAIRS_OF_VECTORS Distinct |x| x[0].dist(&x[1], 2.0);
                random |x, y, r| one_of(x.dist(y, r.float()));
            }
            cdist {
                golden |x, a| {
                    a.get("compute_mode");
                    x[0].cdist(&x[1], a.float("p").unwrap_or(2.0))?
                };
                gradient PAIRS_OF_LISTS Distinct |x| x[0].cdist(&x[1], 2.0);
                gradient PAIRS_OF_LISTS Distinct |x| x[0].cdist(&x[1], 1.0);
                random |x, y, r| one_of(if r.flag() { x.cdist(x, r.float()) } else { x.cdist(y, r.float()) });
            }
            atleast_1d {
                golden |x, _a| each_of(x, kiln_tensor::Tensor::atleast_1d)?;
                gradient ANY Any |x| x[0].atleast_1d();
                random |x, _y, _r| one_of(x.atleast_1d());
            }
            atleast_2d {
                golden |x, _a| each_of(x, kiln_tensor::Tensor::atleast_2d)?;
                gradient ANY Any |x| x[0].atleast_2d();
                random |x, _y, _r| one_of(x.atleast_2d());
            }
            atleast_3d {
                golden |x, _a| each_of(x, kiln_tensor::Tensor::atleast_3d)?;
                gradient ANY Any |x| x[0].atleast_3d();
                random |x, _y, _r| one_of(x.atleast_3d());
            }
            hstack {
                golden |x, _a| kiln_tensor::Tensor::hstack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::hstack(x);
                random |x, y, r| one_of(Tensor::hstack(&[x, if r.flag() { x } else { y }]));
            }
            vstack {
                golden |x, _a| kiln_tensor::Tensor::vstack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::vstack(x);
                random |x, y, r| one_of(Tensor::vstack(&[x, if r.flag() { x } else { y }]));
            }
            dstack {
                golden |x, _a| kiln_tensor::Tensor::dstack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::dstack(x);
                random |x, y, r| one_of(Tensor::dstack(&[x, if r.flag() { x } else { y }]));
            }
            column_stack {
                golden |x, _a| kiln_tensor::Tensor::column_stack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::column_stack(x);
                random |x, y, r| one_of(Tensor::column_stack(&[x, if r.flag() { x } else { y }]));
            }
            ravel {
                golden |x, _a| x[0].ravel()?;
                gradient ANY Any |x| x[0].ravel();
                random |x, _y, _r| one_of(x.ravel());
            }
            tile {
                golden |x, a| x[0].tile(a.ints("dims"))?;
                gradient MATRIX Any |x| x[0].tile([2]);
                gradient MATRIX Any |x| x[0].tile([2, 1, 2]);
                random |x, _y, r| one_of(x.tile(r.extents()));
            }
            broadcast_tensors {
                golden |x, _a| kiln_tensor::Tensor::broadcast_tensors(x)?;
                gradient PAIRS Any |x| joined(Tensor::broadcast_tensors(x)?);
                random |x, y, _r| Tensor::broadcast_tensors(&[x, y]);
            }
            block_diag {
                golden |x, _a| kiln_tensor::Tensor::block_diag(x)?;
                gradient TWO_MATRICES Any |x| Tensor::block_diag(x);
                gradient UNEQUAL_VECTORS Any |x| Tensor::block_diag(x);
                random |x, y, _r| one_of(Tensor::block_diag(&[x, y, x]));
            }
            cartesian_prod {
                golden |x, _a| kiln_tensor::Tensor::cartesian_prod(x)?;
                gradient UNEQUAL_VECTORS Any |x| Tensor::cartesian_prod(x);
                random |x, y, _r| one_of(Tensor::cartesian_prod(&[x, y]));
            }
            combinations {
                golden |x, a| x[0].combinations(a.size("r").unwrap_or(2), a.flag("with_replacement"))?;
                gradient VECTOR Any |x| x[0].combinations(2, false);
                gradient VECTOR Any |x| x[0].combinations(2, true);
                random |x, _y, r| one_of(x.combinations(r.below(4), r.flag()));
            }
            tensor_split {
                golden |x, a| x[0].tensor_split(splits(x, a), a.int("dim").unwrap_or(0))?;
                gradient CUBE Any |x| joined(x[0].tensor_split(3, -1)?);
                gradient CUBE Any |x| joined(x[0].tensor_split([1, -1], -1)?);
                random |x, _y, r| if r.flag() { x.tensor_split(r.size(), r.dim()) } else { x.tensor_split([r.int(), r.int()], r.dim()) };
            }
            hsplit {
                golden |x, a| x[0].hsplit(splits(x, a))?;
                gradient CUBE Any |x| joined(x[0].hsplit([1])?);
                random |x, _y, r| if r.flag() { x.hsplit(r.size()) } else { x.hsplit([r.int()]) };
            }
            vsplit {
                golden |x, a| x[0].vsplit(splits(x, a))?;
                gradient CUBE Any |x| joined(x[0].vsplit(2)?);
                random |x, _y, r| if r.flag() { x.vsplit(r.size()) } else { x.vsplit([r.int()]) };
            }
            dsplit {
                golden |x, a| x[0].dsplit(splits(x, a))?;
                gradient CUBE Any |x| joined(x[0].dsplit(2)?);
                random |x, _y, r| if r.flag() { x.dsplit(r.size()) } else { x.dsplit([r.int()]) };
            }
            rot90 {
                golden |x, a| {
                    let dims = a.ints("dims");
                    let dims = if dims.is_empty() { [0, 1] } else { [dims[0], dims[1]] };
                    x[0].rot90(a.int("k").unwrap_or(1), dims)?
                };
                gradient CUBE Any |x| x[0].rot90(1, [0, 2]);
                gradient CUBE Any |x| x[0].rot90(-1, [0, 1]);
                random |x, _y, r| one_of(x.rot90(r.int(), [r.dim(), r.dim()]));
            }
            fliplr {
                golden |x, _a| x[0].fliplr()?;
                gradient CUBE Any |x| x[0].fliplr();
                random |x, _y, _r| one_of(x.fliplr());
            }
            flipud {
                golden |x, _a| x[0].flipud()?;
                gradient CUBE Any |x| x[0].flipud();
                random |x, _y, _r| one_of(x.flipud());
            }
            unfold {
                golden |x, a| x[0].unfold(a.int("dimension").unwrap(), a.size("size").unwrap(), a.size("step").unwrap())?;
                gradient CUBE Any |x| x[0].unfold(2, 3, 1);
                gradient CUBE Any |x| x[0].unfold(-1, 2, 2);
                random |x, _y, r| one_of(x.unfold(r.dim(), r.below(4), r.size()));
            }
            pixel_shuffle {
                golden |x, a| x[0].pixel_shuffle(a.size("upscale_factor").unwrap())?;
                gradient PIXELS Any |x| x[0].pixel_shuffle(2);
                random |x, _y, r| one_of(spatial(2, x, r).pixel_shuffle(r.below(3)));
            }
            pixel_unshuffle {
                golden |x, a| x[0].pixel_unshuffle(a.size("downscale_factor").unwrap())?;
                gradient PIXELS Any |x| x[0].pixel_unshuffle(2);
                random |x, _y, r| one_of(spatial(2, x, r).pixel_unshuffle(r.below(3)));
            }
            channel_shuffle {
                golden |x, a| x[0].channel_shuffle(a.size("groups").unwrap())?;
                gradient PIXELS Any |x| x[0].channel_shuffle(2);
                random |x, _y, r| one_of(spatial(2, x, r).channel_shuffle(r.below(4)));
            }
        }
    };
}

macro_rules! composed_statistics_rows {
    ($expand:ident) => {
        $expand! {
            std_mean {
                golden |x, a| spread_of(&x[0], a, true)?;
                gradient CUBE Any |x| joined_pair(x[0].std_mean([0, 1], ())?);
                random |x, _y, r| pair_of(x.std_mean(&r.dims()[..], r.float())?);
            }
            std_mean_keepdim {
                gradient CUBE Any |x| joined_pair(x[0].std_mean_keepdim(1, false)?);
                random |x, _y, r| pair_of(x.std_mean_keepdim(&r.dims()[..], r.float())?);
            }
            var_mean {
                golden |x, a| spread_of(&x[0], a, false)?;
                gradient CUBE Any |x| joined_pair(x[0].var_mean([0, 1], ())?);
                random |x, _y, r| pair_of(x.var_mean(&r.dims()[..], r.float())?);
            }
            var_mean_keepdim {
                gradient CUBE Any |x| joined_pair(x[0].var_mean_keepdim(1, false)?);
                random |x, _y, r| pair_of(x.var_mean_keepdim(&r.dims()[..], r.float())?);
            }
            aminmax {
                golden |x, a| match a.int("dim") {
                    None => x[0].aminmax((), a.flag("keepdim"))?,
                    Some(dim) => x[0].aminmax(dim, a.flag("keepdim"))?,
                };
                gradient FULL_CUBE Distinct |x| joined_pair(x[0].aminmax(1, true)?);
                random |x, _y, r| pair_of(if r.flag() { x.aminmax((), r.flag())? } else { x.aminmax(r.dim(), r.flag())? });
            }
            count_nonzero {
                golden |x, a| match a.get("dim") {
                    None => x[0].count_nonzero(())?,
                    Some(_) => x[0].count_nonzero(&a.ints("dim")[..])?,
                };
                random |x, _y, r| one_of(x.count_nonzero(&r.dims()[..]));
            }
            nan_to_num {
                golden |x, a| x[0].nan_to_num(a.float("nan").unwrap_or(0.0), a.float("posinf"), a.float("neginf"))?;
                gradient ANY Any |x| x[0].nan_to_num(0.5, None, Some(1.0));
                random |x, _y, r| one_of(x.nan_to_num(r.float(), Some(r.float()), None));
            }
            nansum {
                golden |x, a| match a.get("dim") {
                    None if a.flag("keepdim") => x[0].nansum_keepdim(())?,
                    None => x[0].nansum(())?,
                    Some(_) if a.flag("keepdim") => x[0].nansum_keepdim(&a.ints("dim")[..])?,
                    Some(_) => x[0].nansum(&a.ints("dim")[..])?,
                };
                gradient CUBE Any |x| x[0].nansum([0, 2]);
                random |x, _y, r| one_of(x.nansum(&r.dims()[..]));
            }
            nansum_keepdim {
                gradient CUBE Any |x| x[0].nansum_keepdim(1);
                random |x, _y, r| one_of(x.nansum_keepdim(&r.dims()[..]));
            }
            nanmean {
                golden |x, a| match a.get("dim") {
                    None if a.flag("keepdim") => x[0].nanmean_keepdim(())?,
                    None => x[0].nanmean(())?,
                    Some(_) if a.flag("keepdim") => x[0].nanmean_keepdim(&a.ints("dim")[..])?,
                    Some(_) => x[0].nanmean(&a.ints("dim")[..])?,
                };
                gradient FULL_CUBE Any |x| x[0].nanmean([0, 2]);
                random |x, _y, r| one_of(x.nanmean(&r.dims()[..]));
            }
            nanmean_keepdim {
                gradient FULL_CUBE Any |x| x[0].nanmean_keepdim(1);
                random |x, _y, r| one_of(x.nanmean_keepdim(&r.dims()[..]));
            }
            nanmedian {
                golden |x, a| match a.int("dim") {
                    None => vec![x[0].nanmedian_all()?],
                    Some(dim) => {
                        let (values, places) = x[0].nanmedian(dim, a.flag("keepdim"))?;
                        vec![values, places]
                    }
                };
                gradient FULL_CUBE Distinct |x| Ok(x[0].nanmedian(1, false)?.0);
                random |x, _y, r| pair_of(x.nanmedian(r.dim(), r.flag())?);
            }
            nanmedian_all {
                gradient FULL_CUBE Distinct |x| x[0].nanmedian_all();
                random |x, _y, _r| one_of(x.nanmedian_all());
            }
            quantile {
                golden |x, a| {
                    let (q, dim, keepdim) = (a.operand("q", x).unwrap(), a.int("dim"), a.flag("keepdim"));
                    match dim {
                        None => x[0].quantile(q, (), keepdim, interpolation(a))?,
                        Some(dim) => x[0].quantile(q, dim, keepdim, interpolation(a))?,
                    }
                };
                gradient FULL_CUBE Distinct |x| x[0].quantile(0.3, 1, false, kiln_tensor::Interpolation::Linear);
                gradient QUANTILES Distinct |x| x[0].quantile(&x[1].sigmoid()?, 1, true, kiln_tensor::Interpolation::Linear);
                random |x, _y, r| one_of(x.quantile(r.float(), r.dim(), r.flag(), kiln_tensor::Interpolation::Midpoint));
            }
            nanquantile {
                golden |x, a| {
                    let (q, dim, keepdim) = (a.operand("q", x).unwrap(), a.int("dim"), a.flag("keepdim"));
                    match dim {
                        None => x[0].nanquantile(q, (), keepdim, interpolation(a))?,
                        Some(dim) => x[0].nanquantile(q, dim, keepdim, interpolation(a))?,
                    }
                };
                gradient FULL_CUBE Distinct |x| x[0].nanquantile(0.3, 1, false, kiln_tensor::Interpolation::Linear);
                random |x, _y, r| one_of(x.nanquantile(r.float(), (), r.flag(), kiln_tensor::Interpolation::Nearest));
            }
            histc {
                golden |x, a| {
                    let (min, max) = (a.float("min").unwrap_or(0.0), a.float("max").unwrap_or(0.0));
                    x[0].histc(a.size("bins").unwrap_or(100), min, max)?
                };
                random |x, _y, r| one_of(x.histc(r.below(5), r.float(), r.float()));
            }
            bincount {
                golden |x, a| x[0].bincount(a.tensor("weights", x), a.size("minlength").unwrap_or(0))?;
                random |x, y, r| {
                    let numbers = r.index().flatten_all()?;
                    one_of(if r.flag() { numbers.bincount(None, r.below(5)) } else { x.bincount(Some(y), 1) })
                };
            }
            cov {
                golden |x, a| {
                    x[0].cov(a.float("correction").unwrap_or(1.0), a.tensor("fweights", x), a.tensor("aweights", x))?
                };
                gradient ROWS Any |x| x[0].cov(1.0, None, None);
                random |x, _y, r| one_of(x.cov(r.float(), None, None));
            }
            corrcoef {
                golden |x, _a| x[0].corrcoef()?;
                gradient TWO_ROWS Distinct |x| x[0].corrcoef()?.select(0, 0)?.select(0, 1);
                random |x, _y, _r| one_of(x.corrcoef());
            }
            cumprod {
                golden |x, a| a.dtype("dtype").map_or(Ok(x[0].clone()), |dtype| x[0].to_dtype(dtype))?.cumprod(a.int("dim").unwrap())?;
                gradient CUBE Any |x| x[0].cumprod(2);
                gradient ANY Any |x| x[0].cumprod(0);
                random |x, _y, r| one_of(x.cumprod(r.dim()));
            }
            logcumsumexp {
                golden |x, a| x[0].logcumsumexp(a.int("dim").unwrap())?;
                gradient CUBE Any |x| x[0].logcumsumexp(2);
                gradient ANY Any |x| x[0].logcumsumexp(0);
                random |x, _y, r| one_of(x.logcumsumexp(r.dim()));
            }
            diff {
                golden |x, a| {
                    let (prepend, append) = (a.tensor("prepend", x), a.tensor("append", x));
                    x[0].diff(a.size("n").unwrap_or(1), a.int("dim").unwrap_or(-1), prepend, append)?
                };
                gradient CUBE Any |x| x[0].diff(2, -1, None, None);
                gradient TWO_MATRICES Any |x| x[1].diff(1, 0, Some(&x[0]), None);
                random |x, y, r| one_of(x.diff(r.below(3), r.dim(), r.flag().then_some(y), None));
            }
            trapezoid {
                golden |x, a| trapezoids(x, a, |y, x, dim| y.trapezoid(x, dim))?;
                gradient CUBE Any |x| x[0].trapezoid(0.5, 1);
                gradient ROWS_AND_PLACES Any |x| x[0].trapezoid(&x[1], 0);
                random |x, y, r| one_of(if r.flag() { x.trapezoid(y, r.dim()) } else { x.trapezoid(r.scalar(), r.dim()) });
            }
            cumulative_trapezoid {
                golden |x, a| trapezoids(x, a, |y, x, dim| y.cumulative_trapezoid(x, dim))?;
                gradient CUBE Any |x| x[0].cumulative_trapezoid(0.5, 1);
                gradient ROWS_AND_PLACES Any |x| x[0].cumulative_trapezoid(&x[1], 0);
                random |x, y, r| one_of(if r.flag() { x.cumulative_trapezoid(y, r.dim()) } else { x.cumulative_trapezoid(2, r.dim()) });
            }
            unique {
                golden |x, a| match a.int("dim") {
                    None => distinct(a, x[0].unique()?),
                    Some(dim) => distinct(a, x[0].unique_dim(dim)?),
                };
                random |x, _y, _r| x.unique().map(|(a, b, c)| vec![a, b, c]);
            }
            unique_consecutive {
                golden |x, a| match a.int("dim") {
                    None => distinct(a, x[0].unique_consecutive()?),
                    Some(dim) => distinct(a, x[0].unique_consecutive_dim(dim)?),
                };
                random |x, _y, _r| x.unique_consecutive().map(|(a, b, c)| vec![a, b, c]);
            }
            unique_dim {
                random |x, _y, r| x.unique_dim(r.dim()).map(|(a, b, c)| vec![a, b, c]);
            }
            unique_consecutive_dim {
                random |x, _y, r| x.unique_consecutive_dim(r.dim()).map(|(a, b, c)| vec![a, b, c]);
            }
            isin {
                golden |x, a| {
                    a.get("assume_unique");
                    x[0].isin(&x[1], a.flag("invert"))?
                };
                random |x, y, r| one_of(x.isin(y, r.flag()));
            }
            bucketize {
                golden |x, a| {
                    let out = x[0].bucketize(&x[1], a.flag("right"))?;
                    if a.flag("out_int32") { out.to_dtype(kiln_tensor::DType::I32)? } else { out }
                };
                random |x, y, r| one_of(x.bucketize(&y.flatten_all()?, r.flag()));
            }
            msort {
                golden |x, _a| x[0].msort()?;
                gradient ROWS Distinct |x| x[0].msort();
                random |x, _y, _r| one_of(x.msort());
            }
        }
    };
}

macro_rules! composed_elementwise_rows {
    ($expand:ident) => {
        $expand! {
            logaddexp {
                golden |x, _a| x[0].logaddexp(&x[1])?;
                gradient PAIRS Any |x| x[0].logaddexp(&x[1]);
                random |x, y, r| one_of(x.logaddexp(operand(y, r)));
            }
            logaddexp2 {
                golden |x, _a| x[0].logaddexp2(&x[1])?;
                gradient PAIRS Any |x| x[0].logaddexp2(&x[1]);
                random |x, y, r| one_of(x.logaddexp2(operand(y, r)));
            }
            xlogy {
                golden |x, a| x[0].xlogy(other_of(x, a))?;
                gradient PAIRS Positive |x| x[0].xlogy(&x[1]);
                random |x, y, r| one_of(x.xlogy(operand(y, r)));
            }
            xlog1py {
                golden |x, a| x[0].xlog1py(other_of(x, a))?;
                gradient PAIRS Positive |x| x[0].xlog1py(&x[1]);
                random |x, y, r| one_of(x.xlog1py(operand(y, r)));
            }
            entr {
                golden |x, _a| x[0].entr()?;
                gradient ANY Positive |x| x[0].entr();
                random |x, _y, _r| one_of(x.entr());
            }
            hypot {
                golden |x, _a| x[0].hypot(&x[1])?;
                gradient PAIRS Any |x| x[0].hypot(&x[1]);
                random |x, y, r| one_of(x.hypot(operand(y, r)));
            }
            copysign {
                golden |x, a| x[0].copysign(other_of(x, a))?;
                gradient PAIRS Any |x| x[0].copysign(&x[1]);
                random |x, y, r| one_of(x.copysign(operand(y, r)));
            }
            signbit {
                golden |x, _a| x[0].signbit()?;
                random |x, _y, _r| one_of(x.signbit());
            }
            heaviside {
                golden |x, _a| x[0].heaviside(&x[1])?;
                random |x, y, _r| one_of(x.heaviside(y));
            }
            ldexp {
                golden |x, _a| x[0].ldexp(&x[1])?;
                gradient PAIRS Any |x| x[0].ldexp(&x[1]);
                random |x, y, _r| one_of(x.ldexp(y));
            }
            sinc {
                golden |x, _a| x[0].sinc()?;
                gradient ANY Any |x| x[0].sinc();
                random |x, _y, _r| one_of(x.sinc());
            }
            logit {
                golden |x, a| x[0].logit(a.float("eps"))?;
                gradient ANY Probability |x| x[0].logit(None);
                gradient ANY Probability |x| x[0].logit(Some(0.01));
                random |x, _y, r| one_of(x.logit(r.flag().then(|| r.float())));
            }
            frac {
                golden |x, _a| x[0].frac()?;
                gradient ANY Any |x| x[0].frac();
                random |x, _y, _r| one_of(x.frac());
            }
            deg2rad {
                golden |x, _a| x[0].deg2rad()?;
                gradient ANY Any |x| x[0].deg2rad();
                random |x, _y, _r| one_of(x.deg2rad());
            }
            rad2deg {
                golden |x, _a| x[0].rad2deg()?;
                gradient ANY Any |x| x[0].rad2deg();
                random |x, _y, _r| one_of(x.rad2deg());
            }
            isposinf {
                golden |x, _a| x[0].isposinf()?;
                random |x, _y, _r| one_of(x.isposinf());
            }
            isneginf {
                golden |x, _a| x[0].isneginf()?;
                random |x, _y, _r| one_of(x.isneginf());
            }
            fmax {
                golden |x, _a| x[0].fmax(&x[1])?;
                gradient PAIRS Distinct |x| x[0].fmax(&x[1]);
                random |x, y, _r| one_of(x.fmax(y));
            }
            fmin {
                golden |x, _a| x[0].fmin(&x[1])?;
                gradient PAIRS Distinct |x| x[0].fmin(&x[1]);
                random |x, y, _r| one_of(x.fmin(y));
            }
            float_power {
                golden |x, a| x[0].float_power(a.operand("exponent", x).unwrap_or_else(|| Rhs::from(&x[1])))?;
                gradient PAIRS Positive |x| x[0].float_power(&x[1]);
                random |x, y, r| one_of(x.float_power(operand(y, r)));
            }
            index_fill {
                golden |x, a| {
                    let value = a.operand("value", x).unwrap_or_else(|| Rhs::from(&x[2]));
                    x[0].index_fill(a.int("dim").unwrap(), a.tensor("index", x).unwrap(), value)?
                };
                gradient ROWS Any |x| x[0].index_fill(0, &numbers(&[2, 0], 2), 1.5);
                random |x, y, r| one_of(x.index_fill(r.dim(), &r.index().flatten_all()?, operand(y, r)));
            }
            index_copy {
                golden |x, a| {
                    x[0].index_copy(a.int("dim").unwrap(), a.tensor("index", x).unwrap(), a.tensor("source", x).unwrap())?
                };
                gradient BASE_AND_ROWS_2 Any |x| x[0].index_copy(0, &numbers(&[2, 0], 2), &x[1]);
                random |x, y, r| one_of(x.index_copy(r.dim(), &r.index(), if r.flag() { y } else { x }));
            }
            masked_scatter {
                golden |x, _a| x[0].masked_scatter(&x[1], &x[2])?;
                gradient TWO_EQUAL Any |x| x[0].masked_scatter(&x[0].detach().gt(0)?, &x[1]);
                random |x, y, r| one_of(x.masked_scatter(&r.mask(), y));
            }
            scatter_reduce {
                golden |x, a| {
                    let reduction = match a.text("reduce").unwrap() {
                        "sum" => kiln_tensor::ScatterReduction::Sum,
                        "mean" => kiln_tensor::ScatterReduction::Mean,
                        other => return Err(crate::suite::lacks(other)),
                    };
                    let with_self = a.get("include_self").is_none_or(|flag| flag.as_bool() == Some(true));
                    let (index, src) = (a.tensor("index", x).unwrap(), a.tensor("src", x).unwrap());
                    x[0].scatter_reduce(a.int("dim").unwrap(), index, src, reduction, with_self)?
                };
                gradient BASE_AND_SOURCE Any |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 2, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Mean, true)
                };
                gradient BASE_AND_SOURCE Any |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 2, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Sum, false)
                };
                random |x, y, r| one_of(x.scatter_reduce(r.dim(), &r.index(), y, kiln_tensor::ScatterReduction::Mean, r.flag()));
            }
            take {
                golden |x, a| x[0].take(a.tensor("index", x).unwrap())?;
                gradient ROWS Any |x| x[0].take(&numbers(&[5, 0, 0, -1], [2, 2]));
                random |x, _y, r| one_of(x.take(&r.index()));
            }
            put {
                golden |x, a| {
                    x[0].put(a.tensor("index", x).unwrap(), a.tensor("source", x).unwrap(), a.flag("accumulate"))?
                };
                gradient BASE_AND_SOURCE Any |x| x[0].put(&numbers(&[5, 0, 7, 1], [2, 2]), &x[1], false);
                gradient BASE_AND_SOURCE Any |x| x[0].put(&numbers(&[5, 0, 0, 1], [2, 2]), &x[1], true);
                random |x, y, r| one_of(x.put(&r.index(), y, r.flag()));
            }
            diag_embed {
                golden |x, a| {
                    let (dim1, dim2) = (a.int("dim1").unwrap_or(-2), a.int("dim2").unwrap_or(-1));
                    x[0].diag_embed(a.int("offset").unwrap_or(0), dim1, dim2)?
                };
                gradient MATRIX Any |x| x[0].diag_embed(1, 0, -1);
                gradient MATRIX Any |x| x[0].diag_embed(-1, -1, 1);
                random |x, _y, r| one_of(x.diag_embed(r.below(5) as i64 - 2, r.dim(), r.dim()));
            }
            diagflat {
                golden |x, a| x[0].diagflat(a.int("offset").unwrap_or(0))?;
                gradient MATRIX Any |x| x[0].diagflat(1);
                random |x, _y, r| one_of(x.diagflat(r.below(5) as i64 - 2));
            }
            diagonal_scatter {
                golden |x, a| {
                    let (dim1, dim2) = (a.int("dim1").unwrap_or(0), a.int("dim2").unwrap_or(1));
                    x[0].diagonal_scatter(&x[1], a.int("offset").unwrap_or(0), dim1, dim2)?
                };
                gradient BASE_AND_DIAGONAL Any |x| x[0].diagonal_scatter(&x[1], 1, 0, 1);
                random |x, y, r| {
                    let square = r.tensor_of(x.dtype(), &[2, 3]);
                    one_of(if r.flag() { square.diagonal_scatter(&square.diagonal(0, 0, 1)?, 0, 0, 1) } else { x.diagonal_scatter(y, 0, 0, 1) })
                };
            }
            select_scatter {
                golden |x, a| x[0].select_scatter(&x[1], a.int("dim").unwrap(), a.int("index").unwrap())?;
                gradient BASE_AND_COLUMN Any |x| x[0].select_scatter(&x[1], 1, -1);
                random |x, y, r| {
                    let rows = r.tensor_of(x.dtype(), &[2, 3]);
                    one_of(if r.flag() { rows.select_scatter(&rows.select(0, 0)?, 0, 0) } else { x.select_scatter(y, r.dim(), r.int()) })
                };
            }
            slice_scatter {
                golden |x, a| {
                    let (start, end) = (a.int("start").unwrap_or(0), a.int("end").unwrap_or(i64::MAX));
                    x[0].slice_scatter(&x[1], a.int("dim").unwrap_or(0), start, end, a.size("step").unwrap_or(1))?
                };
                gradient BASE_AND_ROWS_2 Any |x| x[0].slice_scatter(&x[1], 0, 1, 4, 2);
                random |x, y, r| one_of(if r.flag() { x.slice_scatter(x, r.dim(), 0, i64::MAX, 1) } else { x.slice_scatter(y, r.dim(), r.int(), r.int(), r.size()) });
            }
        }
    };
}
