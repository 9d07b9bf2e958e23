//! The Muon optimizer.

use kiln_tensor::{DType, Error, Result, Tensor, calc};

use super::{Choice, Hyperparameters, Optim, State, Update, UpdateRule, finite, non_negative};

/// Muon: a momentum that is orthogonalized by a Newton-Schulz iteration (Jordan et al., 2024;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.Muon.html>). It is for the matrices of hidden layers;
/// use [`AdamW`](super::AdamW) or similar for biases, embeddings and heads.
pub type Muon = Optim<MuonOptions>;

/// How the learning rate depends on a matrix's shape: PyTorch's `adjust_lr_fn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdjustLr {
    /// The square root of outputs divided by inputs, if above 1.
    #[default]
    Original,
    /// 0.2 times the square root of the larger side: steps are then as large as AdamW's.
    MatchRmsAdamw,
    /// The square root of outputs divided by inputs.
    SpectralUnclamped,
}

const NAMES: [(AdjustLr, &str); 3] = [
    (AdjustLr::Original, "original"),
    (AdjustLr::MatchRmsAdamw, "match_rms_adamw"),
    (AdjustLr::SpectralUnclamped, "spectral_unclamped"),
];

impl Choice for AdjustLr {
    fn name(&self) -> &'static str {
        NAMES.iter().find(|(choice, _)| choice == self).map_or("", |(_, name)| name)
    }

    fn set(&mut self, name: &str) -> bool {
        let found = NAMES.iter().find(|(_, known)| *known == name);
        found.into_iter().for_each(|(choice, _)| *self = *choice);
        found.is_some()
    }
}

impl AdjustLr {
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            AdjustLr::Original => (rows / columns).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
            AdjustLr::SpectralUnclamped => (rows / columns).sqrt(),
        }
    }
}

crate::hyperparameters! {
    "Muon" MuonOptions, lr = 1e-3,
    {
        weight_decay: f64 = 0.1, "Decoupled weight decay, times the learning rate: 0.1 by default.";
        momentum: f64 = 0.95, "The decay rate of the momentum: 0.95 by default.";
        nesterov: bool = true, "Whether to use Nesterov momentum; on by default.";
        ns_coefficients: triple = (3.4445, -4.775, 2.0315), "The coefficients of the iteration's polynomial.";
        eps: f64 = 1e-7, "The smallest norm to divide by: 1e-7 by default.";
        ns_steps: usize = 5, "The number of iterations: 5 by default.";
        adjust_lr_fn: AdjustLr = AdjustLr::Original, "How the learning rate depends on a matrix's shape.";
    }
}

impl MuonOptions {
    /// A matrix with the same singular vectors and singular values of about 1, in `bf16`.
    fn orthogonalized(&self, matrix: &Tensor) -> Result<Tensor> {
        let (a, b, c) = self.ns_coefficients;
        let (rows, columns) = matrix.dims2()?;
        let mut x = matrix.to_dtype(DType::BF16)?;
        if rows > columns {
            x = x.t()?;
        }
        // The largest singular value is at most the norm.
        x = x.div(&x.norm(2.0, ())?.clamp_min(self.eps)?)?;
        for _ in 0..self.ns_steps {
            let gram = x.matmul(&x.t()?)?;
            let polynomial = calc!(gram * b + gram.matmul(&gram) * c)?;
            x = calc!(x * a + polynomial.matmul(&x))?;
        }
        if rows > columns { x.t() } else { Ok(x) }
    }
}

impl UpdateRule for MuonOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("momentum_buffer")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        non_negative(Self::NAME, "momentum", self.momentum)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        let (a, b, c) = self.ns_coefficients;
        [a, b, c].into_iter().try_for_each(|coefficient| finite(Self::NAME, "coefficient", coefficient))?;
        if self.ns_steps >= 100 {
            let message = format!("ns_steps {} is invalid: it must be below 100", self.ns_steps);
            return Err(Error::argument(Self::NAME, message));
        }
        Ok(())
    }

    fn accept(&self, name: &str, param: &Tensor) -> Result<()> {
        if param.rank() == 2 {
            return Ok(());
        }
        let expected = format!("Muon is for matrices; use another optimizer, such as AdamW, for parameter {name}, which has");
        Err(Error::shape(Self::NAME, expected, param.shape()))
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let [buffer] = at.states else { return Ok(()) };
        let (rows, columns) = at.param.dims2()?;
        if at.param.numel() == 0 {
            return Ok(());
        }
        super::rule::keep(buffer, self.momentum, at.grad)?;
        let ahead = if self.nesterov {
            calc!(at.grad * (1.0 - self.momentum) + buffer * self.momentum)?
        } else {
            buffer.clone()
        };
        let direction = self.orthogonalized(&ahead)?.to_dtype(at.param.dtype())?;
        at.decay(self.weight_decay)?;
        let lr = at.lr.mul(self.adjust_lr_fn.factor(rows, columns))?;
        at.param.sub_(&direction.mul(&at.number(&lr)?)?)
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }
}
