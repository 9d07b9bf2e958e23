//! Line search for the strong Wolfe conditions, with cubic interpolation (Nocedal & Wright, 2006, algorithms 3.5 and 3.6).

use kiln_tensor::{Result, Tensor};

/// The loss and its gradient at a point.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub loss: f64,
    pub gradient: Tensor,
}

/// The result of a search.
pub(super) struct Found {
    pub point: Point,
    pub t: f64,
    pub evaluations: usize,
}

/// A point on the line.
#[derive(Clone)]
struct Place {
    t: f64,
    point: Point,
    /// The derivative along the line.
    slope: f64,
}

/// The required decrease, as a fraction of the decrease that the slope predicts.
const DECREASE: f64 = 1e-4;
/// The fraction of the initial slope that may remain.
const CURVATURE: f64 = 0.9;

/// The minimum of the cubic through two points, between two bounds.
fn cubic_minimum(a: &Place, b: &Place, bounds: Option<(f64, f64)>) -> f64 {
    let (least, most) = bounds.unwrap_or(if a.t <= b.t { (a.t, b.t) } else { (b.t, a.t) });
    let d1 = a.slope + b.slope - 3.0 * (a.point.loss - b.point.loss) / (a.t - b.t);
    let square = d1 * d1 - a.slope * b.slope;
    if square < 0.0 || square.is_nan() {
        return (least + most) / 2.0;
    }
    let d2 = square.sqrt();
    let minimum = if a.t <= b.t {
        b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2))
    } else {
        a.t - (a.t - b.t) * ((a.slope + d2 - d1) / (a.slope - b.slope + 2.0 * d2))
    };
    minimum.max(least).min(most)
}

/// Searches for a length that satisfies the conditions, starting at `t`, with at most `most` evaluations after the
/// first. `width` is the largest element of the direction, `slope` the derivative at the start.
pub(super) fn strong_wolfe(
    evaluate: &mut dyn FnMut(f64) -> Result<(Point, f64)>,
    t: f64,
    width: f64,
    start: &Point,
    slope: f64,
    most: usize,
    tolerance_change: f64,
) -> Result<Found> {
    let mut at = |t: f64| evaluate(t).map(|(point, slope)| Place { t, point, slope });
    let zero = Place { t: 0.0, point: start.clone(), slope };
    let too_high = |place: &Place| place.point.loss > start.loss + DECREASE * place.t * slope;
    let flat = |place: &Place| place.slope.abs() <= -CURVATURE * slope;

    // Extends the interval until the minimum is between two points.
    let mut previous = zero.clone();
    let mut new = at(t)?;
    let (mut evaluations, mut iterations) = (1, 0);
    let mut bracket = None;
    while iterations < most {
        if too_high(&new)
            || (iterations > 1 && new.point.loss >= previous.point.loss)
            || new.slope >= 0.0 && !flat(&new)
        {
            bracket = Some([previous.clone(), new.clone()]);
            break;
        }
        if flat(&new) {
            return Ok(Found { point: new.point, t: new.t, evaluations });
        }
        let bounds = (new.t + 0.01 * (new.t - previous.t), new.t * 10.0);
        let t = cubic_minimum(&previous, &new, Some(bounds));
        previous = new;
        new = at(t)?;
        evaluations += 1;
        iterations += 1;
    }
    let mut bracket = bracket.unwrap_or([zero, new]);

    // Narrows the interval down.
    let order = |bracket: &[Place; 2]| if bracket[0].point.loss <= bracket[1].point.loss { (0, 1) } else { (1, 0) };
    let (mut low, mut high) = order(&bracket);
    let mut stuck = false;
    while iterations < most {
        let (least, largest) = (bracket[0].t.min(bracket[1].t), bracket[0].t.max(bracket[1].t));
        if (largest - least) * width < tolerance_change {
            break;
        }
        let mut t = cubic_minimum(&bracket[0], &bracket[1], None);
        // Twice close to an end, or at one: take a point a tenth of the interval away from it instead.
        let margin = 0.1 * (largest - least);
        if (largest - t).min(t - least) < margin {
            if stuck || t >= largest || t <= least {
                t = if (t - largest).abs() < (t - least).abs() { largest - margin } else { least + margin };
                stuck = false;
            } else {
                stuck = true;
            }
        } else {
            stuck = false;
        }
        let new = at(t)?;
        evaluations += 1;
        iterations += 1;
        if too_high(&new) || new.point.loss >= bracket[low].point.loss {
            bracket[high] = new;
            (low, high) = order(&bracket);
            continue;
        }
        let done = flat(&new);
        if !done && new.slope * (bracket[high].t - bracket[low].t) >= 0.0 {
            bracket[high] = bracket[low].clone();
        }
        bracket[low] = new;
        if done {
            break;
        }
    }
    let [first, second] = bracket;
    let place = if low == 0 { first } else { second };
    Ok(Found { point: place.point, t: place.t, evaluations })
}
