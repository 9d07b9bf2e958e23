//! Golden calls of `common/rows.rs`.

macro_rules! golden_rows {
    ($($op:ident {
        golden |$x:ident, $a:ident| $call:expr;
        $(gradient $shapes:ident $values:ident |$gx:ident| $gradient:expr;)*
        random |$rx:ident, $ry:ident, $rr:ident| $random:expr;
    })*) => {
        table! { $($op => |$x, $a| $call;)* }
    };
}
op_rows!(golden_rows);
