//! Bars: a panel for each row, a bar for each contender, the least one first.

use super::canvas::{
    ACCENT, Canvas, FAINT, FOOT, GRID, HEAD, INK, MARGIN, OTHER, Scale, Text, WIDTH, with_unit,
};
use super::results::{Figure, Row};
use crate::cli::Result;
use plotters::style::text_anchor::HPos;

/// Of the names, at the left.
const NAMES: i32 = 178;
/// Of what is written after a bar.
const AFTER: i32 = 172;
const STEP: i32 = 22;
const THICKNESS: i32 = 14;
/// Above the bars of a panel, and below.
const TITLE: i32 = 26;
const AXIS: i32 = 34;

pub(super) fn draw(title: &str, rows: &[&Row], machine: &str) -> Result<String> {
    let height = HEAD + rows.iter().map(|row| height_of(row.figures.len())).sum::<i32>() + FOOT;
    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, height, title, machine)?;
    let mut top = HEAD;
    for row in rows {
        panel(&canvas, row, top)?;
        top += height_of(row.figures.len());
    }
    canvas.finish()?;
    Ok(svg)
}

fn height_of(bars: usize) -> i32 {
    TITLE + STEP * i32::try_from(bars).unwrap_or_default() + AXIS
}

fn panel(canvas: &Canvas<'_>, row: &Row, top: i32) -> Result<()> {
    let last = |figure: &Figure| if row.is_latency { figure.p95 } else { figure.median };
    // What is nothing at all is drawn at the lowest end.
    let shown: Vec<f64> = row.figures.iter().flat_map(|it| [it.median, last(it)]).collect();
    let scale = Scale::of_bars(&shown, MARGIN + NAMES, WIDTH - MARGIN - AFTER);
    let how = if scale.is_log() { ", logarithmic" } else { "" };
    let what = if row.is_latency { "; thin: up to 95 %" } else { "" };
    let title = format!("{} ({}{how}; less is better{what})", row.name, row.unit);
    canvas.text(&title, (MARGIN, top + TITLE / 2 - 2), Text { bold: true, ..Text::default() })?;

    let (first, bottom) = (top + TITLE, top + height_of(row.figures.len()) - AXIS);
    for tick in scale.ticks() {
        let x = scale.place(tick);
        canvas.line(vec![(x, first), (x, bottom + 4)], GRID, 1)?;
        let below = Text { size: 11, color: FAINT, anchor: HPos::Center, ..Text::default() };
        canvas.text(&with_unit(tick, &row.unit), (x, bottom + 13), below)?;
    }
    let start = MARGIN + NAMES;
    for (figure, place) in row.figures.iter().zip(0..) {
        let y = first + STEP * place + STEP / 2;
        let (color, ink) = if figure.is_ours() { (ACCENT, ACCENT) } else { (OTHER, INK) };
        let name =
            Text { color: ink, bold: figure.is_ours(), anchor: HPos::Right, ..Text::default() };
        canvas.text(&figure.label, (start - 8, y), name)?;
        // A pixel of it is always to be seen.
        let end = scale.place(figure.median).max(start + 1);
        canvas.bar([(start, y - THICKNESS / 2), (end, y + THICKNESS / 2)], color)?;
        let mut text = with_unit(figure.median, &row.unit);
        let mut after = end;
        if row.is_latency {
            after = scale.place(figure.p95).max(end);
            canvas.line(vec![(end, y), (after, y)], color, 2)?;
            text += &format!(" (95 %: {})", with_unit(figure.p95, &row.unit));
        }
        let value = Text { color: ink, size: 12, bold: figure.is_ours(), ..Text::default() };
        canvas.text(&text, (after + 6, y), value)?;
    }
    Ok(())
}
