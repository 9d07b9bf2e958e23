//! RGB to HSV and back, for hue adjustments: in bytes with Pillow's rounding, and in floats with torchvision's
//! formulas.

/// Hue, saturation and value as in Pillow's mode `HSV`: a hue of 255 is a full turn.
pub(super) fn hsv_of_rgb_bytes([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(max - v) / range);
    let sixths = if r == max {
        f64::from(bc - gc)
    } else if g == max {
        2.0 + f64::from(rc) - f64::from(bc)
    } else {
        4.0 + f64::from(gc) - f64::from(rc)
    };
    let hue = (sixths as f32 as f64 / 6.0 + 1.0) % 1.0;
    [(hue as f32 as f64 * 255.0) as u8, (f64::from(range / f32::from(max)) * 255.0) as u8, max]
}

/// The inverse of [`hsv_of_rgb_bytes`].
pub(super) fn rgb_of_hsv_bytes([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixths = f32::from(h) as f64 * 6.0 / 255.0;
    let sector = sixths.floor();
    let rest = (sixths - sector) as f32 as f64;
    let share = (f64::from(s) / 255.0) as f32 as f64;
    let byte = |x: f64| (f64::from(v) * x).round() as u8;
    let (p, q, t) = (byte(1.0 - share), byte(1.0 - share * rest), byte(1.0 - share * (1.0 - rest)));
    sector_of(sector as u8, v, p, q, t)
}

/// The color in one of the six sectors of the color wheel.
fn sector_of<T>(sector: u8, v: T, p: T, q: T, t: T) -> [T; 3] {
    match sector % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Hue, saturation and value, each in `[0, 1]`.
pub(super) fn hsv_of_rgb([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    let range = max - min;
    if range == 0.0 {
        return [0.0, 0.0, max];
    }
    let [rc, gc, bc] = [r, g, b].map(|v| (max - v) / range);
    let sixths = if r == max {
        bc - gc
    } else if g == max {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    [(sixths / 6.0 + 1.0) % 1.0, range / max, max]
}

/// The inverse of [`hsv_of_rgb`].
pub(super) fn rgb_of_hsv([h, s, v]: [f32; 3]) -> [f32; 3] {
    let sector = (h * 6.0).floor();
    let rest = h * 6.0 - sector;
    let [p, q, t] = [1.0 - s, 1.0 - s * rest, 1.0 - s * (1.0 - rest)].map(|x| (v * x).clamp(0.0, 1.0));
    sector_of(sector as u8, v, p, q, t)
}
