//! Generates a test for each operation of the tables, named after the operation, so that `cargo test -p kiln-tensor
//! cumsum` runs it. Each calls `check_operation` of the test's crate with the name.

/// For each operation of the tables of element-wise operations.
#[macro_export]
macro_rules! unary_tests {
    ($names:tt $(UNARY($variant:ident, $method:ident, $($row:tt)*))*) => {
        $($crate::operation_test!($method);)*
    };
}

/// For each arithmetic operation of two operands.
#[macro_export]
macro_rules! arithmetic_tests {
    ($names:tt $(BINARY($variant:ident, $method:ident, $($row:tt)*))* $(COMPARISON $compared:tt)* $(BITWISE $combined:tt)*) => {
        $($crate::operation_test!($method);)*
    };
}

/// For each operation of two operands that gives truth values or bits.
#[macro_export]
macro_rules! comparison_tests {
    ($names:tt $(BINARY $row:tt)* $(COMPARISON($variant:ident, $method:ident, $($compared:tt)*))*
     $(BITWISE($bits:ident, $combine:ident, $($combined:tt)*))*) => {
        $($crate::operation_test!($method);)*
        $crate::operation_test!(gt);
        $crate::operation_test!(ge);
        $($crate::operation_test!($combine);)*
    };
}

/// For each operation that is not element-wise by a row.
#[macro_export]
macro_rules! structured_tests {
    ($($takes:ident { $($method:ident $gradient:tt)* })*) => {
        $($($crate::operation_test!($method);)*)*
    };
}

/// The same, without those that have no gradient.
#[macro_export]
macro_rules! differentiable_tests {
    ($($takes:ident { $($method:ident $gradient:tt)* })*) => {
        $($($crate::differentiable_tests!(@ $method $gradient);)*)*
    };
    (@ $method:ident -) => {};
    (@ $method:ident $gradient:tt) => { $crate::operation_test!($method); };
}

/// One test.
#[macro_export]
macro_rules! operation_test {
    ($method:ident) => {
        #[test]
        fn $method() {
            $crate::check_operation(stringify!($method));
        }
    };
}
