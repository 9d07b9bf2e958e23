//! A curve of any number of points in bounded memory: neighbors are merged as points are added.

/// A curve never has more points than this; when it would, neighbors are merged.
const MAX_POINTS: usize = 1024;

/// One or several neighboring points of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// The first and the last step.
    pub steps: (i64, i64),
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// How many points these are.
    count: u64,
}

impl Point {
    /// Both as one. Means are weighted before they are added, so that the largest numbers do not overflow.
    fn merged(self, other: Point) -> Point {
        let count = self.count + other.count;
        let weight = other.count as f64 / count as f64;
        Point {
            steps: (self.steps.0.min(other.steps.0), self.steps.1.max(other.steps.1)),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            mean: self.mean * (1.0 - weight) + other.mean * weight,
            count,
        }
    }

    /// The step in the middle.
    pub fn step(&self) -> f64 {
        self.steps.0 as f64 / 2.0 + self.steps.1 as f64 / 2.0
    }
}

/// The values of one tag.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub tag: String,
    pub points: Vec<Point>,
    /// How many values become one point.
    per_point: u64,
    pub last: f64,
    /// How many values were not finite. They are no points.
    pub not_finite: u64,
    /// Whether it has a value that no line has told yet.
    pub is_new: bool,
}

impl Curve {
    pub fn new(tag: &str) -> Curve {
        let tag = tag.to_owned();
        Curve { tag, points: Vec::new(), per_point: 1, last: f64::NAN, not_finite: 0, is_new: false }
    }

    /// The name of its panel, and its own there: what is before and after the first `/` of the tag.
    pub fn names(&self) -> (&str, &str) {
        self.tag.split_once('/').unwrap_or((&self.tag, ""))
    }

    pub fn push(&mut self, value: f64, step: i64) {
        (self.last, self.is_new) = (value, true);
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        let point = Point { steps: (step, step), min: value, max: value, mean: value, count: 1 };
        match self.points.last_mut() {
            Some(last) if last.count < self.per_point => *last = last.merged(point),
            _ => self.points.push(point),
        }
        if self.points.len() > MAX_POINTS {
            self.points =
                self.points.chunks(2).map(|pair| pair[1..].iter().fold(pair[0], |a, b| a.merged(*b))).collect();
            self.per_point *= 2;
        }
    }
}

/// Four significant digits, in the notation that is short.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return if value.is_nan() { "NaN".to_owned() } else { format!("{value}") };
    }
    match size {
        0.0 => "0".to_owned(),
        1e-3..1e6 => format!("{value:.*}", (3.0 - size.log10().floor()).clamp(0.0, 6.0) as usize),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_million_points_become_a_thousand() {
        let mut curve = Curve::new("loss/train");
        for i in 0..10_000_000i64 {
            // A ramp with one spike and some values that are not finite.
            let value = match i {
                5_000_000 => 1e12,
                6_000_000 => f64::NAN,
                6_000_001 => f64::INFINITY,
                _ => i as f64,
            };
            curve.push(value, i);
        }
        assert!(curve.points.len() > MAX_POINTS / 2 - 1 && curve.points.len() <= MAX_POINTS, "{}", curve.points.len());
        assert_eq!(curve.points.iter().map(|point| point.count).sum::<u64>(), 9_999_998);
        assert_eq!((curve.not_finite, curve.last), (2, 9_999_999.0));
        assert_eq!((curve.points[0].steps.0, curve.points.last().unwrap().steps.1), (0, 9_999_999));
        assert_eq!(curve.points.iter().map(|point| point.max).fold(0.0, f64::max), 1e12);
        let spiked = |point: &Point| point.max == 1e12;
        for point in curve.points.iter().filter(|point| !spiked(point)) {
            assert!((point.mean - point.step()).abs() <= 2.0 && point.min <= point.mean && point.mean <= point.max);
        }
        assert_eq!(curve.points.iter().filter(|point| spiked(point)).count(), 1);
        assert!(curve.points.windows(2).all(|pair| pair[0].steps.1 < pair[1].steps.0), "every point is in one place");
    }

    #[test]
    fn means_of_the_largest_numbers_do_not_overflow() {
        let mut curve = Curve::new("x");
        for i in 0..5000 {
            curve.push(if i % 2 == 0 { f64::MAX } else { -f64::MAX }, i64::MIN + i);
        }
        assert!(curve.points.iter().all(|point| point.mean.is_finite() && point.step().is_finite()));
        assert!(curve.points.iter().all(|point| point.mean.abs() < 1e300));
    }

    #[test]
    fn names_of_panels() {
        for (tag, names) in
            [("loss/train", ("loss", "train")), ("loss", ("loss", "")), ("a/b/c", ("a", "b/c")), ("", ("", ""))]
        {
            assert_eq!(Curve::new(tag).names(), names);
        }
    }

    #[test]
    fn numbers_are_short() {
        let texts =
            [0.0, 0.46133, -1.5, 83.4, 12345.6, 999_999.9, 1e6, 2.5e-7, f64::NAN, f64::NEG_INFINITY].map(number);
        let want = ["0", "0.4613", "-1.500", "83.40", "12346", "1000000", "1.00e6", "2.50e-7", "NaN", "-inf"];
        assert_eq!(texts, want);
    }
}
