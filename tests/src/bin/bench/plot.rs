//! Throughput over time, with the backup marked: one picture for each tool, on the same axes for all tools of a server.

use std::path::Path;

use plotters::prelude::*;

use crate::measure::median;
use crate::plan::Load;
use crate::rounds::{Ground, Sample};
use crate::ways::Way;

const SIZE: (u32, u32) = (900, 320);

/// Writes the pictures of a server into `dir`; gives title and name of each.
pub fn write(ground: &Ground, dir: &Path) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for (load, samples) in &ground.loads {
        let shown: Vec<&Sample> = ground.ways[1..3]
            .iter()
            .filter_map(|way| middle(samples, *way))
            .collect();
        let axes = Axes::around(&shown);
        for sample in shown {
            let title = title(ground, load, sample.way);
            let name = format!("{}.svg", title.replace([',', ' '], "-").replace("--", "-"));
            draw(sample, axes, &title, &dir.join(&name))
                .unwrap_or_else(|e| panic!("Cannot draw {name}: {e}"));
            pictures.push((title, name));
        }
    }
    pictures
}

fn title(ground: &Ground, load: &Load, way: Way) -> String {
    let Load { script, threads } = load;
    format!(
        "{}, {script}, {threads} threads, {}",
        ground.server,
        way.name()
    )
}

/// The round with the median loss.
fn middle(samples: &[Sample], way: Way) -> Option<&Sample> {
    let of_way = || samples.iter().filter(|sample| sample.way == way);
    let loss = median(of_way().map(|sample| sample.cost.lost_seconds));
    of_way().find(|sample| sample.cost.lost_seconds == loss)
}

#[derive(Clone, Copy)]
struct Axes {
    from: f64,
    to: f64,
    tps_max: f64,
}

impl Axes {
    fn around(samples: &[&Sample]) -> Axes {
        let points = || samples.iter().flat_map(|sample| &sample.course.tps);
        Axes {
            from: points().map(|point| point.0).fold(0.0, f64::min),
            to: points().map(|point| point.0).fold(0.0, f64::max),
            tps_max: points().map(|point| point.1).fold(0.0, f64::max) * 1.15,
        }
    }
}

fn draw(
    sample: &Sample,
    axes: Axes,
    title: &str,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(axes.from..axes.to, 0.0..axes.tps_max)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|tps| format!("{tps:.0}"))
        .x_desc("seconds since the backup began")
        .y_desc("transactions/s")
        .draw()?;
    let corners = [(0.0, 0.0), (sample.seconds, axes.tps_max)];
    chart.draw_series([Rectangle::new(corners, BLUE.mix(0.08).filled())])?;
    for (number, (phase, at)) in sample.course.phases.iter().enumerate() {
        let line = vec![(*at, 0.0), (*at, axes.tps_max)];
        chart.draw_series([PathElement::new(line, BLUE.mix(0.4))])?;
        // One below the other: the last phases are milliseconds apart.
        let height = axes.tps_max * (0.98 - 0.06 * number as f64);
        let style = ("sans-serif", 11).into_font().color(&BLUE);
        chart.draw_series([Text::new(format!(" {phase}"), (*at, height), style)])?;
    }
    chart.draw_series(LineSeries::new(
        sample.course.tps.iter().copied(),
        BLACK.stroke_width(2),
    ))?;
    area.present()?;
    Ok(())
}
