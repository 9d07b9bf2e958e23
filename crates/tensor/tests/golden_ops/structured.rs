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

    use crate::images::{bias, convolved, divisor, maxima, output_size, rule, sizes, windows};

    spatial_rows!(golden_rows);
}
