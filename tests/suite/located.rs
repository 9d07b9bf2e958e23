//! Errors carry their location: the line of the program, the layer, the operation that the user called.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use kiln::{
    Error, Result,
    nn::{BatchNorm2d, Conv2d, CrossEntropyLoss, Linear, MaxPool2d, ReLU, Sequential, functional, seq},
    optim::{Optimizer, SGD},
    prelude::*,
};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, Device::Cpu).unwrap()
}

/// The error and the line on which `f` was called, which is where its closure begins.
#[track_caller]
fn fails<T>(f: impl FnOnce() -> Result<T>) -> (Error, u32) {
    let line = std::panic::Location::caller().line();
    match f() {
        Ok(_) => panic!("line {line}: it was accepted"),
        Err(error) => (error, line),
    }
}

#[track_caller]
fn is_here((error, line): (Error, u32), parts: &[&str]) {
    let debug = format!("{error:?}");
    let location = error.location().unwrap_or_else(|| panic!("line {line}: no location: {debug}"));
    assert_eq!((location.file(), location.line()), (file!(), line), "{debug}");
    assert!(debug.contains(&format!("at {}:{line}:", file!())), "{debug}");
    for part in parts {
        assert!(debug.contains(part), "line {line}: {debug:?} does not say {part:?}");
    }
}

#[test]
fn the_line_of_the_program_is_named() {
    let (a, b) = (zeros(&[2, 3]), zeros(&[4, 5]));
    is_here(fails(|| a.matmul(&b)), &["matmul", "[2, 3]", "is_here(fails(|| a.matmul(&b))"]);
    is_here(fails(|| &a + &b), &["add"]);
    is_here(fails(|| a.add_(&b)), &["add_"]);
    is_here(fails(|| Tensor::zeros([usize::MAX, 2], Device::Cpu)), &["zeros"]);
    is_here(fails(|| functional::mse_loss(&a, &b)), &["mse_loss"]);
    is_here(fails(|| Linear::new(4, 2)?.forward(&a)), &["linear", "in Linear(in_features=4, out_features=2"]);
    is_here(fails(|| CrossEntropyLoss::new().forward(&a, &zeros(&[7]))), &["cross_entropy"]);
    is_here(fails(|| a.square()?.backward()), &["backward"]);
    is_here(fails(|| SGD::new([("w", a.clone())], -1.0)), &["-1"]);
    is_here(fails(|| a.einsum_of_nothing()), &["einsum"]);
    let frozen = zeros(&[1]).requires_grad_(true).unwrap();
    let mut optimizer = SGD::new([("w", frozen)], 0.1).unwrap();
    is_here(fails(|| optimizer.step()), &["w"]);
    is_here(fails(|| Linear::new(4, 2)?.to_dtype(DType::I64)), &["to_dtype"]);
}

/// Calls an operation that is no method.
trait Einsum {
    fn einsum_of_nothing(&self) -> Result<Tensor>;
}

impl Einsum for Tensor {
    #[track_caller]
    fn einsum_of_nothing(&self) -> Result<Tensor> {
        Tensor::einsum("ij,jk", &[self])
    }
}

/// An operation that is made of others fails under its own name.
#[test]
fn the_operation_is_the_one_that_was_called() {
    let x = zeros(&[2, 3]);
    is_here(fails(|| x.mm(&zeros(&[5, 1]))), &["mm: "]);
    is_here(fails(|| x.narrow(5, 0, 1)), &["narrow: "]);
    let (image, kernel) = (zeros(&[1, 3, 8, 8]), zeros(&[4, 2, 3, 3]));
    is_here(fails(|| x.linear(&zeros(&[4, 5]), None)), &["linear: "]);
    is_here(fails(|| x.linear_relu(&zeros(&[4, 5]), None)), &["linear_relu: "]);
    is_here(fails(|| x.linear_relu(&zeros(&[4, 3]), Some(&x))), &["linear_relu: "]);
    is_here(fails(|| image.conv2d(&kernel, None, &kiln::Conv2d::default())), &["conv2d: "]);
    is_here(fails(|| image.conv2d_relu(&kernel, None, &kiln::Conv2d::default())), &["conv2d_relu: "]);
    // A layer is fused with the ReLU after it, but that is not what the program wrote.
    is_here(fails(|| seq![Linear::new(4, 2)?, ReLU::new()].forward(&x)), &["linear: ", "in 0: Linear("]);
    is_here(fails(|| seq![Conv2d::new(4, 2, 3)?, ReLU::new()].forward(&image)), &["conv2d: ", "in 0: Conv2d("]);
    is_here(fails(|| x.take_along_dim(&zeros(&[2, 9]).to_dtype(DType::I64)?, 7)), &["take_along_dim: "]);
}

/// The lines that fail.
static FEATURES: AtomicU32 = AtomicU32::new(0);
static HEAD: AtomicU32 = AtomicU32::new(0);
static BROKEN: AtomicU32 = AtomicU32::new(0);

#[derive(Module)]
struct Net {
    pool: MaxPool2d,
    features: Sequential,
    head: Linear,
}

impl Module for Net {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        FEATURES.store(line!() + 1, Relaxed);
        let y = self.features.forward(x)?;
        HEAD.store(line!() + 1, Relaxed);
        self.head.forward(&self.pool.forward(&y)?)
    }
}

fn net() -> Net {
    let inner = seq![Linear::new(6, 6).unwrap(), ReLU::new()];
    let features = seq![Linear::new(4, 5).unwrap(), inner];
    Net { pool: MaxPool2d::new(2), features, head: Linear::new(6, 2).unwrap() }
}

#[test]
fn the_layer_is_named_by_its_path() {
    let net = net();
    // Nothing has gone over the modules yet: the path begins at the container.
    let (error, _) = fails(|| net.forward(&zeros(&[1, 4])));
    assert_eq!(error.layer().map(|layer| layer.path.as_str()), Some("1.0"));
    let _ = net.named_parameters();
    // A walk over a part of the model does not make paths shorter.
    let _ = net.features.named_parameters();
    let (error, _) = fails(|| net.forward(&zeros(&[1, 4])));
    let debug = format!("{error:?}");
    assert!(debug.contains("in features.1.0: Linear(in_features=6, out_features=6, bias=True)"), "{debug}");
    assert_eq!(error.location().map(|location| location.line()), Some(FEATURES.load(Relaxed)), "{debug}");
    assert!(debug.contains("let y = self.features.forward(x)?;"), "{debug}");

    // Of a layer without parameters that stands alone, the line tells which it is.
    let (error, _) = fails(|| Net { features: seq![], ..net }.forward(&zeros(&[1, 6])));
    assert!(format!("{error:?}").contains("in MaxPool2d(kernel_size=2"), "{error:?}");
    assert_eq!(error.location().map(|location| location.line()), Some(HEAD.load(Relaxed)));
}

#[derive(Module)]
struct Broken;

impl Module for Broken {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        BROKEN.store(line!() + 1, Relaxed);
        x.matmul(&x.unsqueeze(0)?)
    }
}

#[test]
fn modules_of_the_program_are_named_in_containers() {
    let model = seq![ReLU::new(), Broken];
    let (error, _) = fails(|| model.forward(&zeros(&[2, 3])));
    let debug = format!("{error:?}");
    assert!(debug.contains("in 1: Broken()"), "{debug}");
    assert_eq!(error.location().map(|location| location.line()), Some(BROKEN.load(Relaxed)), "{debug}");
}

/// What newcomers get wrong first is answered with what to do.
#[test]
fn frequent_mistakes_come_with_a_hint() {
    let conv = Conv2d::new(1, 6, 5).unwrap();
    is_here(fails(|| conv.forward(&zeros(&[8, 28, 28]))), &["[8, 28, 28]", "[6, 1, 5, 5]", "unsqueeze(1)"]);
    is_here(fails(|| conv.forward(&zeros(&[28, 28]))), &["[28, 28]", "unsqueeze(0)"]);
    is_here(fails(|| conv.forward(&zeros(&[2, 3, 28, 28]))), &["C = 3 channels", "[6, 1, 5, 5]"]);
    is_here(fails(|| conv.forward(&zeros(&[1, 3, 3]))), &["[1, 3, 3]"]);
    is_here(fails(|| MaxPool2d::new(4).forward(&zeros(&[1, 3, 3]))), &["[1, 3, 3]"]);
    is_here(fails(|| BatchNorm2d::new(3)?.forward(&zeros(&[3, 8, 8]))), &["[3, 8, 8]", "unsqueeze(0)"]);
    let loss = CrossEntropyLoss::new();
    is_here(fails(|| loss.forward(&zeros(&[8, 10]), &zeros(&[8]))), &["f32", "i64", "to_dtype(DType::I64)"]);
    is_here(fails(|| kiln::nn::NLLLoss::new().forward(&zeros(&[8, 10]), &zeros(&[8]))), &["f32", "i64"]);
    let x = zeros(&[3]).requires_grad_(true).unwrap();
    let grad = kiln::autograd::grad(&[&x.square().unwrap().sum(()).unwrap()], &[&x]).unwrap();
    is_here(fails(|| grad[0].sum(())?.backward()), &["create_graph"]);
}

/// The line of an operator's error is that on which its expression begins, as the compiler gives it; a later operator leaves
/// it as it is.
#[test]
fn an_operator_passes_the_error_on_with_its_line() {
    let (a, b) = (zeros(&[2, 3]), zeros(&[4, 5]));
    is_here(fails(|| &a * &b + &a), &["mul: ", "[2, 3]", "[4, 5]"]);
    is_here(fails(|| &a - &a * &b), &["mul: "]);
    is_here(fails(|| &a * &a + &b), &["add: "]);
    is_here(fails(|| 2.0 * &a / &b - &b), &["div: "]);
    let line = line!() + 1;
    let sum = &a * &b;
    let (error, _) = fails(|| sum + &a);
    assert_eq!(error.location().map(|location| location.line()), Some(line), "{error:?}");
}

/// In `calc!` each operator has a line and a column of its own, and calls keep theirs.
#[test]
#[rustfmt::skip]
fn calc_names_the_line_of_the_operator() {
    let (a, b) = (zeros(&[2, 3]), zeros(&[4, 5]));
    is_here(fails(|| calc!(a * b + 1.0)), &["mul: ", "[2, 3]", "[4, 5]"]);
    let check = |line: u32, column: u32, operation: &str, result: Result<Tensor>| {
        let error = result.unwrap_err();
        let found = error.location().map(|location| (location.line() - line, location.column()));
        assert_eq!(found, Some((1, column)), "{error:?}");
        assert!(error.to_string().starts_with(operation), "{error}");
    };
    check(line!(), 15, "mul: ", calc!(a * 2.0
          + a * b
          - a));
    check(line!(), 11, "sub: ", calc!(a * (1.0 + a
          - b) * 2.0));
    check(line!(), 11, "div: ", calc!(-(a % 2.0)
          / b + 1.0));
    check(line!(), 14, "lt: ", calc!((a > 0.0) &
          (b < a)));
    check(line!(), 15, "add: ", calc!(2.0 * a
          - a + b));
    check(line!(), 12, "matmul: ", calc!(a + a
          .matmul(&a)
          * b));
}

/// `Display` stays one line: it goes into logs, and into other errors.
#[test]
fn the_message_alone_is_one_line() {
    let (error, _) = fails(|| zeros(&[2, 3]).matmul(&zeros(&[4, 5])));
    assert!(!error.to_string().contains('\n') && !error.to_string().contains("located.rs"), "{error}");
}

/// Files and data: the line that opened them, and in a loader the sample.
#[test]
fn files_and_data_name_the_line() {
    use kiln::data::{FashionMNIST, TensorDataset, transforms::RandomRotation};
    is_here(fails(|| kiln::io::load("no/such/file.safetensors", Device::Cpu)), &["no/such/file.safetensors"]);
    is_here(fails(|| kiln::io::save("no/such/folder/x.safetensors", &net().state_dict())), &["no/such/folder"]);
    is_here(fails(|| kiln::io::Checkpoint::load("no/such/file.ckpt", Device::Cpu)), &["no/such/file.ckpt"]);
    is_here(fails(|| FashionMNIST::train().root("no/such/folder").load()), &["no/such/folder"]);
    is_here(fails(|| TensorDataset::new((zeros(&[2]), zeros(&[3])))), &["2", "3"]);
    is_here(fails(|| RandomRotation::new(-1.0)), &["-1"]);
}
