//! Sequences of different lengths: padded to one length, packed without the padding, and back (`torch.nn.utils.rnn`).

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};

/// A batch of sequences of different lengths without padding: the first elements of all sequences, then the second elements
/// of those that have one, and so on, the longest sequence first. Recurrent layers compute only these
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.PackedSequence.html>).
///
/// ```
/// use kiln_nn::{LSTM, pack_padded_sequence, pad_packed_sequence};
/// use kiln_tensor::{Device, Result, Tensor};
///
/// # fn main() -> Result<()> {
/// let lstm = LSTM::new(8, 16)?;
/// let padded = Tensor::randn([5, 3, 8], Device::Cpu)?; // [L, N, features]
/// let packed = pack_padded_sequence(&padded, &[2, 5, 3], false, false)?;
/// let (output, (h, _)) = lstm.forward_packed(&packed, None)?;
/// let (output, lengths) = pad_packed_sequence(&output, false, 0.0, None)?;
/// assert_eq!((output.dims(), &lengths[..]), (&[5, 3, 16][..], &[2, 5, 3][..]));
/// assert_eq!(h.dims(), [1, 3, 16]); // after the last element of each sequence
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PackedSequence {
    data: Tensor,
    /// The number of sequences that have an element at each step.
    batch_sizes: Vec<usize>,
    order: Option<Order>,
}

/// The order of sequences by length, for a batch that was not sorted.
#[derive(Clone, Debug)]
struct Order {
    /// The place in the batch of each sequence of the packed one.
    sorted: Tensor,
    /// The place in the packed sequence of each sequence of the batch.
    unsorted: Tensor,
    /// `unsorted` on the host.
    places: Vec<usize>,
}

impl PackedSequence {
    /// The elements, `[sum of the lengths, …]`.
    #[must_use]
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// The number of sequences that have an element at each step; never increasing.
    #[must_use]
    pub fn batch_sizes(&self) -> &[usize] {
        &self.batch_sizes
    }

    /// For each packed sequence its place in the batch (`i64`); `None` if the batch was sorted by length.
    #[must_use]
    pub fn sorted_indices(&self) -> Option<&Tensor> {
        self.order.as_ref().map(|order| &order.sorted)
    }

    /// For each sequence of the batch its place among the packed ones (`i64`); `None` if the batch was sorted by length.
    #[must_use]
    pub fn unsorted_indices(&self) -> Option<&Tensor> {
        self.order.as_ref().map(|order| &order.unsorted)
    }

    /// The number of sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch_sizes.first().copied().unwrap_or(0)
    }

    /// Whether there are no sequences; there always is one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lengths of the sequences, in the order of the batch.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        let length = |place: usize| self.batch_sizes.iter().take_while(|size| **size > place).count();
        match &self.order {
            Some(order) => order.places.iter().map(|place| length(*place)).collect(),
            None => (0..self.len()).map(length).collect(),
        }
    }

    pub(super) fn with_data(&self, data: Tensor) -> PackedSequence {
        PackedSequence { data, ..self.clone() }
    }
}

#[located(site)]
impl PackedSequence {
    /// The same sequences with elements computed from these, such as their embeddings.
    ///
    /// # Errors
    /// Those of `f`; or if it changes the number of elements.
    pub fn map_data(&self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<PackedSequence> {
        let data = f(&self.data)?;
        let count = self.data.dims()[0];
        if data.dims().first() != Some(&count) {
            return Err(Error::shape("PackedSequence::map_data", format!("[{count}, …]"), data.shape()));
        }
        Ok(self.with_data(data))
    }

    /// States `[…, N, features]` in the order of the packed sequences.
    pub(super) fn sort_states(&self, states: &Tensor) -> Result<Tensor> {
        self.order.as_ref().map_or_else(|| Ok(states.clone()), |order| states.index_select(-2, &order.sorted))
    }

    /// States `[…, N, features]` in the order of the batch.
    pub(super) fn unsort_states(&self, states: &Tensor) -> Result<Tensor> {
        self.order.as_ref().map_or_else(|| Ok(states.clone()), |order| states.index_select(-2, &order.unsorted))
    }
}

/// The time and batch dimensions of padded sequences as `[L, N, …]`, which exchanges them if `batch_first`.
fn steps_first(op: &'static str, x: &Tensor, batch_first: bool) -> Result<Tensor> {
    if x.rank() < 2 {
        let shape = if batch_first { "[N, L, …]" } else { "[L, N, …]" };
        return Err(Error::shape(op, shape, x.shape()));
    }
    if batch_first { x.transpose(0, 1) } else { Ok(x.clone()) }
}

/// The rows of `[L · N, …]` that hold the elements of sequences with these lengths, in the order of a packed sequence.
/// `sequences` are the columns, longest first.
fn rows(lengths: &[usize], sequences: &[usize], batch_sizes: &[usize]) -> Vec<i64> {
    let columns = lengths.len();
    let of_step = |(step, size): (usize, &usize)| sequences[..*size].iter().map(move |n| (step * columns + n) as i64);
    batch_sizes.iter().enumerate().flat_map(of_step).collect()
}

/// `[L, N, …]` as `[L · N, …]`.
fn flat(x: &Tensor) -> Result<Tensor> {
    let mut shape = vec![x.dims()[0] * x.dims()[1]];
    shape.extend_from_slice(&x.dims()[2..]);
    x.reshape(shape)
}

/// Packs padded sequences `[L, N, …]`, or `[N, L, …]` if `batch_first`. `lengths` are those of the `N` sequences, at least 1;
/// with `enforce_sorted` they must not increase, which saves sorting
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.pack_padded_sequence.html>).
///
/// # Errors
/// If the number of lengths is not the batch's, a length is 0 or more than `L`, the batch is empty, or lengths increase
/// although they must not.
#[located(site)]
pub fn pack_padded_sequence(
    input: &Tensor,
    lengths: &[usize],
    batch_first: bool,
    enforce_sorted: bool,
) -> Result<PackedSequence> {
    const OP: &str = "pack_padded_sequence";
    let x = steps_first(OP, input, batch_first)?;
    let (steps, n) = (x.dims()[0], x.dims()[1]);
    let wrong = |why: String| Err(Error::argument(OP, why));
    if lengths.len() != n || n == 0 {
        return wrong(format!(
            "{} lengths for a batch of {n} sequences; there must be one for each, and at least one",
            lengths.len()
        ));
    }
    if let Some((i, length)) = lengths.iter().enumerate().find(|(_, length)| !(1..=steps).contains(*length)) {
        return wrong(format!("length {length} of sequence {i} is not in 1..={steps}"));
    }
    let is_sorted = lengths.is_sorted_by(|a, b| a >= b);
    if enforce_sorted && !is_sorted {
        return wrong(
            "the lengths increase: sort the batch by decreasing length, or pass `enforce_sorted` false".into(),
        );
    }
    let mut sequences: Vec<usize> = (0..n).collect();
    sequences.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let longest = lengths[sequences[0]];
    let batch_sizes: Vec<usize> = (0..longest).map(|t| lengths.iter().filter(|length| **length > t).count()).collect();
    let on_device = |values: Vec<i64>| {
        let n = values.len();
        Tensor::from_vec(values, [n], x.device())
    };
    let order = if enforce_sorted {
        None
    } else {
        let mut places = vec![0; n];
        sequences.iter().enumerate().for_each(|(place, sequence)| places[*sequence] = place);
        let index = |list: &[usize]| on_device(list.iter().map(|i| *i as i64).collect());
        Some(Order { sorted: index(&sequences)?, unsorted: index(&places)?, places })
    };
    let data = flat(&x)?.index_select(0, &on_device(rows(lengths, &sequences, &batch_sizes))?)?;
    Ok(PackedSequence { data, batch_sizes, order })
}

/// Packs sequences `[length, …]` of different lengths
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.pack_sequence.html>).
///
/// # Errors
/// Those of [`pad_sequence`] and [`pack_padded_sequence`].
#[located(site)]
pub fn pack_sequence(sequences: &[&Tensor], enforce_sorted: bool) -> Result<PackedSequence> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.dims().first().copied().unwrap_or(0)).collect();
    let padded = pad_sequence(sequences, false, 0.0).map_err(|error| error.of_op("pack_sequence"))?;
    pack_padded_sequence(&padded, &lengths, false, enforce_sorted).map_err(|error| error.of_op("pack_sequence"))
}

/// Pads packed sequences with a value: the sequences `[L, N, …]`, or `[N, L, …]` if `batch_first`, and their lengths, in the
/// order of the batch that was packed. `L` is the longest length or `total_length`, as for
/// [`DistributedDataParallel`](https://docs.pytorch.org/docs/stable/notes/faq.html#pack-rnn-unpack-with-data-parallelism)
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.pad_packed_sequence.html>).
///
/// # Errors
/// If `total_length` is less than the longest length, or memory runs out.
#[located(site)]
pub fn pad_packed_sequence(
    sequence: &PackedSequence,
    batch_first: bool,
    padding_value: f64,
    total_length: Option<usize>,
) -> Result<(Tensor, Vec<usize>)> {
    const OP: &str = "pad_packed_sequence";
    let (data, lengths) = (&sequence.data, sequence.lengths());
    let longest = sequence.batch_sizes.len();
    let steps = total_length.unwrap_or(longest);
    if steps < longest {
        return Err(Error::argument(OP, format!("total_length {steps} is less than the longest length {longest}")));
    }
    let n = lengths.len();
    let mut columns: Vec<usize> = (0..n).collect();
    if let Some(order) = &sequence.order {
        order.places.iter().enumerate().for_each(|(column, place)| columns[*place] = column);
    }
    let rows = rows(&lengths, &columns, &sequence.batch_sizes);
    let count = rows.len();
    let mut shape = vec![steps * n];
    shape.extend_from_slice(&data.dims()[1..]);
    let padding = Tensor::full(shape.clone(), padding_value, data.options())?;
    let padded = padding.index_copy(0, &Tensor::from_vec(rows, [count], data.device())?, data)?;
    shape.splice(..1, [steps, n]);
    let padded = padded.reshape(shape)?;
    Ok((if batch_first { padded.transpose(0, 1)? } else { padded }, lengths))
}

/// Sequences `[length, …]` of different lengths as one tensor, `[L, N, …]`, or `[N, L, …]` if `batch_first`, padded at their
/// ends with a value (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.pad_sequence.html>).
///
/// # Errors
/// If there are none, one has no dimensions, or shapes after the first extent, dtypes or devices differ.
#[located(site)]
pub fn pad_sequence(sequences: &[&Tensor], batch_first: bool, padding_value: f64) -> Result<Tensor> {
    const OP: &str = "pad_sequence";
    let Some(first) = sequences.first() else { return Err(Error::argument(OP, "there are no sequences")) };
    let Some((_, rest)) = first.dims().split_first() else {
        return Err(Error::shape(OP, "sequences [length, …]", first.shape()));
    };
    for other in sequences {
        if other.dims().split_first().map(|(_, rest)| rest) != Some(rest) {
            return Err(Error::shapes(OP, first.shape(), other.shape(), "equal extents but for the first"));
        }
        if other.dtype() != first.dtype() {
            return Err(Error::dtype(OP, other.dtype(), format!("the sequences are {}", first.dtype())));
        }
    }
    let longest = sequences.iter().map(|sequence| sequence.dims()[0]).max().unwrap_or(0);
    let padded = |sequence: &&Tensor| {
        let missing = longest - sequence.dims()[0];
        if missing == 0 {
            return Ok((*sequence).clone());
        }
        let shape = sequence.shape().with_dim(0, missing)?;
        Tensor::cat(&[*sequence, &Tensor::full(shape, padding_value, sequence.options())?], 0)
    };
    let padded = sequences.iter().map(padded).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&padded.iter().collect::<Vec<_>>(), if batch_first { 0 } else { 1 }).map_err(|error| error.of_op(OP))
}

/// The sequences `[length, …]` in padded ones, `[L, N, …]`, or `[N, L, …]` if `batch_first`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.unpad_sequence.html>).
///
/// # Errors
/// If the number of lengths is not the batch's, or a length is more than `L`.
#[located(site)]
pub fn unpad_sequence(padded: &Tensor, lengths: &[usize], batch_first: bool) -> Result<Vec<Tensor>> {
    const OP: &str = "unpad_sequence";
    let x = steps_first(OP, padded, batch_first)?;
    let (steps, n) = (x.dims()[0], x.dims()[1]);
    if lengths.len() != n {
        return Err(Error::argument(OP, format!("{} lengths for a batch of {n} sequences", lengths.len())));
    }
    let sequence = |(i, length): (usize, &usize)| {
        if *length > steps {
            return Err(Error::argument(OP, format!("length {length} of sequence {i} is more than {steps}")));
        }
        x.select(1, i as i64)?.narrow(0, 0, *length)
    };
    lengths.iter().enumerate().map(sequence).collect()
}

/// The sequences `[length, …]` of a packed one, in the order of the batch
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.unpack_sequence.html>).
///
/// # Errors
/// If memory runs out.
#[located(site)]
pub fn unpack_sequence(packed: &PackedSequence) -> Result<Vec<Tensor>> {
    let (padded, lengths) = pad_packed_sequence(packed, true, 0.0, None)?;
    unpad_sequence(&padded, &lengths, true)
}
