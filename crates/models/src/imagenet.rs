//! The names of ImageNet's classes.

/// The names of ImageNet's 1000 classes, in the order of the logits of torchvision's networks: the list
/// `VGG16_Weights.IMAGENET1K_V1.meta["categories"]`.
///
/// ```
/// use kiln_models::IMAGENET_CLASSES;
/// assert_eq!((IMAGENET_CLASSES[0], IMAGENET_CLASSES[281]), ("tench", "tabby"));
/// ```
pub static IMAGENET_CLASSES: [&str; 1000] = lines(include_str!("../assets/imagenet/classes.txt"));

/// Splits a text into lines, each ended by a newline. Evaluated at compile time: a different number of lines does not
/// compile.
const fn lines<const N: usize>(mut text: &str) -> [&str; N] {
    let mut out = [""; N];
    let mut line = 0;
    while line < N {
        let mut end = 0;
        while text.as_bytes()[end] != b'\n' {
            end += 1;
        }
        let (name, rest) = text.split_at(end);
        out[line] = name;
        text = rest.split_at(1).1;
        line += 1;
    }
    assert!(text.is_empty(), "more lines than names");
    out
}
