//! `MixedPrecision`, the optimizer wrapper for models in half precision.

use kiln_nn::optim::{Adam, MixedPrecision, Optimizer, SGD, SGDOptions, clip_grad_norm_};
use kiln_tensor::{DType, Device, Result, Tensor};

fn parameter(values: &[f32], dtype: DType) -> Result<Tensor> {
    let parameter = Tensor::new(values, Device::Cpu)?.to_dtype(dtype)?;
    parameter.set_requires_grad(true)?;
    Ok(parameter)
}

fn sgd(parameter: &Tensor, lr: f64) -> Result<MixedPrecision<SGD>> {
    MixedPrecision::new([("p".to_owned(), parameter.clone())], |wide| SGD::new(wide, lr))
}

/// One step down the slope `factor`.
fn step(optimizer: &mut dyn Optimizer, parameter: &Tensor, factor: f64) -> Result<()> {
    optimizer.zero_grad();
    optimizer.backward(&parameter.to_dtype(DType::F32)?.mul(factor)?.sum(())?)?;
    optimizer.step()
}

#[test]
fn small_steps_add_up() -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        let (mixed, half) = (parameter(&[1.0], dtype)?, parameter(&[1.0], dtype)?);
        let (mut good, mut bad) = (sgd(&mixed, 1e-4)?, SGD::new([half.clone()], 1e-4)?);
        for _ in 0..1000 {
            step(&mut good, &mixed, 1.0)?;
            step(&mut bad, &half, 1.0)?;
        }
        let value = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec::<f32>();
        assert!((value(&mixed)?[0] - 0.9).abs() < 2e-3, "{dtype}: {:?}", value(&mixed)?);
        assert_eq!(value(&half)?, [1.0], "{dtype} alone stays where it is");
    }
    Ok(())
}

#[test]
fn small_gradients_are_scaled_and_infinite_ones_skipped() -> Result<()> {
    let x = parameter(&[1.0, 2.0], DType::F16)?;
    let mut optimizer = sgd(&x, 1e6)?;
    step(&mut optimizer, &x, 1e-8)?;
    let want = [0.99f32, 1.99];
    for (got, want) in optimizer.state_dict()?["wide.p"].to_vec::<f32>()?.iter().zip(want) {
        assert!((got - want).abs() < 1e-5, "{got} instead of {want}");
    }
    // 3 · 65536 is more than f16 holds.
    let before = x.to_dtype(DType::F32)?.to_vec::<f32>()?;
    step(&mut optimizer, &x, 3.0)?;
    assert_eq!((x.to_dtype(DType::F32)?.to_vec::<f32>()?, optimizer.loss_scale()), (before, 32768.0));
    for _ in 0..2000 {
        assert_eq!(optimizer.loss_scale(), 32768.0);
        step(&mut optimizer, &x, 0.0)?;
    }
    assert_eq!(optimizer.loss_scale(), 65536.0);
    Ok(())
}

#[test]
fn a_run_goes_on_bit_for_bit() -> Result<()> {
    let run = |x: &Tensor, optimizer: &mut dyn Optimizer, steps: std::ops::Range<i32>| {
        steps.into_iter().try_for_each(|i| step(optimizer, x, f64::from(i).sin()))
    };
    let make = |x: &Tensor| {
        let options = SGDOptions::new(0.01).momentum(0.9);
        MixedPrecision::new([("p".to_owned(), x.clone())], |wide| SGD::new(wide, options))
    };
    let (whole, first, second) = (
        parameter(&[0.3, -4.0], DType::F16)?,
        parameter(&[0.3, -4.0], DType::F16)?,
        parameter(&[0.0, 0.0], DType::F16)?,
    );
    run(&whole, &mut make(&whole)?, 0..20)?;
    let mut optimizer = make(&first)?;
    run(&first, &mut optimizer, 0..10)?;
    let state = optimizer.state_dict()?;
    let mut optimizer = make(&second)?;
    optimizer.load_state_dict(&state)?;
    run(&second, &mut optimizer, 10..20)?;
    assert!(second.equal(&whole)?);

    let mut without = state.clone();
    without.shift_remove("wide.p");
    assert!(optimizer.load_state_dict(&without).unwrap_err().to_string().contains("wide.p"));
    let mut other = state;
    other.insert("wide.p".into(), Tensor::zeros(3, Device::Cpu)?);
    assert!(optimizer.load_state_dict(&other).is_err());
    Ok(())
}

/// What is wide already is optimized as it is, with others that are not.
#[test]
fn precisions_are_mixed() -> Result<()> {
    let (half, full) = (parameter(&[1.0], DType::F16)?, parameter(&[1.0], DType::F32)?);
    let named = [("half".to_owned(), half.clone()), ("full".to_owned(), full.clone())];
    let mut optimizer = MixedPrecision::new(named, |wide| Adam::new(wide, 0.125))?;
    // A gradient of 1, scaled, would be more than f16 holds.
    optimizer.backward(&half.to_dtype(DType::F32)?.add(&full)?.sum(())?.mul(0.01)?)?;
    optimizer.step()?;
    assert!((full.item::<f32>()? - 0.875).abs() < 1e-5);
    assert!((half.to_dtype(DType::F32)?.item::<f32>()? - 0.875).abs() < 1e-3);
    assert!(optimizer.unused_parameters().is_empty() && optimizer.inner().lr() == 0.125);
    optimizer.zero_grad();
    assert!(optimizer.step().is_err(), "nothing would be learned");
    assert!(MixedPrecision::new([("i".to_owned(), Tensor::arange(0, 3, Device::Cpu)?)], |w| SGD::new(w, 0.1)).is_err());
    Ok(())
}

/// Clipping sees gradients as they are without the scale; what was clipped is what the step takes.
#[test]
fn clipping_by_norm_sees_unscaled_gradients() -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let x = parameter(&[1.0, 2.0], dtype)?;
        let mut optimizer = sgd(&x, 1.0)?;
        for _ in 0..2 {
            let before = optimizer.parameters()[0].to_vec::<f32>()?;
            optimizer.zero_grad();
            optimizer.backward(&x.to_dtype(DType::F32)?.mul(&Tensor::new([0.03f32, 0.04], Device::Cpu)?)?.sum(())?)?;
            optimizer.unscale_()?;
            // Once is enough, and twice does no harm.
            optimizer.unscale_()?;
            let norm = clip_grad_norm_(optimizer.parameters(), 0.025, 2.0)?;
            assert!((norm.item::<f32>()? - 0.05).abs() < 1e-4, "{dtype}: {norm}");
            optimizer.step()?;
            for (i, want) in [0.015f32, 0.02].into_iter().enumerate() {
                let change = before[i] - optimizer.parameters()[0].to_vec::<f32>()?[i];
                assert!((change - want).abs() < 1e-4, "{dtype}: {change} instead of {want}");
            }
        }
        // A step that was given up leaves nothing behind.
        optimizer.unscale_()?;
        optimizer.zero_grad();
        step(&mut optimizer, &x, 0.0)?;
    }
    Ok(())
}
