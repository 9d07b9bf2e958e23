//! Sums, counts and fractions in half precision: computed in `f32` and rounded once, also where half precision cannot
//! represent intermediate values (a count of 70,000) or loses terms (2048 + 1 is 2048).

use kiln_tensor::{DType, Device, Result, Tensor, autograd::BackwardOptions};

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

fn rounded(value: f64, dtype: DType) -> Result<f64> {
    Tensor::new(&[value], Device::Cpu)?.to_dtype(dtype)?.to_dtype(DType::F64)?.item()
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.to_vec()
}

fn gradient(x: &Tensor) -> Result<Vec<f64>> {
    values(&x.grad().expect("the tensor requires gradients"))
}

#[test]
fn ten_thousand_ones_at_one_place() -> Result<()> {
    const COUNT: usize = 10_000;
    for dtype in HALVES {
        let want = rounded(COUNT as f64, dtype)?;
        let zeros = |dims: &[usize]| Tensor::zeros(dims, dtype);
        let index = Tensor::zeros([COUNT], DType::I64)?;
        let ones = Tensor::ones([COUNT], dtype)?;
        assert_eq!(values(&zeros(&[2])?.index_add(0, &index, &ones)?)?, [want, 0.0]);
        assert_eq!(values(&zeros(&[2])?.scatter_add(0, &index, &ones)?)?, [want, 0.0]);

        let x = zeros(&[2])?.requires_grad_(true)?;
        x.gather(0, &index)?.backward_with(&ones, BackwardOptions::default())?;
        assert_eq!(gradient(&x)?, [want, 0.0], "gather");
        x.zero_grad();
        x.index_select(0, &index)?.backward_with(&ones, BackwardOptions::default())?;
        assert_eq!(gradient(&x)?, [want, 0.0], "index_select");

        let table = zeros(&[2, 3])?.requires_grad_(true)?;
        table
            .embedding(&index.reshape([100, 100])?, None, false)?
            .backward_with(&Tensor::ones([100, 100, 3], dtype)?, BackwardOptions::default())?;
        assert_eq!(gradient(&table)?, [want, want, want, 0.0, 0.0, 0.0], "embedding");
    }
    Ok(())
}

#[test]
fn counts_above_the_largest_f16() -> Result<()> {
    const COUNT: usize = 70_000;
    let share = rounded(1.0 / COUNT as f64, DType::F16)?;
    let same = Tensor::ones([COUNT], DType::F16)?.requires_grad_(true)?;
    type Reduction = fn(&Tensor) -> Result<Tensor>;
    let reductions: [(&str, Reduction); 6] = [
        ("mean", |x| x.mean(())),
        ("max", |x| x.max(())),
        ("amin", |x| x.amin(())),
        ("amax", |x| x.amax(0)),
        ("infinity norm", |x| x.norm(f64::INFINITY, ())),
        ("smallest norm", |x| x.norm(f64::NEG_INFINITY, ())),
    ];
    for (name, reduction) in reductions {
        same.zero_grad();
        let y = reduction(&same)?;
        assert_eq!(values(&y)?, [1.0], "{name}");
        y.backward()?;
        assert!(gradient(&same)?.iter().all(|&g| g == share), "{name}: {}, not {share}", gradient(&same)?[0]);
    }

    // Half of the elements are 1 and half are -1: the slope of std is x / n, that of var 2 x / n, of population statistics.
    let signs: Vec<f64> = (0..COUNT).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let x = Tensor::new(&signs[..], Device::Cpu)?.to_dtype(DType::F16)?.detach().requires_grad_(true)?;
    for (name, y, slope) in [("std", x.std((), 0.0)?, 1.0), ("var", x.var((), 0.0)?, 2.0)] {
        x.zero_grad();
        assert_eq!(values(&y)?, [1.0], "{name}");
        y.backward()?;
        let want = rounded(slope / COUNT as f64, DType::F16)?;
        assert!(
            gradient(&x)?.iter().zip(&signs).all(|(g, sign)| *g == sign * want),
            "{name}: {:?}",
            &gradient(&x)?[..2]
        );
    }
    Ok(())
}

/// Numbers in -1..1 that both half types have.
fn numbers(dims: &[usize], seed: usize) -> Result<Tensor> {
    let n: usize = dims.iter().product();
    let values: Vec<f64> = (0..n).map(|i| ((i * 37 + seed * 11) % 255) as f64 / 128.0 - 1.0).collect();
    Tensor::new(&values[..], Device::Cpu)?.reshape(dims)
}

/// Runs `f` on leaves of a half type and on the same values in `f64`; output and gradients must be as near as rounding
/// once allows.
fn rounds_once(name: &str, inputs: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
    for dtype in HALVES {
        let run = |dtype: DType| -> Result<Vec<Vec<f64>>> {
            let leaves: Result<Vec<Tensor>> = inputs
                .iter()
                .enumerate()
                .map(|(i, dims)| numbers(dims, i)?.to_dtype(dtype)?.detach().requires_grad_(true))
                .collect();
            let leaves = leaves?;
            let y = f(&leaves)?;
            let incoming = numbers(y.dims(), 9)?.to_dtype(dtype)?;
            y.backward_with(&incoming, BackwardOptions::default())?;
            let mut all = vec![values(&y)?];
            for leaf in &leaves {
                all.push(gradient(leaf)?);
            }
            Ok(all)
        };
        let half_an_ulp = if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
        for (i, (got, want)) in run(dtype)?.iter().zip(&run(DType::F64)?).enumerate() {
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(0f64, |a, b| a.max(b.abs()));
            for (g, w) in got.iter().zip(want) {
                // Rounding once, and what `f32` loses where terms cancel.
                let bound = half_an_ulp * w.abs() * 1.01 + largest * 2e-6;
                assert!((g - w).abs() <= bound, "{name} {dtype}, result {i}: {g}, not {w}");
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_of_broadcast_factors_of_matmul() -> Result<()> {
    let factors: [(&[usize], &[usize]); 9] = [
        (&[5, 5, 10, 10], &[10]),
        (&[10], &[5, 5, 10, 4]),
        (&[5, 6, 7], &[7, 8]),
        (&[6, 7], &[5, 4, 7, 8]),
        (&[3, 1, 6, 7], &[1, 4, 7, 8]),
        (&[1, 4, 6, 7], &[3, 1, 7, 8]),
        (&[2, 1, 3, 6, 7], &[4, 3, 7, 5]),
        (&[2, 3, 4, 1, 7], &[3, 1, 7, 1]),
        (&[1, 6, 7], &[7, 8]),
    ];
    for (a, b) in factors {
        rounds_once(&format!("{a:?} @ {b:?}"), &[a, b], |x| x[0].matmul(&x[1]))?;
    }
    // Nothing to sum over.
    let a = Tensor::zeros([0, 3, 4], Device::Cpu)?.requires_grad_(true)?;
    let b = Tensor::ones([4, 2], Device::Cpu)?.requires_grad_(true)?;
    a.matmul(&b)?.sum(())?.backward()?;
    assert_eq!((a.grad().unwrap().dims(), gradient(&b)?), (&[0, 3, 4][..], vec![0.0; 8]));
    Ok(())
}

#[test]
fn group_norm_and_its_gradients() -> Result<()> {
    rounds_once("group_norm", &[&[3, 6, 5, 4], &[6], &[6]], |x| x[0].group_norm(3, Some(&x[1]), Some(&x[2]), 1e-5))?;
    rounds_once("group_norm without scale", &[&[4, 6, 7]], |x| x[0].group_norm(2, None, None, 1e-5))
}
