//! Rows of element-wise operations, and of those that write by index, that are composed of others, as `rows.rs`
//! describes them.

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
            nextafter {
                golden |x, _a| x[0].nextafter(&x[1])?;
                gradient PAIRS Distinct |x| x[0].nextafter(&x[1]);
                random |x, y, _r| one_of(x.nextafter(y));
            }
            ndtr {
                golden |x, _a| x[0].ndtr()?;
                gradient ANY Any |x| x[0].ndtr();
                random |x, _y, _r| one_of(x.ndtr());
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
                    let with_self = a.get("include_self").is_none_or(|flag| flag.as_bool() == Some(true));
                    let (index, src) = (a.tensor("index", x).unwrap(), a.tensor("src", x).unwrap());
                    x[0].scatter_reduce(a.int("dim").unwrap(), index, src, reduction_of(a), with_self)?
                };
                gradient BASE_AND_SOURCE Any |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 2, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Mean, true)
                };
                gradient BASE_AND_SOURCE Any |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 2, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Sum, false)
                };
                gradient BASE_AND_SOURCE Any |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 0, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Prod, true)
                };
                gradient BASE_AND_SOURCE Any |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 0, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Prod, false)
                };
                gradient BASE_AND_SOURCE Distinct |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 0, 2, 1], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Amin, true)
                };
                gradient BASE_AND_SOURCE Distinct |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 0, 2, 2], [2, 2]), &x[1], kiln_tensor::ScatterReduction::Amax, false)
                };
                gradient BASE_AND_SOURCE Distinct |x| {
                    x[0].scatter_reduce(1, &numbers(&[0, 3], [1, 2]), &x[1], kiln_tensor::ScatterReduction::Amax, true)
                };
                random |x, y, r| {
                    use kiln_tensor::ScatterReduction as R;
                    let reduction = r.pick(&[R::Sum, R::Mean, R::Prod, R::Amin, R::Amax]);
                    one_of(x.scatter_reduce(r.dim(), &r.index(), y, reduction, r.flag()))
                };
            }
            index_reduce {
                golden |x, a| {
                    let with_self = a.get("include_self").is_none_or(|flag| flag.as_bool() == Some(true));
                    let (index, source) = (a.tensor("index", x).unwrap(), a.tensor("source", x).unwrap());
                    x[0].index_reduce(a.int("dim").unwrap(), index, source, reduction_of(a), with_self)?
                };
                gradient BASE_AND_ROWS Any |x| {
                    x[0].index_reduce(0, &numbers(&[0, 2, 2, 1], 4), &x[1], kiln_tensor::ScatterReduction::Prod, true)
                };
                gradient BASE_AND_ROWS Distinct |x| {
                    x[0].index_reduce(0, &numbers(&[0, 2, 2, 0], 4), &x[1], kiln_tensor::ScatterReduction::Amax, false)
                };
                random |x, y, r| {
                    use kiln_tensor::ScatterReduction as R;
                    let reduction = r.pick(&[R::Sum, R::Mean, R::Prod, R::Amin, R::Amax]);
                    let index = r.index().flatten_all()?;
                    let dim = r.dim();
                    let source = if r.flag() { None } else { x.index_select(dim, &index).ok() };
                    let source = source.unwrap_or_else(|| y.clone());
                    one_of(x.index_reduce(dim, &index, &source, reduction, r.flag()))
                };
            }
            frexp {
                golden |x, _a| x[0].frexp()?;
                gradient ANY Any |x| Ok(x[0].frexp()?.0);
                random |x, _y, _r| pair_of(x.frexp()?);
            }
            mvlgamma {
                golden |x, a| x[0].mvlgamma(a.size("p").unwrap())?;
                gradient ANY AboveOne |x| x[0].mvlgamma(3);
                random |x, _y, r| one_of(x.mvlgamma(r.below(5)));
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
