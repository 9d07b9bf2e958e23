//! Learning-rate schedulers against PyTorch.

use std::sync::Arc;

use crate::common::{json, number};
use kiln_nn::optim::{
    Adagrad, Optimizer, SGD, SGDOptions,
    lr_scheduler::{
        Anneal, ChainedScheduler, ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR, CyclicMode,
        ExponentialLR, LambdaLR, LinearLR, LrRule, LrScheduler, MultiStepLR, MultiplicativeLR, OneCycleLR, PlateauMode,
        PolynomialLR, ReduceLROnPlateau, SWALR, SequentialLR, StepLR, ThresholdMode,
    },
};
use kiln_tensor::{Device, Result, Tensor};
use serde_json::Value;

/// A boxed rule as a rule.
struct Boxed(Box<dyn LrRule>);

impl LrRule for Boxed {
    fn validate(&self) -> Result<()> {
        self.0.validate()
    }
    fn next(&self, epoch: u64, base: f64, lr: f64) -> Result<f64> {
        self.0.next(epoch, base, lr)
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        self.0.at(epoch, base)
    }
    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        self.0.momentum(epoch)
    }
}

fn rule(kind: &str, args: &Value) -> Boxed {
    let integer = |name: &str| args[name].as_u64().unwrap_or_else(|| panic!("{name} in {args}"));
    let integers = |name: &str| args[name].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect::<Vec<_>>();
    Boxed(match kind {
        "StepLR" => Box::new(StepLR::new(integer("step_size")).gamma(number(args, "gamma", 0.1))),
        "MultiStepLR" => Box::new(MultiStepLR::new(integers("milestones")).gamma(number(args, "gamma", 0.1))),
        "ExponentialLR" => Box::new(ExponentialLR::new(number(args, "gamma", f64::NAN))),
        "ConstantLR" => Box::new(ConstantLR::new(number(args, "factor", 1.0 / 3.0), integer("total_iters"))),
        "LinearLR" => Box::new(
            LinearLR::new(number(args, "total_iters", 5.0) as u64)
                .start_factor(number(args, "start_factor", 1.0 / 3.0))
                .end_factor(number(args, "end_factor", 1.0)),
        ),
        "CosineAnnealingLR" => Box::new(CosineAnnealingLR::new(integer("T_max")).eta_min(number(args, "eta_min", 0.0))),
        "SequentialLR" => {
            let mut parts = args["schedulers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|part| rule(part["scheduler"].as_str().unwrap(), &part["args"]));
            let first = SequentialLR::new(parts.next().unwrap());
            Box::new(integers("milestones").into_iter().zip(parts).fold(first, |all, (m, part)| all.then(m, part)))
        }
        "ChainedScheduler" => {
            let mut parts = args["schedulers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|part| rule(part["scheduler"].as_str().unwrap(), &part["args"]));
            let first = ChainedScheduler::new(parts.next().unwrap());
            Box::new(parts.fold(first, ChainedScheduler::and))
        }
        "MultiplicativeLR" => {
            let factor = number(args, "factor", f64::NAN);
            Box::new(MultiplicativeLR::new(move |epoch| factor.powf(epoch as f64)))
        }
        "PolynomialLR" => {
            Box::new(PolynomialLR::new(number(args, "total_iters", 5.0) as u64).power(number(args, "power", 1.0)))
        }
        "CosineAnnealingWarmRestarts" => Box::new(
            CosineAnnealingWarmRestarts::new(integer("T_0"))
                .t_mult(number(args, "T_mult", 1.0) as u64)
                .eta_min(number(args, "eta_min", 0.0)),
        ),
        "CyclicLR" => {
            let mode = match (args["mode"].as_str(), args["scale_fn"].as_str()) {
                (_, Some("inverse")) => CyclicMode::PerCycle(Arc::new(|cycle| 1.0 / (1.0 + cycle))),
                (_, Some("wave")) => CyclicMode::PerStep(Arc::new(|step| (1.0 + step.cos()) / 2.0)),
                (Some("triangular2"), _) => CyclicMode::Triangular2,
                (Some("exp_range"), _) => CyclicMode::ExpRange(number(args, "gamma", 1.0)),
                _ => CyclicMode::Triangular,
            };
            let momentum = (number(args, "base_momentum", 0.8), number(args, "max_momentum", 0.9));
            let rule = CyclicLR::new(number(args, "base_lr", f64::NAN), number(args, "max_lr", f64::NAN))
                .step_size_up(number(args, "step_size_up", 2000.0) as u64)
                .mode(mode)
                .momentum((args["cycle_momentum"] != false).then_some(momentum));
            let down = args["step_size_down"].as_u64();
            Box::new(match down {
                Some(down) => rule.step_size_down(down),
                None => rule,
            })
        }
        "SWALR" => Box::new(
            SWALR::new(number(args, "swa_lr", f64::NAN))
                .anneal_epochs(number(args, "anneal_epochs", 10.0) as u64)
                .anneal_strategy(if args["anneal_strategy"] == "linear" { Anneal::Linear } else { Anneal::Cos }),
        ),
        "OneCycleLR" => {
            let total = args["total_steps"].as_u64().unwrap_or_else(|| integer("epochs") * integer("steps_per_epoch"));
            let momentum = (number(args, "base_momentum", 0.85), number(args, "max_momentum", 0.95));
            let linear = args["anneal_strategy"] == "linear";
            Box::new(
                OneCycleLR::new(number(args, "max_lr", f64::NAN), total)
                    .pct_start(number(args, "pct_start", 0.3))
                    .anneal_strategy(if linear { Anneal::Linear } else { Anneal::Cos })
                    .momentum((args["cycle_momentum"] != false).then_some(momentum))
                    .div_factor(number(args, "div_factor", 25.0))
                    .final_div_factor(number(args, "final_div_factor", 1e4))
                    .three_phase(args["three_phase"] == true),
            )
        }
        other => panic!("no scheduler {other}"),
    })
}

fn plateau(args: &Value) -> ReduceLROnPlateau {
    let abs = args["threshold_mode"] == "abs";
    ReduceLROnPlateau::new()
        .mode(if args["mode"] == "max" { PlateauMode::Max } else { PlateauMode::Min })
        .threshold_mode(if abs { ThresholdMode::Abs } else { ThresholdMode::Rel })
        .factor(number(args, "factor", 0.1))
        .patience(number(args, "patience", 10.0) as u64)
        .threshold(number(args, "threshold", 1e-4))
        .cooldown(number(args, "cooldown", 0.0) as u64)
        .min_lr(number(args, "min_lr", 0.0))
        .eps(number(args, "eps", 1e-8))
}

fn leaf() -> Tensor {
    Tensor::new(&[0f32], Device::Cpu).unwrap().requires_grad_(true).unwrap()
}

fn sgd(lr: f64) -> SGD {
    SGD::new([leaf()], SGDOptions::new(lr).momentum(0.9)).unwrap()
}

#[track_caller]
fn assert_rate(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= 1e-14 + 1e-12 * want.abs(), "{what}: {got:e}, PyTorch has {want:e}");
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

#[test]
fn rates_equal_pytorchs() {
    let golden = json("schedulers.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 50);
    for case in cases {
        let (name, kind, args) = (case["name"].as_str().unwrap(), case["scheduler"].as_str().unwrap(), &case["args"]);
        let (lrs, mut optimizer) = (numbers(&case["lrs"]), sgd(case["lr"].as_f64().unwrap()));
        if kind == "ReduceLROnPlateau" {
            let mut scheduler = plateau(args);
            for (step, metric) in numbers(&case["metrics"]).into_iter().enumerate() {
                assert_rate(optimizer.lr(), lrs[step], &format!("{name}, step {step}"));
                scheduler.step(metric, &mut optimizer).unwrap();
            }
            assert_rate(optimizer.lr(), lrs[lrs.len() - 1], name);
            continue;
        }
        let mut scheduler = LrScheduler::new(&mut optimizer, rule(kind, args)).unwrap();
        for (step, want) in lrs.iter().enumerate() {
            assert_rate(optimizer.lr(), *want, &format!("{name}, step {step}"));
            assert_eq!(scheduler.last_lr(), [optimizer.lr()]);
            if case["momentums"].is_array() {
                let want = numbers(&case["momentums"])[step];
                assert_rate(optimizer.rates()[0].momentum.unwrap(), want, &format!("momentum of {name}, step {step}"));
            }
            if step + 1 < lrs.len() {
                scheduler.step(&mut optimizer).unwrap();
            }
        }
    }
}

/// `at` without history and `next` step by step are one schedule.
#[test]
fn closed_forms_equal_the_recursion() {
    for case in json("schedulers.json")["cases"].as_array().unwrap() {
        let kind = case["scheduler"].as_str().unwrap();
        if kind == "ReduceLROnPlateau" {
            continue;
        }
        let (rule, base) = (rule(kind, &case["args"]), case["lr"].as_f64().unwrap());
        for (epoch, want) in numbers(&case["lrs"]).into_iter().enumerate() {
            let got = rule.at(epoch as u64, base).unwrap();
            assert!((got - want).abs() < 1e-10 * base.max(want), "{} at {epoch}: {got:e} {want:e}", case["name"]);
        }
    }
}

#[test]
fn a_loaded_scheduler_goes_on() {
    for case in json("schedulers.json")["cases"].as_array().unwrap() {
        let (kind, args, name) = (case["scheduler"].as_str().unwrap(), &case["args"], &case["name"]);
        let lr = case["lr"].as_f64().unwrap();
        let (mut whole, mut resumed) = (sgd(lr), sgd(lr));
        if kind == "ReduceLROnPlateau" {
            let metrics = numbers(&case["metrics"]);
            let mut first = plateau(args);
            metrics[..13].iter().for_each(|&m| first.step(m, &mut whole).unwrap());
            let mut second = plateau(args);
            resumed.load_state_dict(&whole.state_dict().unwrap()).unwrap();
            second.load_state_dict(&first.state_dict().unwrap()).unwrap();
            for &metric in &metrics[13..] {
                first.step(metric, &mut whole).unwrap();
                second.step(metric, &mut resumed).unwrap();
                assert_eq!(whole.lr(), resumed.lr(), "{name}");
            }
            continue;
        }
        let mut first = LrScheduler::new(&mut whole, rule(kind, args)).unwrap();
        (0..13).for_each(|_| first.step(&mut whole).unwrap());
        let mut second = LrScheduler::new(&mut resumed, rule(kind, args)).unwrap();
        resumed.load_state_dict(&whole.state_dict().unwrap()).unwrap();
        second.load_state_dict(&first.state_dict().unwrap()).unwrap();
        assert_eq!((second.last_epoch(), second.last_lr()), (13, first.last_lr()), "{name}");
        for _ in 13..29 {
            first.step(&mut whole).unwrap();
            second.step(&mut resumed).unwrap();
            assert_eq!(whole.rates(), resumed.rates(), "{name}");
        }
    }
}

#[test]
fn two_schedulers_multiply() {
    let mut optimizer = sgd(1.0);
    let mut step = LrScheduler::new(&mut optimizer, StepLR::new(2).gamma(0.5)).unwrap();
    let mut decay = LrScheduler::new(&mut optimizer, ExponentialLR::new(0.9)).unwrap();
    for _ in 0..4 {
        step.step(&mut optimizer).unwrap();
        decay.step(&mut optimizer).unwrap();
    }
    assert_rate(optimizer.lr(), 0.25 * 0.9f64.powi(4), "StepLR and ExponentialLR");
}

#[test]
fn groups_keep_their_ratio_and_lambdas_work() {
    let params: Vec<Tensor> = (0..2).map(|_| leaf()).collect();
    let group = |i: usize, lr| (vec![params[i].clone()], SGDOptions::new(lr));
    let mut optimizer = SGD::with_groups([group(0, 1.0), group(1, 0.1)]).unwrap();
    let mut scheduler = LrScheduler::new(&mut optimizer, LambdaLR::new(|epoch| 1.0 / (1 + epoch) as f64)).unwrap();
    scheduler.step(&mut optimizer).unwrap();
    assert_eq!(scheduler.last_lr(), [0.5, 0.05]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut optimizer = sgd(0.1);
    let mut refused = |rule: Box<dyn LrRule>, what: &str| {
        let error = LrScheduler::new(&mut optimizer, Boxed(rule)).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(optimizer.lr(), 0.1, "a refused rule must not change the rate");
    };
    refused(Box::new(StepLR::new(0)), "StepLR");
    refused(Box::new(LinearLR::new(5).start_factor(0.0)), "LinearLR");
    refused(Box::new(CosineAnnealingLR::new(0)), "CosineAnnealingLR");
    refused(Box::new(OneCycleLR::new(0.1, 0)), "OneCycleLR");
    refused(Box::new(PolynomialLR::new(0)), "PolynomialLR");
    refused(Box::new(CosineAnnealingWarmRestarts::new(0)), "CosineAnnealingWarmRestarts");
    refused(Box::new(CosineAnnealingWarmRestarts::new(3).t_mult(0)), "CosineAnnealingWarmRestarts");
    refused(Box::new(CyclicLR::new(0.1, 0.2).step_size_up(0)), "CyclicLR");
    refused(Box::new(CyclicLR::new(-0.1, 0.2)), "CyclicLR");
    refused(Box::new(SWALR::new(-0.1)), "SWALR");
    refused(Box::new(ChainedScheduler::new(StepLR::new(1)).and(StepLR::new(0))), "StepLR");
    refused(
        Box::new(SequentialLR::new(StepLR::new(1)).then(5, StepLR::new(1)).then(3, StepLR::new(1))),
        "SequentialLR",
    );
    assert!(ReduceLROnPlateau::new().factor(1.0).step(1.0, &mut optimizer).is_err());

    // The cycle ends, and the scheduler stays where it was.
    let mut scheduler = LrScheduler::new(&mut optimizer, OneCycleLR::new(0.1, 2)).unwrap();
    (0..2).for_each(|_| scheduler.step(&mut optimizer).unwrap());
    assert!(scheduler.step(&mut optimizer).unwrap_err().to_string().contains("step 3"));
    assert_eq!(scheduler.last_epoch(), 2);

    let param = leaf();
    let error = LrScheduler::new(&mut Adagrad::new([param], 0.1).unwrap(), OneCycleLR::new(0.1, 5)).unwrap_err();
    assert!(error.to_string().contains("no momentum"), "{error}");
}
