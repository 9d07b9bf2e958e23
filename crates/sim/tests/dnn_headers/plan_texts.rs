//! Plans as text: the simulator restores what the real library writes, and both refuse the same texts.
use kiln_sim::types::*;

use crate::libraries::{Asked, both};

/// A plan's text as each library writes it; with a heuristic, the first proposal that can be finalized.
fn plan_text(asked: &mut Asked, fused: bool, direction: usize) -> Vec<u8> {
    let graph = plain_graph(asked, fused, direction);
    for mode in [3, 2] {
        let heuristic = asked.create(4);
        asked.set_parts(heuristic, 201, &[graph]);
        asked.set(heuristic, 200, HEURISTIC_MODE, &[mode]);
        asked.set_parts(heuristic, 204, &[asked.device]);
        assert!(asked.finalize("a heuristic", heuristic), "{:?}", asked.answers);
        let mut returned = 0;
        let mut configs = [(); 8].map(|()| asked.create(3));
        // SAFETY: there is room for as many.
        unsafe { (asked.of.get)(heuristic, 202, DESCRIPTOR, 8, &raw mut returned, configs.as_mut_ptr().cast()) };
        for config in &configs[..returned as usize] {
            let plan = asked.create(5);
            asked.set_parts(plan, 401, &[*config]);
            asked.set_parts(plan, 407, &[asked.device]);
            if asked.finalize("a plan", plan) {
                return text_of(asked, plan);
            }
        }
    }
    panic!("no plan: {:?}", asked.answers);
}

fn text_of(asked: &Asked, plan: usize) -> Vec<u8> {
    let mut count = 0;
    // SAFETY: only the length is written, and then as many bytes as there is room for.
    unsafe {
        assert_eq!((asked.of.get)(plan, 405, CHAR, 0, &raw mut count, std::ptr::null_mut()), 0);
        let mut text = vec![0u8; count as usize];
        assert_eq!((asked.of.get)(plan, 405, CHAR, count, &raw mut count, text.as_mut_ptr().cast()), 0);
        text.truncate(count as usize);
        text
    }
}

/// A convolution of 2 images, with a bias and ReLU if it is fused.
fn plain_graph(asked: &mut Asked, fused: bool, direction: usize) -> usize {
    let tensor = |asked: &mut Asked, uid: i64, dims: [i64; 4], data: i32, is_virtual: bool| {
        let desc = asked.create(17);
        let [_, c, h, w] = dims;
        asked.set(desc, 906, INT64, &[uid]);
        asked.set(desc, 901, DATA_TYPE, &[data]);
        asked.set(desc, 902, INT64, &dims);
        asked.set(desc, 903, INT64, &[h * w * c, 1, w * c, c]);
        asked.set(desc, 900, INT64, &[16i64]);
        if is_virtual {
            asked.set(desc, 907, BOOLEAN, &[true]);
        }
        asked.finalize("a tensor", desc);
        desc
    };
    let [x, w, y] = [(1, [2, 16, 9, 8]), (2, [24, 16, 3, 3]), (3, [2, 24, 9, 8])]
        .map(|(uid, dims)| tensor(asked, uid, dims, 2, false));
    let rule = asked.create(1);
    asked.set(rule, 100, DATA_TYPE, &[0i32]);
    asked.set(rule, 101, CONVOLUTION_MODE, &[1i32]);
    asked.set(rule, 106, INT64, &[2i64]);
    [102, 103, 104, 105].iter().for_each(|attribute| asked.set(rule, *attribute, INT64, &[1i64, 1]));
    asked.finalize("a convolution", rule);
    let (kind, [to_x, to_w, to_y, to_rule, alpha, beta]) = [
        (10, [704, 703, 705, 702, 700, 701]),
        (12, [710, 709, 711, 708, 706, 707]),
        (11, [716, 715, 717, 714, 712, 713]),
    ][direction];
    let between = [10, 11].map(|uid| fused.then(|| tensor(asked, uid, [2, 24, 9, 8], 0, true)));
    let operation = asked.create(kind);
    for (attribute, part) in [(to_x, x), (to_w, w), (to_y, between[0].unwrap_or(y)), (to_rule, rule)] {
        asked.set_parts(operation, attribute, &[part]);
    }
    asked.set(operation, alpha, FLOAT, &[1.0f32]);
    asked.set(operation, beta, FLOAT, &[0.0f32]);
    asked.finalize("an operation", operation);
    let mut operations = vec![operation];
    if let [Some(sum), Some(biased)] = between {
        let bias = tensor(asked, 4, [1, 24, 1, 1], 2, false);
        for (mode, x, b, y) in [(0, sum, Some(bias), biased), (100, biased, None, y)] {
            let rule = asked.create(0);
            asked.set(rule, 0, POINTWISE_MODE, &[mode]);
            asked.set(rule, 1, DATA_TYPE, &[0i32]);
            asked.finalize("a pointwise rule", rule);
            let operation = asked.create(13);
            for (attribute, part) in [(750, Some(rule)), (751, Some(x)), (752, b), (753, Some(y))] {
                part.into_iter().for_each(|part| asked.set_parts(operation, attribute, &[part]));
            }
            asked.finalize("a pointwise operation", operation);
            operations.push(operation);
        }
    }
    let graph = asked.create(15);
    asked.set_parts(graph, 801, &operations);
    assert!(asked.finalize("a graph", graph), "{:?}", asked.answers);
    graph
}

/// What a library answers to a text as a plan for its device.
fn status_of(asked: &mut Asked, text: &[u8]) -> u32 {
    let plan = asked.create(5);
    asked.set_parts(plan, 407, &[asked.device]);
    asked.set(plan, 405, CHAR, text);
    // SAFETY: a descriptor.
    unsafe { (asked.of.finalize)(plan) }
}

#[test]
fn texts_of_plans_are_taken_as_by_the_real_library() {
    let Some((own, real)) = both() else { return };
    let mut both = [&own, &real].map(|of| Asked::new(of, 0));
    for asked in &mut both {
        asked.device = asked.describe(3);
    }
    for (fused, direction) in [(false, 0), (true, 0), (false, 1), (false, 2)] {
        let [of_own, of_real] = both.each_mut().map(|asked| plan_text(asked, fused, direction));
        // The simulator takes what the real library writes, but for the version, which may be a later one. (The other way,
        // engines differ.)
        let version_in = |text: &str| {
            let after = text.split("\"cudnnVersion\":").nth(1).unwrap();
            after.chars().take_while(char::is_ascii_digit).collect::<String>()
        };
        let text = String::from_utf8(of_real.clone()).unwrap();
        let versions = [version_in(&String::from_utf8(of_own.clone()).unwrap()), version_in(&text)];
        let texts = versions.each_ref().map(|version| text.replace(&versions[1], version));
        let [own, real] = &mut both;
        assert_eq!(
            [status_of(own, &of_own), status_of(own, texts[0].as_bytes()), status_of(real, &of_real)],
            [0; 3],
            "{direction}"
        );
        let spoilt = |text: &str, version: &str| {
            [
                String::new(),
                "no JSON".into(),
                "[]".into(),
                "{}".into(),
                text[..text.len() / 2].into(),
                text.replace(version, "91900"),
                text.replace("\"schemaVersion\":4", "\"schemaVersion\":3"),
                text.replace("\"multiProcessorCount\":132", "\"multiProcessorCount\":114"),
                text.replace("\"deviceVer\":900", "\"deviceVer\":800"),
                text.replace("\"stride\":[1,1]", "\"stride\":[2,2]"),
                text.replace("[24,16,3,3]", "[24,8,3,3]"),
                text.replace("engineId", "engine"),
                text.replace("GPUProfile", "Profile"),
            ]
        };
        let [for_own, for_real] = [0, 1].map(|side| spoilt(&texts[side], &versions[side]));
        for (for_own, for_real) in for_own.iter().zip(&for_real) {
            let [own, real] = &mut both;
            let (got, want) = (status_of(own, for_own.as_bytes()), status_of(real, for_real.as_bytes()));
            assert!(want != 0 && got == want, "{got}, the real library {want}: {for_own}");
        }
        // A device of another kind.
        let statuses = [0, 1].map(|side| {
            let asked = &mut both[side];
            let other = asked.describe(0);
            let own = std::mem::replace(&mut asked.device, other);
            let status = status_of(asked, texts[side].as_bytes());
            asked.device = own;
            status
        });
        assert_eq!(statuses, [3007; 2]);
    }
}
