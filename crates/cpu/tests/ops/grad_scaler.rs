//! Tests of `grad_scaler`.

use kiln_backend::{Arguments, DType, GradScalerBackend, UnscaleGradsArgs, UpdateScaleArgs};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, numbers};

fn one(dtype: DType, value: f64) -> Tensor {
    Tensor::new(dtype, &[], &[value])
}

#[test]
fn gradients_are_unscaled_and_infinities_are_found() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for len in [0, 1, 7, 511, 512, 513, 40_000] {
            // Where the value that is not finite lies, if there is one.
            let last = len - len.min(1);
            for (at, wild) in
                [(None, 0.0), (Some(0), f64::NAN), (Some(last), f64::INFINITY), (Some(len / 2), -f64::INFINITY)]
            {
                let mut values = numbers(len, 3);
                if let (Some(at), true) = (at, len > 0) {
                    values[at] = wild;
                }
                for scale in [None, Some(one(DType::F32, 4.0))] {
                    let mut grads = [Tensor::new(dtype, &[len], &values), Tensor::new(DType::F64, &[2], &[8.0, 1.0])];
                    let mut found = one(DType::F32, 0.0);
                    let args = UnscaleGradsArgs {
                        grads: grads.iter_mut().map(Tensor::view_mut).collect(),
                        scale: scale.as_ref().map(Tensor::view),
                        found_inf: found.view_mut(),
                    };
                    CpuBackend.unscale_grads(args.checked().unwrap()).unwrap();
                    let what = format!("{dtype}, {wild} at {at:?} of {len}");
                    assert_eq!(found.values(), [f64::from(u8::from(at.is_some() && len > 0))], "{what}");
                    let by = if scale.is_some() { 0.25 } else { 1.0 };
                    let want: Vec<f64> = values.iter().map(|x| x * by).collect();
                    assert_close(&grads[0].values(), &want, dtype, 1.0, &what);
                    assert_eq!(grads[1].values(), [8.0 * by, by], "{what}");
                }
            }
        }
    }
}

#[test]
fn the_scale_grows_and_backs_off() {
    let (mut scale, mut tracker, mut found) = (one(DType::F32, 3.0), one(DType::I32, 0.0), one(DType::F32, 0.0));
    let mut update = |set: Option<f64>, inf: f64| {
        if let Some(set) = set {
            scale = one(DType::F32, set);
        }
        found = one(DType::F32, inf);
        let args = UpdateScaleArgs {
            scale: scale.view_mut(),
            growth_tracker: tracker.view_mut(),
            found_inf: found.view_mut(),
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2,
        };
        CpuBackend.update_scale(args.checked().unwrap()).unwrap();
        assert_eq!(found.values(), [0.0], "the next step begins anew");
        (scale.values()[0], tracker.values()[0])
    };
    let got = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0].map(|inf| update(None, inf));
    assert_eq!(got, [(3.0, 1.0), (6.0, 0.0), (6.0, 1.0), (3.0, 0.0), (1.5, 0.0), (1.5, 1.0)]);
    // It does not grow beyond what f32 holds.
    assert_eq!(update(Some(3e38), 0.0), (f64::from(3e38f32), 0.0));
}
