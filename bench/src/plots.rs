//! Draws the results as SVG.

use crate::cli::Result;
use crate::report::{Figure, Results, Row, number};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs;
use std::path::Path;

/// A file, its title, its measurements, and what the x axis of its curves shows. Without an axis it has bars.
type Plot = (&'static str, &'static str, &'static [&'static str], Option<&'static str>);

const PLOTS: [Plot; 6] = [
    ("spawn", "Run a program that does nothing, and wait", &["spawn", "timed", "wake"], None),
    ("waiters", "CPU time of a child beside timed waits", &["waiters"], Some("timed waits")),
    ("children", "CPU time of an exit, when many children exit", &["set"], Some("children")),
    ("trees", "Spawn a tree, and kill one", &["tree_spawn", "tree_kill"], None),
    ("capture", "Capture the output of a command", &["capture"], None),
    ("heap", "Run a program from a process with much memory", &["heap"], None),
];

const WIDTH: u32 = 860;
const OURS: RGBColor = RGBColor(0xd9, 0x48, 0x0f);
const OTHER: RGBColor = RGBColor(0x8f, 0xa3, 0xb8);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) fn render(results: &Results, directory: &Path) -> Result<()> {
    for (file, title, measurements, axis) in PLOTS {
        let is_shown = |row: &&Row| {
            measurements.contains(&row.measurement.as_str()) && row.at.is_some() == axis.is_some()
        };
        let rows: Vec<&Row> = results.rows.iter().filter(is_shown).collect();
        let panel = |row: &Row| 60 + 24 * row.figures.len() as u32;
        let height = axis.map_or_else(|| rows.iter().map(|row| panel(row)).sum(), |_| 400);
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, height + 60)).into_drawing_area();
            root.fill(&WHITE)?;
            let (mut plot, foot) = root.titled(title, font(20))?.split_vertically(height);
            text(&foot, &format!("Medians, on {}", results.machine), (14, 14))?;
            match axis {
                Some(axis) => curves(&plot, axis, &rows, results)?,
                None => {
                    for row in rows {
                        let (upper, rest) = plot.split_vertically(panel(row));
                        bars(&upper, row, results)?;
                        plot = rest;
                    }
                }
            }
        }
        fs::write(directory.join(file).with_extension("svg"), svg)?;
    }
    Ok(())
}

fn font(size: u32) -> FontDesc<'static> {
    ("sans-serif", size).into_font()
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32)) -> Result<()> {
    let style = font(16).color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

/// Draws a bar per contender, up to the median, and for a latency a line up to the 95th percentile.
fn bars(area: &Area<'_>, row: &Row, results: &Results) -> Result<()> {
    let end = |figure: &Figure| if row.is_latency { figure.p95 } else { figure.median };
    let latency = if row.is_latency { "; line: up to 95 %" } else { "" };
    text(area, &format!("{} (less is better{latency})", row.name), (14, 24))?;
    let high = row.figures.iter().map(end).fold(0.0, f64::max);
    let place = |figure: f64| 190 + (figure / high * 450.0) as i32;
    for (figure, y) in row.figures.iter().zip((50..).step_by(24)) {
        let (color, middle) = (color(figure, OTHER), place(figure.median));
        text(area, &label(&figure.who, results), (14, y))?;
        area.draw(&Rectangle::new([(190, y - 8), (middle.max(191), y + 8)], color.filled()))?;
        let end = place(end(figure));
        area.draw(&PathElement::new([(middle, y), (end, y)], color.stroke_width(2)))?;
        let p95 = format!(" (95 %: {})", with_unit(figure.p95, &row.unit));
        let value = with_unit(figure.median, &row.unit) + if row.is_latency { &p95 } else { "" };
        text(area, &value, (end + 6, y))?;
    }
    Ok(())
}

/// Draws a curve per contender, and a legend at the right in the order of the last points.
fn curves(area: &Area<'_>, axis: &str, rows: &[&Row], results: &Results) -> Result<()> {
    let last = rows.last().ok_or("a curve without points")?;
    let at: Vec<f64> = rows.iter().filter_map(|row| row.at).map(|at| at as f64).collect();
    let all = rows.iter().flat_map(|row| row.figures.iter().map(|figure| figure.median));
    let (low, high) = all.fold((f64::MAX, 0.0_f64), |(low, high), it| (low.min(it), high.max(it)));
    let (plot, legend) = area.split_horizontally(WIDTH - 270);
    let x = (at[0] * 0.9..at[at.len() - 1] * 1.1).log_scale();
    let mut chart = ChartBuilder::on(&plot)
        .caption("both axes are logarithmic; less is better", font(14))
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(x, (low * 0.8..high * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(axis)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| with_unit(*value, &last.unit))
        .label_style(font(14))
        .draw()?;
    for (place, figure) in last.figures.iter().rev().enumerate() {
        let (red, green, blue) = Palette99::COLORS[place];
        let color = color(figure, RGBColor(red, green, blue));
        let width = if figure.who == "this crate" { 4 } else { 2 };
        let point = |(row, at): (&&Row, &f64)| Some((*at, row.figure(&figure.who)?.median));
        let points = rows.iter().zip(&at).filter_map(point);
        chart.draw_series(LineSeries::new(points, color.stroke_width(width)).point_size(width))?;
        let y = 40 + 24 * place as i32;
        legend.draw(&Rectangle::new([(8, y - 3), (26, y + 3)], color.filled()))?;
        let value = with_unit(figure.median, &last.unit);
        text(&legend, &format!("{}: {value}", label(&figure.who, results)), (34, y))?;
    }
    Ok(())
}

fn color(figure: &Figure, other: RGBColor) -> RGBColor {
    if figure.who.starts_with("this crate") { OURS } else { other }
}

/// Returns the name of a contender, with the version of its package.
fn label(who: &str, results: &Results) -> String {
    match results.versions.get(who) {
        Some(version) if who != "this crate" => format!("{who} {version}"),
        _ => who.to_owned(),
    }
}

fn with_unit(figure: f64, unit: &str) -> String {
    match unit {
        "µs" if figure >= 1e3 => with_unit(figure / 1e3, "ms"),
        _ if figure >= 100.0 => format!("{figure:.0} {unit}"),
        _ => format!("{} {unit}", number(figure)),
    }
}
