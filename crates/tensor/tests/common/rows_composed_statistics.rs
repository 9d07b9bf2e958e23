//! Rows of statistics that are composed of other operations, as `rows.rs` describes them.

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
                golden |x, a| match a.dtype("dtype") {
                    None => x[0].cumprod(a.int("dim").unwrap())?,
                    Some(dtype) => x[0].to_dtype(dtype)?.cumprod(a.int("dim").unwrap())?.to_dtype(dtype)?,
                };
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
            mode {
                golden |x, a| x[0].mode(a.int("dim").unwrap_or(-1), a.flag("keepdim"))?;
                gradient FULL_CUBE Distinct |x| Ok(x[0].mode(1, false)?.0);
                gradient FULL Distinct |x| Ok(x[0].mode(-1, true)?.0);
                random |x, _y, r| pair_of(x.mode(r.dim(), r.flag())?);
            }
            renorm {
                golden |x, a| x[0].renorm(a.float("p").unwrap(), a.int("dim").unwrap(), a.float("maxnorm").unwrap())?;
                gradient CUBE Any |x| x[0].renorm(2, 1, 0.7);
                gradient FULL_CUBE Positive |x| x[0].renorm(3, -1, 2.5);
                random |x, _y, r| one_of(x.renorm(r.float(), r.dim(), r.float()));
            }
            vander {
                golden |x, a| x[0].vander(a.size("N"), true)?;
                gradient VECTOR_OR_MATRIX Any |x| x[0].vander(Some(4), true);
                gradient VECTOR_OR_MATRIX Any |x| x[0].vander(None, false);
                random |x, _y, r| one_of(x.vander(r.flag().then(|| r.size()), r.flag()));
            }
            msort {
                golden |x, _a| x[0].msort()?;
                gradient ROWS Distinct |x| x[0].msort();
                random |x, _y, _r| one_of(x.msort());
            }
        }
    };
}
