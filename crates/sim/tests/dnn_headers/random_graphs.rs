//! Random graphs, valid and invalid ones: both libraries answer alike.
use std::env;

use kiln_sim::types::*;

use crate::libraries::{Asked, both, described};

/// A generator of numbers, the same for both libraries (splitmix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Whether a graph has something that the simulator has no engine for, though the real library may: tensors with gaps, of several
/// types or of mixed orders, tensors without a number, other operations after a convolution than Kiln fuses to it.
#[derive(Debug, Default)]
pub struct Beyond(bool);

/// Destroys some of these descriptors early: what they were set in keeps what it needs of them.
fn spare(asked: &mut Asked, random: &mut Random, descs: &[usize]) {
    for desc in descs {
        if random.once_in(5) {
            asked.destroy(*desc);
        }
    }
}

/// The strides of a dense tensor, with the channels last or first.
fn dense_strides(dims: &[i64], last: bool) -> Vec<i64> {
    let product = |dims: &[i64]| dims.iter().product::<i64>();
    let strides = (0..dims.len()).map(|dim| match (dim, last) {
        (1, true) => 1,
        (0, true) => product(&dims[1..]),
        (_, true) => product(&dims[dim + 1..]) * dims[1],
        _ => product(&dims[dim + 1..]),
    });
    strides.collect()
}

/// Asks one library for a random graph, with mistakes in about half of them. Returns what it proposes: `None` if the graph
/// is not even valid.
pub fn random_graph(asked: &mut Asked, random: &mut Random, beyond: &mut Beyond) -> Option<bool> {
    let mistakes = random.once_in(2);
    // One mistake in about four chances for it, where there are any.
    let slips = |random: &mut Random, chances: u64| mistakes && random.once_in(chances);
    let (direction, axes) = (random.below(3) as usize, if random.once_in(4) { 3 } else { 2 });
    // What is after the convolution: `b` a bias, `z` another tensor that is added, `r` ReLU, `g` ReLU's gradient, `s` sums.
    let after = match direction {
        0 if axes == 3 && random.once_in(3) => "b",
        _ if axes == 3 => "",
        0 if random.once_in(3) => random.of(&["br", "zbr"]),
        1 if random.once_in(2) => random.of(&["g", "gs"]),
        _ => "",
    };
    let data = if random.once_in(20) { 4 } else { random.of(&[0, 0, 1, 2, 2, 9]) };
    let compute = i32::from(data == 1);
    let bytes = i64::from([4, 8, 2][usize::from(data == 1) + 2 * usize::from(data == 2 || data == 9)]);
    let groups = random.of(&[1, 1, 1, 2, 3]);
    let (n, c, k) = (random.of(&[1, 2, 5]), groups * random.of(&[1, 2, 4]), groups * random.of(&[1, 3, 4]));
    let several = |random: &mut Random, all: &[i64]| (0..axes).map(|_| random.of(all)).collect::<Vec<i64>>();
    let (taps, image) = (several(random, &[1, 2, 3, 5]), several(random, &[5, 6, 8, 9, 12]));
    let (pad, stride, dilation) =
        (several(random, &[0, 0, 1, 2]), several(random, &[1, 1, 2, 3]), several(random, &[1, 1, 1, 2]));
    let along = |axis: usize| {
        (image[axis] + 2 * pad[axis] - (taps[axis] - 1) * dilation[axis] - 1).div_euclid(stride[axis]) + 1
    };
    let out: Vec<i64> = (0..axes).map(along).collect();
    let mut dims = [[&[n, c], &image[..]], [&[k, c / groups], &taps], [&[n, k], &out]].map(|dims| dims.concat());
    // Extents that do not fit.
    if slips(random, 4) {
        let (tensor, dim) = (random.below(3) as usize, random.below(axes as u64 + 2) as usize);
        dims[tensor][dim] += random.of(&[-1, 1, 1, 2]);
    }
    let last = random.once_in(2);
    let mut strides = dims.each_ref().map(|dims| dense_strides(dims, last));
    if slips(random, 6) {
        let (tensor, dim) = (random.below(3) as usize, random.below(axes as u64 + 2) as usize);
        strides[tensor][dim] = random.of(&[-1, 0, 1, 2, 1000]);
        beyond.0 = true;
    }
    let mut dense =
        |asked: &mut Asked, random: &mut Random, uid: i64, dims: &[i64], strides: &[i64], data: i32, is_virtual| {
            let desc = asked.create(17);
            let alignment =
                if slips(random, 12) { random.of(&[0, 1, 2, 3, 4, -16, 12]) } else { random.of(&[bytes, 16]) };
            let left_out = slips(random, 12).then(|| random.below(5));
            beyond.0 |= left_out == Some(0);
            // Twice, with the second value to stay.
            if slips(random, 12) {
                asked.set(desc, 906, INT64, &[uid + 50]);
            }
            if left_out != Some(0) {
                asked.set(desc, 906, INT64, &[uid]);
            }
            if left_out != Some(1) {
                asked.set(desc, 901, DATA_TYPE, &[data]);
            }
            if left_out != Some(2) {
                asked.set(desc, 902, INT64, dims);
            }
            if left_out != Some(3) {
                let cut = if slips(random, 30) { 3 } else { strides.len() };
                asked.set(desc, 903, INT64, &strides[..cut]);
            }
            if left_out != Some(4) {
                asked.set(desc, 900, INT64, &[if is_virtual { 16 } else { alignment }]);
            }
            if is_virtual {
                asked.set(desc, 907, BOOLEAN, &[true]);
            }
            // An attribute of another kind, of another type, of too many values, of none.
            match slips(random, 20).then(|| random.below(4)) {
                Some(0) => asked.set(desc, 100, DATA_TYPE, &[0i32]),
                Some(1) => asked.set(desc, 906, DATA_TYPE, &[0i32, 0]),
                Some(2) => asked.set(desc, 906, INT64, &[1i64, 2]),
                Some(3) => asked.set::<i64>(desc, 902, INT64, &[]),
                _ => {}
            }
            if slips(random, 25) {
                asked.whole = false;
            } else {
                asked.finalize(if left_out == Some(0) { "a tensor without a number" } else { "a tensor" }, desc);
                // Once is enough.
                if slips(random, 20) {
                    let whole = asked.whole;
                    asked.finalize("a tensor again", desc);
                    asked.whole = whole;
                    asked.set(desc, 906, INT64, &[uid]);
                }
            }
            desc
        };
    let mut data_of = [data; 3];
    if slips(random, 10) {
        data_of[random.below(3) as usize] = random.of(&[0, 1, 2, 9]);
    }
    let result = [2, 0, 1][direction];
    let mut tensors = [0; 3];
    for i in 0..3 {
        if i == result && !after.is_empty() {
            continue;
        }
        tensors[i] = dense(asked, random, i as i64 + 1, &dims[i], &strides[i], data_of[i], false);
    }
    // What each operation takes from the one before.
    let between: Vec<usize> = (10..)
        .zip(after.chars().filter(|step| *step != 's'))
        .map(|(uid, _)| dense(asked, random, uid, &dims[result], &strides[result], compute, true))
        .collect();
    let rule = asked.create(1);
    if !slips(random, 12) {
        asked.set(rule, 100, DATA_TYPE, &[compute]);
    }
    let mode = random.below(2) as i32;
    asked.set(rule, 101, CONVOLUTION_MODE, &[mode]);
    asked.set(rule, 106, INT64, &[if slips(random, 12) { random.of(&[-1, 0, 1, 3]) } else { axes as i64 }]);
    for (attribute, mut values) in [(102, dilation), (103, stride), (104, pad.clone()), (105, pad)] {
        if slips(random, 16) {
            values[random.below(axes as u64) as usize] = random.of(&[-1, 0]);
        }
        match slips(random, 24) {
            true if random.once_in(2) => {}
            true => asked.set(rule, attribute, INT64, &[&values[..], &[1]].concat()),
            false => asked.set(rule, attribute, INT64, &values),
        }
    }
    asked.finalize("a convolution", rule);
    let (kind, [to_x, to_w, to_y, to_rule, alpha, beta]) = [
        (10, [704, 703, 705, 702, 700, 701]),
        (12, [710, 709, 711, 708, 706, 707]),
        (11, [716, 715, 717, 714, 712, 713]),
    ][direction];
    let operation = asked.create(kind);
    if let Some(&first) = between.first() {
        tensors[result] = first;
    }
    for (attribute, part) in [(to_x, tensors[0]), (to_w, tensors[1]), (to_y, tensors[2]), (to_rule, rule)] {
        if !slips(random, 30) {
            asked.set_parts(operation, attribute, &[part]);
        }
    }
    for (attribute, value) in [(alpha, 1.0f32), (beta, random.of(&[0.0, 0.0, 1.0]))] {
        match random.below(4) {
            0 => asked.set(operation, attribute, DOUBLE, &[f64::from(value)]),
            1 if slips(random, 4) => asked.set(operation, attribute, INT64, &[1i64]),
            _ => asked.set(operation, attribute, FLOAT, &[value]),
        }
    }
    // A virtual result is an operand of what comes next.
    let mut parts = tensors.to_vec();
    parts.retain(|part| Some(part) != between.first());
    parts.push(rule);
    spare(asked, random, &parts);
    asked.finalize("an operation", operation);
    spare(asked, random, &parts);
    let mut operations = vec![operation];
    if !after.is_empty() {
        let per_channel = || [&[1, dims[result][1]], &vec![1; axes][..]].concat();
        let mut channel_dims = per_channel();
        if slips(random, 6) {
            channel_dims[random.below(axes as u64 + 2) as usize] = random.of(&[1, 2, 3, k]);
        }
        let data_of_channels = if after.contains('s') { compute } else { data };
        let mut of = |asked: &mut Asked, random: &mut Random, uid, dims: &[i64], strides: &[i64], data| {
            dense(asked, random, uid, dims, strides, data, false)
        };
        let channels = of(asked, random, 4, &channel_dims, &dense_strides(&channel_dims, false), data_of_channels);
        let like = of(asked, random, 5, &dims[result], &strides[result], data);
        let end = of(asked, random, result as i64 + 1, &dims[result], &strides[result], data_of[result]);
        beyond.0 |= channel_dims != per_channel();
        // The real library looks no closer at what was not finalized, and fails later in some way.
        if !asked.whole {
            return None;
        }
        let flow: Vec<usize> = between.iter().copied().chain([end]).collect();
        for (i, step) in after.chars().enumerate() {
            let (from, to) = (flow[i], flow.get(i + 1).copied().unwrap_or(end));
            if step == 's' {
                let rule = asked.create(21);
                let operator = if slips(random, 12) { random.of(&[1, 2, 3]) } else { 0i32 };
                beyond.0 |= operator != 0;
                if !slips(random, 20) {
                    asked.set(rule, 1600, REDUCTION_OPERATOR_TYPE, &[operator]);
                }
                if !slips(random, 20) {
                    asked.set(rule, 1601, DATA_TYPE, &[compute]);
                }
                asked.finalize("a reduction", rule);
                let operation = asked.create(22);
                for (attribute, part) in [(1612, rule), (1610, end), (1611, channels)] {
                    if !slips(random, 40) {
                        asked.set_parts(operation, attribute, &[part]);
                    }
                }
                spare(asked, random, &[rule]);
                asked.finalize("a reduction operation", operation);
                operations.push(operation);
                continue;
            }
            let mode = match step {
                'r' => 100,
                'g' => 200,
                _ => 0,
            };
            let mode = if slips(random, 16) { random.of(&[0, 1, 100, 101, 200]) } else { mode };
            beyond.0 |= mode != [0, 0, 100, 200][['b', 'z', 'r', 'g'].iter().position(|one| *one == step).unwrap()];
            let rule = asked.create(0);
            asked.set(rule, 0, POINTWISE_MODE, &[mode]);
            if slips(random, 20) {
                // Some engines of `f64` take such an operation, whose type is then `f32`.
                beyond.0 |= compute == 1;
            } else {
                asked.set(rule, 1, DATA_TYPE, &[compute]);
            }
            asked.finalize("a pointwise rule", rule);
            let parts = match step {
                'r' => vec![(751, from), (753, to)],
                'g' => vec![(751, like), (757, from), (756, to)],
                'b' => vec![(751, from), (752, channels), (753, to)],
                _ => vec![(751, from), (752, like), (753, to)],
            };
            let operation = asked.create(13);
            for (attribute, part) in [(750, rule)].into_iter().chain(parts) {
                if !slips(random, 40) {
                    asked.set_parts(operation, attribute, &[part]);
                }
            }
            spare(asked, random, &[rule]);
            asked.finalize("a pointwise operation", operation);
            operations.push(operation);
        }
        spare(asked, random, &[&flow[..], &[channels, like]].concat());
    }
    beyond.0 |= data_of != [data; 3];
    let graph = asked.create(15);
    if slips(random, 30) {
        operations.push(operations[0]);
    }
    if !slips(random, 30) {
        asked.set_parts(graph, 801, &operations);
    }
    spare(asked, random, &operations);
    if !asked.whole || !asked.finalize("a graph", graph) {
        return None;
    }
    spare(asked, random, &operations);
    let mut any = false;
    for mode in [3, 2] {
        let heuristic = asked.create(4);
        asked.set_parts(heuristic, 201, &[graph]);
        if mode == 2 {
            spare(asked, random, &[graph]);
        }
        asked.set(heuristic, 200, HEURISTIC_MODE, &[mode]);
        asked.set_parts(heuristic, 204, &[asked.device]);
        if asked.finalize("a heuristic", heuristic) {
            let (mut configs, mut returned) = ([0usize; 4], 0);
            configs.iter_mut().for_each(|config| *config = asked.create(3));
            let to = configs.as_mut_ptr().cast();
            // SAFETY: there is room for four.
            let status = unsafe { (asked.of.get)(heuristic, 202, DESCRIPTOR, 4, &raw mut returned, to) };
            asked.answers.push(("ask for proposals".into(), status.into()));
            any |= returned > 0;
        }
    }
    Some(any)
}

/// As many as are asked for by the variable, or enough.
const GRAPHS: u64 = 20_000;

#[test]
fn random_graphs_are_answered_as_by_the_real_library() {
    let Some((own, real)) = both() else { return };
    let on = [described(&own), described(&real)];
    let count = env::var("KILN_GRAPHS").ok().and_then(|text| text.parse().ok()).unwrap_or(GRAPHS);
    let (mut differences, mut stricter, mut proposed) = (Vec::new(), 0, 0);
    for seed in 0..count {
        let mut beyond = Beyond::default();
        let [(got, own_any), (want, any)] = [(&own, on[0]), (&real, on[1])].map(|(of, device)| {
            let mut asked = Asked::new(of, device);
            let mut random = Random(seed);
            let any = random_graph(&mut asked, &mut random, &mut beyond);
            (std::mem::take(&mut asked.answers), any)
        });
        let first = got.iter().zip(&want).find(|(got, want)| got != want);
        let all = &want;
        if let Some((got, want)) = first {
            differences.push(format!("graph {seed}: {got:?}, the real library {want:?}: {all:?}"));
        } else if own_any == Some(true) && any != Some(true) {
            differences.push(format!("graph {seed}: engines are proposed, the real library has none: {want:?}"));
        } else if own_any != any {
            stricter += 1;
            if !beyond.0 {
                differences.push(format!("graph {seed}: the real library has engines for it: {want:?}"));
            }
        }
        proposed += u64::from(any == Some(true));
    }
    println!("{count} graphs, {proposed} with engines, {stricter} of them with none of the simulator's");
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(40)].join("\n")
    );
}
