//! Determinants of special matrices; what PyTorch can answer is compared in `crates/tensor/tests`.
use kiln_linalg::{Determinant, Real};

#[test]
fn determinants_have_the_sign_of_the_permutation() {
    let cases: [([f64; 9], f64); 3] = [
        ([0., 1., 0., 0., 0., 1., 1., 0., 0.], 1.0),
        ([0., 1., 0., 1., 0., 0., 0., 0., 1.], -1.0),
        ([0., 0., 2., 0., 3., 0., 4., 0., 0.], -24.0),
    ];
    for (a, det) in cases {
        let found = f64::determinant(&a, 3);
        assert_eq!((found.det, found.sign), (det, det.signum()));
        assert!((found.log_abs - det.abs().ln()).abs() < 1e-15);
    }
    assert_eq!(f32::determinant(&[], 0), Determinant { det: 1.0, sign: 1.0, log_abs: 0.0 });
}

/// A zero pivot is not always the last one.
#[test]
fn singular_matrices_have_the_determinant_zero() {
    let singular = Determinant { det: 0.0, sign: 0.0, log_abs: f64::NEG_INFINITY };
    for a in [[0.0; 9], [0., 0., 0., 0., 1., 2., 0., 2., 4.], [0., 1., 2., 0., 3., 4., 0., 5., 7.]] {
        assert_eq!(f64::determinant(&a, 3), singular);
        let mut b = [1.0; 3];
        assert!(f64::solve(&a, &mut b, 3, 1, false).is_err());
    }
    assert!(f64::determinant(&[f64::NAN, 1., 0., 0.], 2).det.is_nan());
}
