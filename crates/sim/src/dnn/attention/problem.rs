//! Attention as a graph describes it: its extents, and its tensors in memory.
use super::pattern::{self, Tensors};
use crate::blas::problem::Data;
use crate::dnn::attributes::Record;
use crate::dnn::status::{Refusal, unsupported};

/// Which pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Backward,
}

/// A tensor in memory, as `[batch, heads, rows, columns]` with dense columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    pub uid: i64,
    /// The number of bytes that the address is a multiple of.
    pub alignment: u64,
    pub data: Data,
    pub dims: [usize; 4],
    /// Strides in elements; the last is 1.
    pub steps: [usize; 4],
}

/// Attention without its addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    pub pass: Pass,
    pub data: Data,
    pub is_causal: bool,
    pub batch: usize,
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    pub queries: usize,
    pub keys: usize,
    pub features: usize,
    pub values: usize,
    /// What is read: q, k, v, and backward o, the statistics and o's gradient.
    pub reads: Vec<Operand>,
    /// What is written: o and the statistics; or the gradients of q, k and v, the sums of o's gradient times o, and the sums of
    /// which q's gradient is rounded.
    pub writes: Vec<Operand>,
    /// The numbers of the scale, of what hidden scores are set to, and of a 1; not all graphs have all.
    pub scalars: [Option<i64>; 3],
}

/// Head sizes up to this one have engines on every device, in both passes.
const MAX_FEATURES: usize = 128;

/// The last two extents exchanged.
fn transposed<T: Copy>([a, b, c, d]: [T; 4]) -> [T; 4] {
    [a, b, d, c]
}

fn four(values: &[i64]) -> Option<[usize; 4]> {
    let four = <[i64; 4]>::try_from(values).ok()?;
    four.iter().all(|value| *value > 0).then(|| four.map(|value| value as usize))
}

fn dense([_, b, c, d]: [usize; 4]) -> [usize; 4] {
    [b * c * d, c * d, d, 1]
}

/// How a tensor of a pattern is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    /// In memory, with a transposed description.
    Transposed,
    /// Nowhere.
    Virtual,
    /// On the host.
    Value,
}

use Place::{Memory, Transposed, Value, Virtual};

/// `CUDNN_DATA_FLOAT`, `CUDNN_DATA_INT32`, `CUDNN_DATA_BOOLEAN`; -1 stands for the operands' type.
const F32: i64 = 0;
const I32: i64 = 4;
const BOOL: i64 = 11;
const OWN: i64 = -1;

impl Operand {
    fn new(tensor: &Record, is_transposed: bool) -> Option<Operand> {
        let (mut dims, mut steps) = (four(tensor.dims())?, four(tensor.numbers(903))?);
        if is_transposed {
            (dims, steps) = (transposed(dims), transposed(steps));
        }
        let data = match tensor.number(901, 0) {
            0 => Data::F32,
            2 => Data::F16,
            9 => Data::Bf16,
            _ => return None,
        };
        let alignment = tensor.number(900, 1) as u64;
        (steps[3] == 1).then_some(Operand { uid: tensor.uid()?, alignment, data, dims, steps })
    }

    pub fn bytes(&self) -> usize {
        self.data.bytes() * self.dims.iter().product::<usize>()
    }
}

impl Attention {
    /// The problem of a graph, by the patterns that the library has engines for.
    pub fn new(graph: &Record, arch: u32) -> Result<Attention, Refusal> {
        let operations: Vec<&Record> = graph.parts(801).iter().map(AsRef::as_ref).collect();
        let find = |pattern: &[pattern::Row]| pattern::tensors(&operations, pattern, &Tensors::default());
        for is_causal in [false, true] {
            if let Some(tensors) = find(&pattern::forward(is_causal)) {
                return Attention::of(&tensors, Pass::Forward, is_causal, false, arch);
            }
            for is_grouped in [false, true] {
                if let Some(tensors) = find(&pattern::backward(is_causal, is_grouped)) {
                    return Attention::of(&tensors, Pass::Backward, is_causal, is_grouped, arch);
                }
            }
        }
        Err(unsupported("no graph of attention that the simulator has engines for"))
    }

    fn of(tensors: &Tensors, pass: Pass, is_causal: bool, is_grouped: bool, arch: u32) -> Result<Attention, Refusal> {
        let rank = unsupported("tensors of four dimensions, with dense rows in memory");
        let operand = |name: &str, place: Place| {
            let tensor = tensors.get(name).ok_or(rank)?;
            Operand::new(tensor, place == Transposed).ok_or(rank)
        };
        let to_v = if pass == Pass::Forward { ("v", Memory) } else { ("vt", Transposed) };
        let (q, k, v) = (operand("q", Memory)?, operand("kt", Transposed)?, operand(to_v.0, to_v.1)?);
        let ([batch, heads, queries, features], [_, groups, keys, _]) = (q.dims, k.dims);
        let values = v.dims[3];
        if !matches!(q.data, Data::F16 | Data::Bf16) || arch < 80 {
            return Err(unsupported("attention is for half precision, from compute capability 8.0 on"));
        }
        if [features, values].iter().any(|size| !size.is_multiple_of(8) || *size > MAX_FEATURES) {
            return Err(unsupported("heads are of a multiple of 8 features, at most 128"));
        }
        if (pass == Pass::Backward) && is_grouped != (heads != groups) {
            return Err(unsupported("gradients of keys are added over heads if these share them"));
        }
        let (scores, row) = ([batch, heads, queries, keys], [batch, heads, queries, 1]);
        let (q_dims, o_dims) = ([batch, heads, queries, features], [batch, heads, queries, values]);
        let (k_dims, v_dims) = ([batch, groups, keys, features], [batch, groups, keys, values]);
        let heads_of = |[batch, _, rows, columns]: [usize; 4]| [batch, heads, rows, columns];
        let own = tensors.get("q").map_or(0, |q| q.number(901, 0));
        for (name, tensor) in tensors.iter() {
            let (dims, data, place) = match name {
                "q" | "dq" => (q_dims, OWN, Memory),
                "kt" => (k_dims, OWN, Transposed),
                "dk" => (k_dims, OWN, Memory),
                "vt" => (v_dims, OWN, Transposed),
                "v" | "dv" => (v_dims, OWN, Memory),
                "o" | "do" => (o_dims, OWN, Memory),
                "stats" | "sums" => (row, F32, Memory),
                "dq_sum" => (q_dims, F32, Memory),
                "scale" | "hidden" | "one" => ([1; 4], F32, Value),
                "do_o" => (o_dims, F32, Virtual),
                "max" | "sum" | "log" | "do_o_sum" => (row, F32, Virtual),
                "rows" | "columns" => (scores, I32, Virtual),
                "visible" => (scores, BOOL, Virtual),
                "weights" | "ds" => (scores, OWN, Virtual),
                "weights_t" | "ds_t" => (transposed(scores), OWN, Virtual),
                "k" => (k_dims, OWN, Virtual),
                "dk_heads" => (heads_of(k_dims), OWN, Virtual),
                "dv_heads" => (heads_of(v_dims), OWN, Virtual),
                _ => (scores, F32, Virtual),
            };
            let (described, steps) = (four(tensor.dims()).ok_or(rank)?, four(tensor.numbers(903)).ok_or(rank)?);
            let wanted_dims = if place == Transposed { transposed(dims) } else { dims };
            let wanted_steps = match name {
                "weights_t" | "ds_t" => transposed(dense(scores)),
                "k" => k.steps,
                _ => dense(dims),
            };
            let fits = described == wanted_dims
                && tensor.number(901, 0) == if data == OWN { own } else { data }
                && tensor.is_virtual() == (place == Virtual)
                && tensor.is_by_value() == (place == Value)
                // Views of operands may be of any strides.
                && (matches!(place, Memory | Transposed) && data == OWN || steps == wanted_steps);
            if !fits {
                return Err(unsupported("a tensor of attention of other extents, of another type or place"));
            }
        }
        let take = |names: &[(&'static str, Place)]| {
            names.iter().map(|(name, place)| operand(name, *place)).collect::<Result<Vec<_>, _>>()
        };
        let (reads, writes) = match pass {
            Pass::Forward => (vec![q, k, v], take(&[("o", Memory), ("stats", Memory)])?),
            Pass::Backward => (
                [vec![q, k, v], take(&[("o", Memory), ("stats", Memory), ("do", Memory)])?].concat(),
                take(&[("dq", Memory), ("dk", Memory), ("dv", Memory), ("sums", Memory), ("dq_sum", Memory)])?,
            ),
        };
        let scalars = ["scale", "hidden", "one"].map(|name| tensors.get(name).and_then(|tensor| tensor.uid()));
        let data = q.data;
        let of = Attention {
            pass,
            data,
            is_causal,
            batch,
            heads,
            groups,
            queries,
            keys,
            features,
            values,
            reads,
            writes,
            scalars,
        };
        Ok(of)
    }

    /// Pairs of a query and a key that it sees, over all heads.
    pub fn pairs(&self) -> usize {
        let seen = |query: usize| if self.is_causal { self.keys.min(query + 1) } else { self.keys };
        self.batch * self.heads * (0..self.queries).map(seen).sum::<usize>()
    }

    /// Bytes of workspace: some for each query.
    pub fn workspace(&self) -> usize {
        match self.pass {
            Pass::Forward => 256,
            Pass::Backward => 128 + 4 * self.batch * self.heads * self.queries,
        }
    }
}
