//! Copies of parameters in half precision that optimizers write for autocast, and gradients in half precision that they read:
//! training is, bit for bit, what it is if every forward pass converts its parameters, and every backward pass their gradients.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_nn::{
    Linear, Module, ModuleTree,
    optim::{
        Adam, AdamOptions, AdamW, GradScaler, Optimizer, RMSprop, RMSpropOptions, SGD, SGDOptions, clip_grad_norm_,
        clip_grad_value_,
    },
};
use kiln_tensor::{Conv2d, DType, Device, Result, Tensor, autocast, manual_seed, no_grad};

/// Two linear layers and a convolution whose filters are channels-last.
struct Net {
    filters: Tensor,
    weight: Tensor,
    bias: Tensor,
    head: Tensor,
}

impl Net {
    fn new() -> Result<Net> {
        manual_seed(3);
        let parameter = |t: Tensor| t.mul(0.3)?.requires_grad_(true);
        Ok(Net {
            filters: parameter(Tensor::randn([4, 3, 3, 3], Device::Cpu)?.channels_last()?)?,
            weight: parameter(Tensor::randn([6, 64], Device::Cpu)?)?,
            bias: parameter(Tensor::randn([6], Device::Cpu)?)?,
            head: parameter(Tensor::randn([2, 6], Device::Cpu)?)?,
        })
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        [("filters", &self.filters), ("weight", &self.weight), ("bias", &self.bias), ("head", &self.head)]
            .map(|(name, tensor)| (name.to_string(), tensor.clone()))
            .into()
    }

    /// The loss with operands in half precision: by a region, or converted by hand.
    fn loss(&self, x: &Tensor, low: Option<DType>, by_hand: bool) -> Result<Tensor> {
        let to = |t: &Tensor| if by_hand { low.map_or(Ok(t.clone()), |low| t.to_dtype(low)) } else { Ok(t.clone()) };
        let forward = || {
            let images = to(x)?.conv2d(&to(&self.filters)?, None, &Conv2d::default())?.relu()?;
            let features = images.reshape([x.dims()[0], 64])?.linear(&to(&self.weight)?, Some(&to(&self.bias)?))?;
            features.relu()?.linear(&to(&self.head)?, None)
        };
        let y = match low.filter(|_| !by_hand) {
            Some(low) => autocast(low, forward)?,
            None => forward()?,
        };
        y.to_dtype(DType::F32)?.square()?.mean(())
    }
}

fn bits(t: &Tensor) -> Result<Vec<u32>> {
    Ok(t.detach().to_dtype(DType::F32)?.to_vec::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// Tests draw from the generator of all threads, one after another.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn same(got: &[Vec<u32>], want: &[Vec<u32>], what: &str) {
    let first = got.iter().zip(want).position(|(got, want)| got != want);
    assert_eq!((first, got.len()), (None, want.len()), "{what}");
}

type Make = fn(&Net) -> Result<Box<dyn Optimizer>>;

/// Optimizers with each number of states, of which the last ones leave no room for the copy, and one without a fused step.
const OPTIMIZERS: [(&str, Make); 5] = [
    ("SGD", |net| Ok(Box::new(SGD::new(net.parameters(), 0.1)?))),
    ("SGD with momentum", |net| Ok(Box::new(SGD::new(net.parameters(), SGDOptions::new(0.05).momentum(0.9))?))),
    ("Adam", |net| Ok(Box::new(Adam::new(net.parameters(), AdamOptions::new(1e-2).amsgrad(true))?))),
    ("RMSprop", |net| Ok(Box::new(RMSprop::new(net.parameters(), RMSpropOptions::new(1e-2).momentum(0.5))?))),
    ("AdamW, by operations", |net| Ok(Box::new(AdamW::new(net.parameters(), 1e-2)?.fused(false)))),
];

/// A run in which whatever may happen to a parameter between two steps happens.
fn run(make: Make, low: DType, by_hand: bool) -> Result<Vec<Vec<u32>>> {
    let net = Net::new()?;
    let mut optimizer = make(&net)?;
    let mut left = Vec::new();
    for step in 0..16 {
        let x = Tensor::randn([3, 3, 6, 6], Device::Cpu)?;
        match step {
            // Changed by hand, before the region and between the forward pass and the step.
            4 => no_grad(|| net.weight.mul_(0.5))?,
            // Frozen, and not any more.
            6 => net.head.set_requires_grad(false)?,
            8 => net.head.set_requires_grad(true)?,
            _ => {}
        }
        optimizer.zero_grad();
        // Without autocast in between: the copies are of older values then.
        let loss = net.loss(&x, (step != 9).then_some(low), by_hand)?;
        left.push(bits(&loss)?);
        // A tape that is still to be used keeps the values that it was made with.
        let later = (step == 11).then(|| net.loss(&x, Some(low), by_hand)).transpose()?;
        loss.backward()?;
        if step == 12 {
            // Gradients of two batches.
            net.loss(&x.mul(2.0)?, Some(low), by_hand)?.backward()?;
        }
        if step == 13 {
            no_grad(|| net.head.add_(0.25))?;
        }
        for (_, parameter) in net.parameters().iter().filter(|_| by_hand) {
            // Reading gradients converts them, so this step has them in f32.
            assert!(parameter.grad().is_none_or(|grad| grad.dtype() == DType::F32));
            assert!(parameter.unconverted_grad().is_none_or(|grad| grad.dtype() == DType::F32));
        }
        optimizer.step()?;
        if let Some(later) = later {
            optimizer.zero_grad();
            later.backward()?;
            for (_, parameter) in net.parameters() {
                left.push(bits(&parameter.grad().unwrap())?);
            }
        }
        if step == 14 {
            // A second step by the same gradients.
            optimizer.step()?;
        }
        if step == 10 {
            // Another dtype, while the first one is in use.
            let other = if low == DType::F16 { DType::BF16 } else { DType::F16 };
            left.push(bits(&no_grad(|| net.loss(&x, Some(other), by_hand))?)?);
        }
        for (_, parameter) in net.parameters() {
            left.push(bits(&parameter)?);
        }
    }
    Ok(left)
}

#[test]
fn training_is_that_of_parameters_converted_by_hand() -> Result<()> {
    let _turn = turn();
    for (name, make) in OPTIMIZERS {
        for low in [DType::BF16, DType::F16] {
            same(&run(make, low, false)?, &run(make, low, true)?, &format!("{name}, {low}"));
        }
    }
    Ok(())
}

/// Steps that are skipped leave the copies with the parameters, also the first of all.
#[test]
fn steps_that_are_skipped_leave_copies_alone() -> Result<()> {
    let _turn = turn();
    let run = |make: Make, by_hand: bool| -> Result<Vec<Vec<u32>>> {
        let net = Net::new()?;
        let (mut optimizer, mut scaler) = (make(&net)?, GradScaler::new().init_scale(1024.0).growth_interval(3));
        let mut left = Vec::new();
        for step in 0..12 {
            let x = Tensor::randn([3, 3, 6, 6], Device::Cpu)?;
            let x = if [0, 1, 5].contains(&step) { x.mul(1e30)? } else { x };
            if step == 5 {
                no_grad(|| net.weight.mul_(0.5))?;
            }
            optimizer.zero_grad();
            let loss = net.loss(&x, Some(DType::F16), by_hand)?;
            scaler.scale(&loss)?.backward()?;
            if step == 5 {
                no_grad(|| net.head.mul_(0.5))?;
            }
            scaler.step(optimizer.as_mut())?;
            scaler.update()?;
            left.push(bits(&loss)?);
            for (_, parameter) in net.parameters() {
                left.push(bits(&parameter)?);
            }
        }
        Ok(left)
    };
    for (name, make) in OPTIMIZERS {
        same(&run(make, false)?, &run(make, true)?, name);
    }
    Ok(())
}

/// Two tensors with one memory are both changed by each of their steps.
#[test]
fn parameters_that_share_memory() -> Result<()> {
    let _turn = turn();
    let run = |by_hand: bool| -> Result<Vec<Vec<u32>>> {
        manual_seed(5);
        let first = Tensor::randn([4, 4], Device::Cpu)?.requires_grad_(true)?;
        let second = first.detach().requires_grad_(true)?;
        let mut optimizer = SGD::new([("a", &first), ("b", &second)], 0.1)?;
        let mut left = Vec::new();
        for _ in 0..5 {
            let x = Tensor::randn([3, 4], Device::Cpu)?;
            let to = |t: &Tensor| if by_hand { t.to_dtype(DType::BF16) } else { Ok(t.clone()) };
            let forward = || to(&x)?.matmul(&to(&first)?)?.matmul(&to(&second)?);
            let y = if by_hand { forward()? } else { autocast(DType::BF16, forward)? };
            optimizer.zero_grad();
            y.to_dtype(DType::F32)?.square()?.mean(())?.backward()?;
            optimizer.step()?;
            left.extend([bits(&y)?, bits(&first)?]);
        }
        Ok(left)
    };
    same(&run(false)?, &run(true)?, "shared");
    Ok(())
}

#[test]
fn filters_stay_channels_last() -> Result<()> {
    let _turn = turn();
    let filters = Tensor::randn([4, 3, 3, 3], Device::Cpu)?.channels_last()?;
    for dtype in [DType::BF16, DType::F16, DType::F64, DType::I32] {
        let converted = filters.to_dtype(dtype)?;
        assert!(converted.is_channels_last(), "{dtype}");
        assert_eq!(
            converted.to_dtype(DType::F64)?.to_vec::<f64>()?,
            filters.contiguous()?.to_dtype(dtype)?.to_dtype(DType::F64)?.to_vec::<f64>()?
        );
    }
    let low = filters.to_dtype(DType::BF16)?;
    assert!(low.to_dtype(DType::F32)?.is_channels_last());
    Ok(())
}

/// Both parameters and, where `reads`, gradients that were read before whatever used them.
fn trained(
    reads: bool,
    low: DType,
    step: &dyn Fn(&Net, &mut Adam, &mut GradScaler) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    let net = Net::new()?;
    let mut adam = Adam::new(net.parameters(), 1e-2)?;
    let mut scaler = GradScaler::new().init_scale(1024.0).growth_interval(3);
    let mut left = Vec::new();
    for number in 0..8 {
        let x = Tensor::randn([3, 3, 6, 6], Device::Cpu)?;
        // Some gradients are infinite in f16.
        let x = if number == 5 { x.mul(1e5)? } else { x };
        adam.zero_grad();
        scaler.scale(&net.loss(&x, Some(low), false)?)?.backward()?;
        for (_, parameter) in net.parameters() {
            let dtype = parameter.unconverted_grad().map(|grad| grad.dtype());
            assert_eq!(dtype, Some(low), "the pass has left it so");
            if reads {
                assert_eq!(parameter.grad().map(|grad| grad.dtype()), Some(DType::F32));
            }
        }
        step(&net, &mut adam, &mut scaler)?;
        left.extend(net.parameters().iter().map(|(_, parameter)| bits(parameter)).collect::<Result<Vec<_>>>()?);
        left.extend(adam.state_dict()?.values().map(bits).collect::<Result<Vec<_>>>()?);
        left.push(vec![(scaler.get_scale()? as f32).to_bits()]);
    }
    Ok(left)
}

#[test]
fn steps_read_gradients_in_half_precision() -> Result<()> {
    let _turn = turn();
    type Step = fn(&Net, &mut Adam, &mut GradScaler) -> Result<()>;
    let steps: [(&str, Step); 4] = [
        ("the scaler's step", |_, adam, scaler| scaler.step(adam).and_then(|()| scaler.update())),
        ("unscaled and clipped by norm", |_, adam, scaler| {
            scaler.unscale_(adam)?;
            clip_grad_norm_(adam.parameters(), 0.5, 2.0)?;
            scaler.step(adam)?;
            scaler.update()
        }),
        ("clipped by value", |_, adam, scaler| {
            scaler.unscale_(adam)?;
            clip_grad_value_(adam.parameters(), 0.01)?;
            scaler.step(adam)?;
            scaler.update()
        }),
        ("changed in place", |net, adam, scaler| {
            no_grad(|| net.weight.grad().map_or(Ok(()), |grad| grad.mul_(0.5)))?;
            scaler.step(adam)?;
            scaler.update()
        }),
    ];
    for (name, step) in steps {
        for low in [DType::BF16, DType::F16] {
            let what = format!("{name}, {low}");
            same(&trained(false, low, &step)?, &trained(true, low, &step)?, &what);
        }
    }
    Ok(())
}

/// A module that moves takes its gradients along, and an optimizer of other tensors finds none.
#[test]
fn gradients_move_with_their_module() -> Result<()> {
    let _turn = turn();
    let mut layer = Linear::new(3, 2)?;
    let old = layer.parameters();
    autocast(DType::BF16, || layer.forward(&Tensor::randn([4, 3], Device::Cpu)?)?.sum(()))?.backward()?;
    let want: Vec<_> = old.iter().map(|p| bits(&p.unconverted_grad().unwrap())).collect::<Result<_>>()?;
    layer = layer.to_dtype(DType::F64)?;
    for (parameter, want) in layer.parameters().iter().zip(want) {
        let grad = parameter.grad().unwrap();
        assert_eq!((grad.dtype(), bits(&grad)?), (DType::F64, want));
    }
    assert!(old.iter().all(|p| p.grad().is_none()));
    Ok(())
}
