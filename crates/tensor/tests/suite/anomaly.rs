//! Anomaly mode: the first result or gradient that is not finite is named with the line of its operation.

use kiln_tensor::{
    DType, Device, ErrorKind, Result, Tensor, autocast,
    autograd::{BackwardCtx, Function, FunctionCtx, anomaly, apply, detect_anomaly, is_anomaly_enabled},
    no_grad,
};

fn leaf(values: &[f32]) -> Tensor {
    Tensor::new(values, Device::Cpu).unwrap().requires_grad_(true).unwrap()
}

/// The operation, the message and the line of an anomaly.
fn anomaly_of<T>(result: Result<T>) -> (String, String, u32) {
    let Err(error) = result else { panic!("no anomaly") };
    let location = error.location().unwrap();
    assert_eq!(location.file(), file!());
    let ErrorKind::Anomaly { op, message } = error.kind() else { panic!("another error: {error}") };
    (op.clone(), message.clone(), location.line())
}

#[test]
fn a_result_is_named_with_its_line() {
    let x = leaf(&[1.0, 0.0, 2.0]);
    let mut line = 0;
    let (op, message, at) = anomaly_of(detect_anomaly(|| {
        let y = x.add(1.0)?.sub(1.0)?;
        line = line!() + 1;
        let z = y.log()?;
        z.exp()?.sum(())
    }));
    assert_eq!((op.as_str(), at), ("log", line));
    assert!(message.contains("[3], f32") && message.contains("1 of 3, first -inf at [1]"), "{message}");
}

#[test]
fn a_gradient_is_named_with_the_line_of_the_forward_pass() {
    let x = leaf(&[4.0, 0.0]);
    let _guard = anomaly(true);
    let line = line!() + 1;
    let y = x.sqrt().unwrap();
    let loss = y.sum(()).unwrap();
    let (op, message, at) = anomaly_of(loss.backward());
    assert_eq!((op.as_str(), at), ("SqrtBackward0", line));
    assert!(message.contains("first inf at [1]") && message.contains(&format!("anomaly.rs:{line}:")), "{message}");
}

#[test]
fn a_forward_pass_outside_of_the_mode_tells_no_line() {
    let loss = leaf(&[0.0]).sqrt().unwrap().sum(()).unwrap();
    let (op, message, at) = anomaly_of({
        let _guard = anomaly(true);
        loss.backward()
    });
    assert_eq!((op.as_str(), at), ("SqrtBackward0", line!() - 2));
    assert!(message.contains("did not run in anomaly mode"), "{message}");
}

#[test]
fn what_is_not_finite_from_the_start_is_found_by_its_first_use() {
    let data = Tensor::new(&[f32::NAN, 1.0], Device::Cpu).unwrap();
    let (op, message, _) = anomaly_of(detect_anomaly(|| leaf(&[1.0, 1.0]).mul(&data)));
    assert_eq!(op, "mul");
    assert!(message.contains("operand 1 was not finite before"), "{message}");
    // Infinities that the program has written, such as masks, are none until they become NaN.
    let scores = leaf(&[1.0, 2.0]);
    let mask = Tensor::new(&[true, false], Device::Cpu).unwrap();
    detect_anomaly(|| {
        let masked = scores.masked_fill(&mask, f64::NEG_INFINITY)?;
        let added = scores.add(&Tensor::new(&[0.0, f32::NEG_INFINITY], Device::Cpu)?)?;
        masked.softmax(0)?.add(&added.softmax(0)?)?.square()?.sum(())?.backward()
    })
    .unwrap();
    let (op, ..) = anomaly_of(detect_anomaly(|| {
        let masked = scores.masked_fill(&mask, f64::NEG_INFINITY)?;
        masked.sub(&masked)
    }));
    assert_eq!(op, "sub");
}

/// What operations compute for themselves may be infinite where it is not used.
#[test]
fn parts_of_operations_are_not_anomalies() -> Result<()> {
    let x = leaf(&[300.0, -1.0, 0.5]);
    detect_anomaly(|| {
        x.elu(1.0)?.add(&x.celu(1.0)?)?.add(&x.softplus_beta(2.0, 20.0)?)?.sum(())?.backward()?;
        no_grad(|| x.elu(1.0)).map(drop)
    })
}

/// `x / 0` in the direction that is asked for.
struct Broken {
    forward: bool,
}

impl Function for Broken {
    fn name(&self) -> &str {
        "Broken"
    }

    fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        inputs[0].div(if self.forward { 0.0 } else { 1.0 })
    }

    fn backward(&self, _: &BackwardCtx<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.div(0.0)?)])
    }
}

#[test]
fn custom_functions_are_named() {
    let x = leaf(&[1.0]);
    let (op, ..) = anomaly_of(detect_anomaly(|| apply(Broken { forward: true }, &[&x])));
    assert!(op.contains("Broken"), "{op}");
    let (op, ..) = anomaly_of(detect_anomaly(|| apply(Broken { forward: false }, &[&x])?.sum(())?.backward()));
    assert_eq!(op, "BrokenBackward");
}

#[test]
fn overflow_of_half_precision_is_found_in_both_directions() {
    let x = leaf(&[300.0, 1.0]);
    let (op, message, _) =
        anomaly_of(detect_anomaly(|| autocast(DType::F16, || x.reshape([1, 2])?.matmul(&x.mul(300.0)?))));
    assert_eq!(op, "matmul");
    assert!(message.contains("f16"), "{message}");
    let (op, ..) = anomaly_of(detect_anomaly(|| {
        let loss = autocast(DType::F16, || leaf(&[1.0; 4]).reshape([2, 2])?.matmul(&x)?.sum(()))?;
        loss.mul(1e6)?.backward()
    }));
    assert!(op.ends_with("Backward0"), "{op}");
}

#[test]
fn the_mode_is_of_a_thread_and_ends_with_its_guard() -> Result<()> {
    let x = leaf(&[0.0]);
    {
        let _guard = anomaly(true);
        let off = anomaly(false);
        assert!(x.log().is_ok() && !is_anomaly_enabled());
        drop(off);
        assert!(x.log().is_err());
        let x = x.clone();
        std::thread::spawn(move || x.log().map(drop)).join().unwrap()?;
    }
    assert!(std::panic::catch_unwind(|| detect_anomaly(|| -> Result<()> { panic!("inside") })).is_err());
    assert!(!is_anomaly_enabled() && x.log().is_ok());
    // An ordinary error stays what it is.
    let error = detect_anomaly(|| x.matmul(&Tensor::zeros([2, 3], Device::Cpu)?)).unwrap_err();
    assert!(!matches!(error.kind(), ErrorKind::Anomaly { .. }));
    Ok(())
}

#[test]
fn empty_strided_and_integer_tensors() -> Result<()> {
    detect_anomaly(|| {
        let empty = Tensor::zeros([0, 3], Device::Cpu)?.requires_grad_(true)?;
        empty.log()?.sum(())?.backward()?;
        Tensor::arange(0, 4, (DType::I64, Device::Cpu))?.square()?.sum(())?;
        Ok(())
    })?;
    let x = leaf(&[1.0, 2.0, 0.0, 3.0, 4.0, 5.0]);
    let (_, message, _) = anomaly_of(detect_anomaly(|| x.reshape([2, 3])?.t()?.log()));
    assert!(message.contains("first -inf at [2, 0]"), "{message}");
    Ok(())
}
