//! What attention is computed of: shapes, operands, masks, dropout, and how much work a task is.

use std::ops::Range;

use kiln_backend::{AttentionDropout, AttentionRule, DType, Result, View, bernoulli_threshold};

use super::{OP, compute::Compute, rows};
use crate::{
    engine::tile::{TILE, load_row, steps},
    gemm::{Matrix, kernel::Kernel, kernels, source},
    memory::view::Source,
    numeric::{
        real::Real,
        stored::{Stored, Truth},
    },
    ops::random::Draws,
};

/// A type that its operands are stored in.
pub(super) trait Element: Stored<Compute: Compute> + source::Source<Self::Compute> {}
impl<T: Stored<Compute: Compute> + source::Source<Self::Compute>> Element for T {}

/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 600_000;

/// The operands of attention that both directions read.
pub(super) struct Problem<'a, S: Element> {
    pub kern: &'static Kernel<S::Compute>,
    pub query: Source<'a, S>,
    pub key: Source<'a, S>,
    pub value: Source<'a, S>,
    pub samples: usize,
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    pub queries: usize,
    pub keys: usize,
    /// Features of queries and keys.
    pub features: usize,
    /// Features of values.
    pub values: usize,
    pub scale: S::Compute,
    pub is_causal: bool,
    mask: Option<Mask<'a, S>>,
    dropout: Option<AttentionDropout>,
}

/// A mask of all scores.
enum Mask<'a, S> {
    Visible(Source<'a, Truth>),
    Added(Source<'a, S>),
}

/// A row of scores, or part of it: those of a query and the keys from `first_key` on.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub sample: usize,
    pub head: usize,
    pub query: usize,
    pub first_key: usize,
}

impl<'a, S: Element> Problem<'a, S> {
    pub fn new([query, key, value]: [View<'a>; 3], rule: AttentionRule<'a>) -> Result<Problem<'a, S>> {
        let mask = match rule.mask {
            Some(mask) if mask.dtype() == DType::Bool => Some(Mask::Visible(Source::new(OP, mask)?)),
            Some(mask) => Some(Mask::Added(Source::new(OP, mask)?)),
            None => None,
        };
        let (q, k, v) = (query.layout.dims(), key.layout.dims(), value.layout.dims());
        Ok(Problem {
            kern: kernels::best::<S::Compute>(),
            query: Source::new(OP, query)?,
            key: Source::new(OP, key)?,
            value: Source::new(OP, value)?,
            samples: q[0],
            heads: q[1],
            groups: k[1],
            queries: q[2],
            keys: k[2],
            features: q[3],
            values: v[3],
            scale: S::Compute::of(rule.scale),
            is_causal: rule.is_causal,
            mask,
            dropout: rule.dropout,
        })
    }

    /// The heads of queries that a head of keys serves.
    pub fn heads_of(&self, group: usize) -> Range<usize> {
        let per = self.heads / self.groups.max(1);
        group * per..(group + 1) * per
    }

    /// How many keys the query sees at most: those up to itself if attention is causal.
    pub fn visible_keys(&self, query: usize) -> usize {
        if self.is_causal { self.keys.min(query + 1) } else { self.keys }
    }

    /// How many tasks at least a thread should be given, so that waking it is worth it, if a task is `rows` queries.
    pub fn grain(&self, rows: usize) -> usize {
        let work = rows.saturating_mul(self.keys).saturating_mul(self.features + self.values);
        (SERIAL / work.max(1)).max(1)
    }

    /// Applies the mask to scores.
    pub fn mask(&self, place: Place, scores: &mut [S::Compute]) {
        match &self.mask {
            Some(Mask::Visible(mask)) => {
                let mut visible = [0; TILE];
                for range in steps(0..scores.len(), TILE) {
                    let visible = &mut visible[..range.len()];
                    read(mask, place, range.start, visible);
                    rows::hide(visible, &mut scores[range]);
                }
            }
            Some(Mask::Added(mask)) => {
                let mut numbers = [S::Compute::default(); TILE];
                for range in steps(0..scores.len(), TILE) {
                    let numbers = &mut numbers[..range.len()];
                    read(mask, place, range.start, numbers);
                    rows::add(numbers, &mut scores[range]);
                }
            }
            None => {}
        }
    }

    /// Drops weights, or gradients of weights, at random, if there is a dropout.
    pub fn drop_some(&self, place: Place, weights: &mut [S::Compute]) {
        let Some(AttentionDropout { p, state }) = self.dropout else { return };
        let Place { sample, head, query, first_key } = place;
        let pitch = if self.is_causal { self.keys.min(self.queries) } else { self.keys };
        let first = ((sample * self.heads + head) * self.queries + query) * pitch + first_key;
        let (threshold, scale) = (bernoulli_threshold(p), S::Compute::of(1.0 / (1.0 - p)));
        let mut draws = Draws::new();
        for range in steps(0..weights.len(), TILE) {
            let words = draws.words(state, first + range.start..first + range.end);
            rows::keep(words, threshold, scale, &mut weights[range]);
        }
    }
}

/// The mask's elements that belong to scores from number `skip` on.
fn read<T: Stored>(mask: &Source<'_, T>, place: Place, skip: usize, to: &mut [T::Compute]) {
    let (dims, strides) = (mask.layout().dims(), mask.layout().strides());
    let at = [place.sample, place.head, place.query, place.first_key + skip];
    assert!(at.iter().zip(dims).all(|(at, n)| at < n) && at[3] + to.len() <= dims[3], "positions of the mask");
    let offset: isize = at.iter().zip(strides).map(|(&at, stride)| at as isize * stride).sum();
    // SAFETY: elements of a layout that was checked against its buffer.
    unsafe { load_row(mask.ptr().offset(offset), strides[3], to) }
}

/// The matrix of a sample and a head.
pub(super) fn matrix<S: Stored>(of: &Source<'_, S>, sample: usize, head: usize) -> Matrix<*const S> {
    let strides = of.layout().strides();
    let start = of.ptr().wrapping_offset(sample as isize * strides[0] + head as isize * strides[1]);
    Matrix { start, row_stride: strides[2], column_stride: strides[3] }
}
