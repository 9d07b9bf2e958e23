//! `einsum`: sums of products in Einstein notation.

use std::borrow::Borrow;

use kiln_backend::{DType, Error, MAX_RANK, Result};
use kiln_derive::located;
use smallvec::SmallVec;

use super::check;
use crate::{autocast::cast_list, tensor::Tensor};

type Labels = SmallVec<[char; MAX_RANK]>;

#[located]
impl Tensor {
    /// The sum of products that `equation` describes: `"ij,jk->ik"` is the matrix product, `"bij,bjk->bik"` the batched
    /// one, `"ii->i"` the diagonal, `"ij->"` the sum. Each operand has a letter (case-sensitive) for each dimension;
    /// dimensions with equal letters are multiplied elementwise, and letters not on the right are summed over.
    /// dimension; equal letters are multiplied with each other, letters not on the right are summed over.
    /// `...` stands for further dimensions, which broadcast. Without `->`, the result has the dimensions of `...` and
    /// then the letters that appear once, in alphabetical order. Operands are contracted from left to right, by matrix
    /// products.
    ///
    /// # Errors
    /// If the equation cannot be parsed or does not fit the operands, or dtypes or devices differ.
    pub fn einsum(equation: &str, operands: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        let operands: SmallVec<[&Tensor; 4]> = operands.iter().map(Borrow::borrow).collect();
        cast_list("einsum", &operands, |operands| Equation::parse(equation, operands)?.run(operands))
    }
}

/// An equation whose letters fit the operands. The dimensions of `...` have digits as letters.
struct Equation<'a> {
    text: &'a str,
    inputs: SmallVec<[Labels; 4]>,
    output: Labels,
    /// The extent of each letter.
    extents: SmallVec<[(char, usize); 16]>,
}

impl<'a> Equation<'a> {
    fn refuse(text: &str, why: &str) -> Error {
        Error::argument("einsum", format!("{text:?}: {why}"))
    }

    fn parse(text: &'a str, operands: &[&Tensor]) -> Result<Equation<'a>> {
        let refuse = |why: &str| Self::refuse(text, why);
        let Some(&first) = operands.first() else { return Err(refuse("there are no operands")) };
        check::same_kind("einsum", first, operands)?;
        if first.dtype() == DType::Bool {
            return Err(Error::dtype("einsum", DType::Bool, "it takes numbers; convert with `to_dtype`"));
        }
        let spaceless: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match spaceless.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (spaceless.as_str(), None),
        };
        let inputs: SmallVec<[&str; 4]> = left.split(',').collect();
        if inputs.len() != operands.len() {
            return Err(refuse(&format!("it has {} terms for {} operands", inputs.len(), operands.len())));
        }
        let mut equation =
            Equation { text, inputs: SmallVec::new(), output: SmallVec::new(), extents: SmallVec::new() };
        // The largest number of dimensions that `...` stands for.
        let mut widest = None;
        for (term, operand) in inputs.iter().zip(operands) {
            let letters = term.replace("...", "").chars().count();
            let left = operand.rank().checked_sub(letters);
            let width = match (term.contains("..."), left) {
                (true, Some(width)) => {
                    widest = widest.max(Some(width));
                    width
                }
                (false, Some(0)) => 0,
                _ => {
                    return Err(refuse(&format!("term {term:?} does not fit an operand of shape {}", operand.shape())));
                }
            };
            let labels = Self::labels(text, term, width)?;
            for (&label, &extent) in labels.iter().zip(operand.dims()) {
                equation.add_extent(label, extent)?;
            }
            equation.inputs.push(labels);
        }
        equation.output = match right {
            Some(right) => Self::labels(text, right, widest.unwrap_or(0))?,
            None => equation.implicit_output(widest.unwrap_or(0)),
        };
        for (i, label) in equation.output.iter().enumerate() {
            if equation.output[..i].contains(label) {
                return Err(refuse(&format!("{label} appears twice in the result")));
            }
            if !equation.extents.iter().any(|(known, _)| known == label) {
                return Err(refuse(&format!("{label} of the result is in no term")));
            }
        }
        Ok(equation)
    }

    /// The letters of a term; `...` becomes `width` digits that count down to 0, so that they align right.
    fn labels(text: &str, term: &str, width: usize) -> Result<Labels> {
        let dots: String = (0..width).rev().filter_map(|i| char::from_digit(i as u32, 10)).collect();
        let spread = term.replacen("...", "\u{0}", 1);
        let mut labels = Labels::new();
        for c in spread.chars() {
            match c {
                '\u{0}' => labels.extend(dots.chars()),
                c if c.is_ascii_alphabetic() => labels.push(c),
                c => return Err(Self::refuse(text, &format!("{c:?} in term {term:?} is not a letter"))),
            }
        }
        Ok(labels)
    }

    fn implicit_output(&self, widest: usize) -> Labels {
        let all = || self.inputs.iter().flatten().copied();
        let mut once: Labels = all().filter(|&c| c.is_alphabetic() && all().filter(|&d| d == c).count() == 1).collect();
        once.sort_unstable();
        let dots = (0..widest).rev().filter_map(|i| char::from_digit(i as u32, 10));
        dots.chain(once.iter().copied()).collect()
    }

    fn add_extent(&mut self, label: char, extent: usize) -> Result<()> {
        match self.extents.iter_mut().find(|(known, _)| *known == label) {
            None => self.extents.push((label, extent)),
            Some((_, known)) if *known == extent || extent == 1 => {}
            Some((_, known)) if *known == 1 => *known = extent,
            Some((_, known)) => {
                let what = if label.is_ascii_digit() { "a dimension of ...".to_string() } else { label.to_string() };
                let why = format!("{what} has the extents {known} and {extent}");
                return Err(Self::refuse(self.text, &why));
            }
        }
        Ok(())
    }

    fn extent(&self, label: char) -> usize {
        self.extents.iter().find(|(known, _)| *known == label).map_or(1, |&(_, extent)| extent)
    }

    fn run(&self, operands: &[&Tensor]) -> Result<Tensor> {
        let mut result: Option<Term> = None;
        for (i, (operand, labels)) in operands.iter().zip(&self.inputs).enumerate() {
            let term = Term { tensor: (*operand).clone(), labels: labels.clone() }.without_repeats(self)?;
            let later = |c: char| self.output.contains(&c) || self.inputs[i + 1..].iter().any(|l| l.contains(&c));
            result = Some(match result {
                None => term,
                Some(so_far) => so_far.times(term, self, later)?,
            });
        }
        let Some(term) = result else { return Err(Self::refuse(self.text, "there are no operands")) };
        let term = term.sum_over(|c| !self.output.contains(&c))?;
        let single = operands.len() == 1 && !self.output.is_empty();
        if term.labels == self.output && !single { Ok(term.tensor) } else { term.ordered(&self.output) }
    }
}

/// A tensor with a letter for each dimension.
struct Term {
    tensor: Tensor,
    labels: Labels,
}

impl Term {
    /// Takes the diagonal where a letter repeats; extents of 1 broadcast to the letter's extent.
    fn without_repeats(mut self, equation: &Equation) -> Result<Term> {
        let dims: SmallVec<[usize; MAX_RANK]> = self.labels.iter().map(|&c| equation.extent(c)).collect();
        if self.tensor.dims() != &dims[..] {
            self.tensor = self.tensor.expand(&dims[..])?;
        }
        let mut at = 0;
        while at < self.labels.len() {
            let label = self.labels[at];
            match self.labels[at + 1..].iter().position(|&c| c == label) {
                None => at += 1,
                Some(distance) => {
                    // The diagonal becomes the last dimension.
                    self.tensor = self.tensor.diagonal(0, at, at + 1 + distance)?;
                    self.labels.remove(at + 1 + distance);
                    self.labels.remove(at);
                    self.labels.push(label);
                }
            }
        }
        Ok(self)
    }

    /// Sums over the letters that `gone` accepts.
    fn sum_over(mut self, gone: impl Fn(char) -> bool) -> Result<Term> {
        let dims: SmallVec<[usize; MAX_RANK]> = (0..self.labels.len()).filter(|&dim| gone(self.labels[dim])).collect();
        if !dims.is_empty() {
            let dtype = self.tensor.dtype();
            self.tensor = self.tensor.sum(&dims[..])?.to_dtype(dtype)?;
            self.labels.retain(|c| !gone(*c));
        }
        Ok(self)
    }

    /// The tensor with its dimensions in the order of `labels`, a permutation of this term's letters.
    fn ordered(&self, labels: &[char]) -> Result<Tensor> {
        let order: SmallVec<[usize; MAX_RANK]> =
            labels.iter().filter_map(|&c| self.labels.iter().position(|&own| own == c)).collect();
        self.tensor.permute(order)
    }

    /// The product, summed over the letters of either term that are not needed `later`.
    fn times(self, other: Term, equation: &Equation, later: impl Fn(char) -> bool) -> Result<Term> {
        let (a_labels, b_labels) = (self.labels.clone(), other.labels.clone());
        let a = self.sum_over(|c| !b_labels.contains(&c) && !later(c))?;
        let b = other.sum_over(|c| !a_labels.contains(&c) && !later(c))?;
        let pick = |from: &Labels, test: &dyn Fn(char) -> bool| -> Labels {
            from.iter().copied().filter(|&c| test(c)).collect()
        };
        let shared = pick(&a.labels, &|c| b.labels.contains(&c) && later(c));
        let inner = pick(&a.labels, &|c| b.labels.contains(&c) && !later(c));
        let rows = pick(&a.labels, &|c| !b.labels.contains(&c));
        let columns = pick(&b.labels, &|c| !a.labels.contains(&c));
        let join = |parts: [&Labels; 3]| -> Labels { parts.into_iter().flatten().copied().collect() };
        let extents =
            |labels: &Labels| -> SmallVec<[usize; MAX_RANK]> { labels.iter().map(|&c| equation.extent(c)).collect() };
        let labels = join([&shared, &rows, &columns]);
        let none = Labels::new();
        let x = a.ordered(&join([&shared, &rows, &inner]))?;
        if inner.is_empty() {
            let mut dims = extents(&join([&shared, &rows, &none]));
            dims.resize(labels.len(), 1);
            let mut other_dims = extents(&shared);
            other_dims.resize(shared.len() + rows.len(), 1);
            other_dims.extend(extents(&columns));
            let y = b.ordered(&join([&shared, &none, &columns]))?;
            let tensor = x.reshape(&dims[..])?.mul(&y.reshape(&other_dims[..])?)?;
            return Ok(Term { tensor, labels });
        }
        let y = b.ordered(&join([&shared, &inner, &columns]))?;
        let count = |labels: &Labels| extents(labels).iter().product::<usize>();
        let [batch, m, k, n] = [count(&shared), count(&rows), count(&inner), count(&columns)];
        let product = if shared.is_empty() {
            x.reshape([m, k])?.mm(&y.reshape([k, n])?)?
        } else {
            x.reshape([batch, m, k])?.bmm(&y.reshape([batch, k, n])?)?
        };
        Ok(Term { tensor: product.reshape(&extents(&labels)[..])?, labels })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn ramp(dims: &[usize]) -> Result<Tensor> {
        Tensor::arange(1., 1 + dims.iter().product::<usize>(), Device::Cpu)?.reshape(dims)
    }

    #[test]
    fn products_match_matmul() -> Result<()> {
        let (a, b) = (ramp(&[2, 3, 4])?, ramp(&[2, 4, 2])?);
        let want = a.matmul(&b)?;
        assert!(Tensor::einsum("bij,bjk->bik", &[&a, &b])?.equal(&want)?);
        assert!(Tensor::einsum("...ij,...jk->...ik", &[&a, &b])?.equal(&want)?);
        assert_eq!(Tensor::einsum("bij,bjk", &[&a, &b])?.dims(), [3, 2]);
        assert!(Tensor::einsum("bij,bjk->kib", &[&a, &b])?.equal(&want.permute([2, 1, 0])?)?);
        Ok(())
    }

    #[test]
    fn one_operand() -> Result<()> {
        let x = ramp(&[2, 2])?.requires_grad_(true)?;
        assert_eq!(Tensor::einsum("ii->i", &[&x])?.to_vec::<f32>()?, [1., 4.]);
        assert_eq!(Tensor::einsum("ij->", &[&x])?.item::<f32>()?, 10.);
        assert_eq!(Tensor::einsum("ba", &[&x])?.to_vec::<f32>()?, [1., 3., 2., 4.]);
        let y = Tensor::einsum("ii", &[&x])?;
        y.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 0., 0., 1.]);
        assert_eq!(Tensor::einsum("ij->ji", &[&x])?.grad_fn().unwrap().name(), "PermuteBackward0");
        Ok(())
    }

    #[test]
    fn several_operands_and_gradients() -> Result<()> {
        let (v, m, w) = (ramp(&[2, 3])?.requires_grad_(true)?, ramp(&[3, 4])?, ramp(&[2, 4])?);
        let y = Tensor::einsum("bi,ij,bj->b", &[&v, &m, &w])?;
        let want = v.matmul(&m)?.mul(&w)?.sum(1)?;
        assert!(y.equal(&want)?);
        y.sum(())?.backward()?;
        assert!(v.grad().unwrap().equal(&w.matmul(&m.t()?)?)?);
        let outer = Tensor::einsum("i,j->ij", &[ramp(&[2])?, ramp(&[3])?])?;
        assert_eq!(outer.to_vec::<f32>()?, [1., 2., 3., 2., 4., 6.]);
        assert_eq!(Tensor::einsum("ij,ij->ij", &[&v, &ramp(&[1, 3])?])?.to_vec::<f32>()?, [1., 4., 9., 4., 10., 18.]);
        Ok(())
    }

    #[test]
    fn errors_name_the_equation() -> Result<()> {
        let x = ramp(&[2, 3])?;
        for equation in ["ij,jk->ik", "i->i", "ii->i", "ij->k", "ij->ii", "i1->i", "ij->i->j", "....->", "......->"] {
            let error = Tensor::einsum(equation, &[&x]).unwrap_err().to_string();
            assert!(error.contains(equation), "{error}");
        }
        assert!(Tensor::einsum("", &[] as &[Tensor]).is_err());
        assert_eq!(Tensor::einsum("->", &[Tensor::new(2f32, Device::Cpu)?])?.item::<f32>()?, 2.);
        Ok(())
    }
}
