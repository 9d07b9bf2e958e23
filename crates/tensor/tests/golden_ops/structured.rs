//! Golden calls of the rows in `common`.

macro_rules! golden_rows {
    ($($op:ident {
        $(golden |$x:ident, $a:ident| $call:expr;)?
        $(gradient $shapes:ident $values:ident |$gx:ident| $gradient:expr;)*
        random |$rx:ident, $ry:ident, $rr:ident| $random:expr;
    })*) => {
        table! { $($($op => |$x, $a| $call;)?)* }
    };
}

pub mod scans {
    op_rows!(golden_rows);
}

pub mod spatial {
    use kiln_tensor::{Conv1d, Conv3d, Running};

    use crate::images::{bias, convolved, divisor, maxima, output_size, rule, sizes, unpooled_size, windows};

    spatial_rows!(golden_rows);
}

/// What rows of composed operations read from a case.
mod arguments {
    use kiln_tensor::{Interpolation, Result, Rhs, Scalar, Splits, Tensor};

    use crate::common::args::Args;

    /// A factor, 1 if it is not given.
    pub fn factor(a: &Args, name: &str) -> Scalar {
        a.scalar(name).unwrap_or(Scalar::Int(1))
    }

    pub fn each_of(x: &[Tensor], f: fn(&Tensor) -> Result<Tensor>) -> Result<Vec<Tensor>> {
        x.iter().map(f).collect()
    }

    /// A number of parts, or indices, which may be a tensor.
    pub fn splits(x: &[Tensor], a: &Args) -> Splits {
        const NAME: &str = "indices_or_sections";
        match a.tensor(NAME, x) {
            Some(number) if number.rank() == 0 => Splits::Sections(number.item::<i64>().unwrap() as usize),
            Some(indices) => Splits::At(indices.to_vec::<i64>().unwrap()),
            None if a.get(NAME).is_some_and(serde_json::Value::is_array) => Splits::At(a.ints(NAME)),
            None => Splits::Sections(a.size(NAME).unwrap()),
        }
    }

    /// The standard deviation, or the variance, and the mean.
    pub fn spread_of(x: &Tensor, a: &Args, root: bool) -> Result<(Tensor, Tensor)> {
        let (correction, dims) = (crate::reducing::correction(a), a.get("dim").filter(|dim| !dim.is_boolean()));
        let list = if dims.is_some() { a.ints("dim") } else { Vec::new() };
        let dims = &list[..];
        match (root, a.flag("keepdim")) {
            (true, false) => x.std_mean(dims, correction),
            (true, true) => x.std_mean_keepdim(dims, correction),
            (false, false) => x.var_mean(dims, correction),
            (false, true) => x.var_mean_keepdim(dims, correction),
        }
    }

    pub fn interpolation(a: &Args) -> Interpolation {
        match a.text("interpolation") {
            Some("lower") => Interpolation::Lower,
            Some("higher") => Interpolation::Higher,
            Some("nearest") => Interpolation::Nearest,
            Some("midpoint") => Interpolation::Midpoint,
            _ => Interpolation::Linear,
        }
    }

    /// The places, or their distance, of an integral along a dimension.
    pub fn trapezoids(x: &[Tensor], a: &Args, f: fn(&Tensor, Rhs, i64) -> Result<Tensor>) -> Result<Tensor> {
        let places = a.tensor("x", x).map(Rhs::from);
        let places = places.unwrap_or_else(|| a.scalar("dx").unwrap_or(Scalar::Int(1)).into());
        f(&x[0], places, a.int("dim").unwrap_or(-1))
    }

    /// The parts of the result that a case asks for.
    pub fn distinct(a: &Args, (values, inverse, counts): (Tensor, Tensor, Tensor)) -> Vec<Tensor> {
        a.get("sorted");
        let mut parts = vec![values];
        parts.extend(a.flag("return_inverse").then_some(inverse));
        parts.extend(a.flag("return_counts").then_some(counts));
        parts
    }

    pub fn reduction_of(a: &Args) -> kiln_tensor::ScatterReduction {
        use kiln_tensor::ScatterReduction as R;
        match a.text("reduce") {
            Some("mean") => R::Mean,
            Some("prod") => R::Prod,
            Some("amin") => R::Amin,
            Some("amax") => R::Amax,
            _ => R::Sum,
        }
    }

    /// The second operand, a tensor or a number.
    pub fn other_of(x: &[Tensor], a: &Args) -> Rhs {
        a.scalar("other").map_or_else(|| Rhs::from(&x[1]), Rhs::from)
    }
}

pub mod composed {
    use super::arguments::{each_of, factor, splits};
    use crate::images::{embedding_bag, grid_options, interpolate_mode, interpolated, sizes, sliding_window};

    composed_rows!(golden_rows);
}

pub mod statistics {
    use super::arguments::{distinct, interpolation, spread_of, trapezoids};

    composed_statistics_rows!(golden_rows);
}

pub mod elementwise {
    use kiln_tensor::Rhs;

    use super::arguments::{other_of, reduction_of};

    composed_elementwise_rows!(golden_rows);
}
