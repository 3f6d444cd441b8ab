//! Curves: both axes are logarithmic, and each name is at the end of its line.

use super::canvas::{
    ACCENT, Canvas, FAINT, FOOT, GRID, HEAD, INK, MARGIN, Place, Scale, Text, WIDTH, with_unit,
};
use super::results::{Figure, OURS, Row};
use crate::cli::Result;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

const HEIGHT: i32 = 460;
/// Of the figures, at the left.
const FIGURES: i32 = 56;
/// Of the names, at the right.
const NAMES: i32 = 236;
/// From one name to the next.
const LEADING: i32 = 17;
/// Below the curves.
const AXIS: i32 = 44;

/// Of those that are not this crate, which can be told from each other, and from its colour.
const COLORS: [RGBColor; 10] = [
    RGBColor(0x36, 0x4f, 0xc7),
    RGBColor(0x2b, 0x8a, 0x3e),
    RGBColor(0x86, 0x2e, 0x9c),
    RGBColor(0x0b, 0x72, 0x85),
    RGBColor(0x5c, 0x3d, 0x2e),
    RGBColor(0x49, 0x50, 0x57),
    RGBColor(0x15, 0xaa, 0xbf),
    RGBColor(0xa6, 0x1e, 0x4d),
    RGBColor(0x74, 0xb8, 0x16),
    RGBColor(0xae, 0x3e, 0xc9),
];

struct Curve<'a> {
    label: &'a str,
    color: RGBColor,
    is_ours: bool,
    /// Not one of its other ways.
    is_main: bool,
    places: Vec<Place>,
    last: f64,
}

pub(super) fn draw(title: &str, along: &str, rows: &[&Row], machine: &str) -> Result<String> {
    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, HEIGHT, title, machine)?;
    let unit = &rows[0].unit;
    let (left, right) = (MARGIN + FIGURES, WIDTH - MARGIN - NAMES);
    let (top, bottom) = (HEAD + 14, HEIGHT - FOOT - AXIS);
    let at: Vec<f64> = rows.iter().filter_map(|row| row.at).collect();
    let figures = rows.iter().flat_map(|row| &row.figures);
    let all: Vec<f64> = figures.map(|figure| figure.median).collect();
    let (x, y) = (Scale::of_curve(&at, left, right), Scale::of_curve(&all, bottom, top));

    let note = Text { size: 11, color: FAINT, ..Text::default() };
    canvas.text("both axes are logarithmic; less is better", (left, HEAD - 4), note)?;
    for tick in y.ticks() {
        let height = y.place(tick);
        canvas.line(vec![(left, height), (right, height)], GRID, 1)?;
        let how = Text { anchor: HPos::Right, ..note };
        canvas.text(&with_unit(tick, unit), (left - 8, height), how)?;
    }
    for place in &at {
        let x = x.place(*place);
        canvas.line(vec![(x, top), (x, bottom + 4)], GRID, 1)?;
        let how = Text { anchor: HPos::Center, ..note };
        canvas.text(&with_commas(*place), (x, bottom + 15), how)?;
    }
    let how = Text { anchor: HPos::Center, size: 12, ..Text::default() };
    canvas.text(along, (i32::midpoint(left, right), bottom + 33), how)?;

    let mut curves = curves(rows, &x, &y)?;
    // Whoever is drawn last is on top.
    curves.sort_by_key(|curve| (curve.is_ours, curve.is_main));
    for curve in &curves {
        let (width, radius) = if curve.is_main { (4, 5) } else { (2, 3) };
        canvas.line(curve.places.clone(), curve.color, width)?;
        for place in &curve.places {
            canvas.dot(*place, curve.color, radius)?;
        }
    }
    names(&canvas, &mut curves, unit, right, (top, bottom))?;
    canvas.finish()?;
    Ok(svg)
}

fn curves<'a>(rows: &[&'a Row], x: &Scale, y: &Scale) -> Result<Vec<Curve<'a>>> {
    let last = rows.last().ok_or("a curve of nothing")?;
    let mut colors = COLORS.iter().copied().cycle();
    // In the order of their names, whoever won: so colours stay.
    let mut figures: Vec<&Figure> = last.figures.iter().collect();
    figures.sort_by_key(|figure| &figure.who);
    let curves = figures.into_iter().map(|figure| {
        let places = rows.iter().filter_map(|row| {
            let here = row.figures.iter().find(|it| it.who == figure.who)?;
            Some((x.place(row.at?), y.place(here.median)))
        });
        let is_ours = figure.is_ours();
        Curve {
            label: &figure.label,
            color: if is_ours { ACCENT } else { colors.next().unwrap_or(INK) },
            is_ours,
            is_main: figure.who == OURS,
            places: places.collect(),
            last: figure.median,
        }
    });
    Ok(curves.collect())
}

/// A whole number, with its thousands apart.
fn with_commas(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// As near to the ends of their lines as there is room for all of them.
fn names(
    canvas: &Canvas<'_>,
    curves: &mut [Curve<'_>],
    unit: &str,
    right: i32,
    (top, bottom): (i32, i32),
) -> Result<()> {
    let end = |curve: &Curve<'_>| curve.places.last().copied().unwrap_or_default();
    curves.sort_by_key(|curve| end(curve).1);
    let wanted: Vec<i32> = curves.iter().map(|curve| end(curve).1).collect();
    for (curve, height) in curves.iter().zip(spread(&wanted, LEADING, (top, bottom))) {
        let (x, y) = end(curve);
        canvas.line(vec![(x + 5, y), (right + 22, height)], curve.color, 1)?;
        let text = format!("{}: {}", curve.label, with_unit(curve.last, unit));
        let how = Text { color: curve.color, size: 12, bold: curve.is_ours, ..Text::default() };
        canvas.text(&text, (right + 27, height), how)?;
    }
    Ok(())
}

/// Heights near those wanted, which ascend, none nearer to the next than this.
fn spread(wanted: &[i32], leading: i32, (top, bottom): (i32, i32)) -> Vec<i32> {
    let mut heights = wanted.to_vec();
    // Groups of neighbours that touch are centred on what they want, until no two groups touch.
    for _ in 0..heights.len() {
        let mut first = 0;
        let mut spread = Vec::with_capacity(heights.len());
        while first < heights.len() {
            let mut past = first + 1;
            while past < heights.len() && heights[past] - heights[past - 1] <= leading {
                past += 1;
            }
            let count = i32::try_from(past - first).unwrap_or(1);
            let middle = wanted[first..past].iter().sum::<i32>() / count;
            let highest = middle - leading * (count - 1) / 2;
            spread.extend((0..count).map(|i| highest + leading * i));
            first = past;
        }
        heights = spread;
    }
    let down = heights.first().map_or(0, |first| (top - first).max(0));
    let up = heights.last().map_or(0, |last| (last + down - bottom).max(0));
    heights.iter().map(|height| height + down - up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([100.0, 10_000.0].map(with_commas), ["100", "10,000"]);
    }

    #[test]
    fn names_do_not_overlap() {
        assert_eq!(spread(&[10, 100], 20, (0, 200)), [10, 100]);
        assert_eq!(spread(&[100, 100, 110, 160], 20, (0, 200)), [83, 103, 123, 160]);
        assert_eq!(spread(&[0, 5], 20, (10, 200)), [10, 30]);
    }
}
