//! The record of a run: `metrics.jsonl` and `metrics.csv`, a line each 20 steps, and `metrics.svg`, a plot of them.

use super::replace::replace;
use super::{Progress, TrainError, perplexity, ratio};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Points of a plotted line at most: more are averaged.
const POINTS: usize = 500;

/// One line of the record. Figures of the held-out data are those of the last evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Share of the run that is done, 0 to 1.
    pub done: f64,
    /// Mean bits per byte of the steps since the last line.
    pub train_bpb: f64,
    /// Held-out bits per byte, mean over the sources, by the model alone.
    pub held_out_bpb: Option<f64>,
    /// 8 over that.
    pub held_out_ratio: Option<f64>,
    /// 2 to the power of that.
    pub held_out_perplexity: Option<f64>,
    /// Bytes trained on in a second.
    pub bytes_per_second: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Norm of the last step's gradient before clipping.
    pub gradient_norm: f32,
}

impl Line {
    pub(super) fn new(p: &Progress, seconds: f64, rate: f64, norm: f32) -> Line {
        Line {
            step: p.step,
            seconds,
            done: p.done,
            train_bpb: p.train,
            held_out_bpb: p.held_out,
            held_out_ratio: p.held_out.map(ratio),
            held_out_perplexity: p.held_out.map(perplexity),
            bytes_per_second: p.speed,
            learning_rate: rate,
            gradient_norm: norm,
        }
    }

    fn csv(&self) -> String {
        let or_empty = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        format!(
            "{},{},{},{},{},{},{},{},{},{}\n",
            self.step,
            self.seconds,
            self.done,
            self.train_bpb,
            or_empty(self.held_out_bpb),
            or_empty(self.held_out_ratio),
            or_empty(self.held_out_perplexity),
            self.bytes_per_second,
            self.learning_rate,
            self.gradient_norm
        )
    }
}

const CSV_HEAD: &str = "step,seconds,done,train_bpb,held_out_bpb,held_out_ratio,held_out_perplexity,\
    bytes_per_second,learning_rate,gradient_norm\n";

/// The record's files, if there is to be one.
pub(super) struct Metrics(Option<Files>);

struct Files {
    directory: PathBuf,
    json: (PathBuf, File),
    csv: (PathBuf, File),
    lines: Vec<Line>,
}

impl Metrics {
    /// Begins a record in `directory`, with the lines up to step `kept` of the one that is there.
    ///
    /// # Errors
    /// The files can not be read or written.
    pub(super) fn open(directory: Option<&Path>, kept: u64) -> Result<Self, TrainError> {
        let Some(directory) = directory else {
            return Ok(Metrics(None));
        };
        std::fs::create_dir_all(directory).map_err(TrainError::io(directory))?;
        let lines = if kept > 0 {
            earlier(&directory.join("metrics.jsonl"), kept)?
        } else {
            Vec::new()
        };
        let begin = |name: &str, text: String| {
            let path = directory.join(name);
            replace(&path, text.as_bytes())?;
            let file = File::options().append(true).open(&path);
            let file = file.map_err(TrainError::io(&path))?;
            Ok::<_, TrainError>((path, file))
        };
        let json = lines.iter().map(json).collect();
        let csv = std::iter::once(CSV_HEAD.to_owned()).chain(lines.iter().map(Line::csv));
        Ok(Metrics(Some(Files {
            directory: directory.to_owned(),
            json: begin("metrics.jsonl", json)?,
            csv: begin("metrics.csv", csv.collect())?,
            lines,
        })))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The files can not be written.
    pub(super) fn write(&mut self, line: Line) -> Result<(), TrainError> {
        let Some(files) = &mut self.0 else {
            return Ok(());
        };
        for ((path, file), text) in [(&mut files.json, json(&line)), (&mut files.csv, line.csv())] {
            file.write_all(text.as_bytes())
                .map_err(TrainError::io(&*path))?;
        }
        files.lines.push(line);
        Ok(())
    }

    /// Draws the plot anew.
    ///
    /// # Errors
    /// The file can not be written.
    pub(super) fn plot(&self) -> Result<(), TrainError> {
        match &self.0 {
            Some(files) if !files.lines.is_empty() => {
                let svg = plot(&files.lines).map_err(TrainError::Plot)?;
                replace(&files.directory.join("metrics.svg"), svg.as_bytes())
            }
            _ => Ok(()),
        }
    }
}

fn json(line: &Line) -> String {
    serde_json::to_string(line).unwrap_or_default() + "\n"
}

/// The lines of an interrupted run's record that the run will not write again.
fn earlier(path: &Path, kept: u64) -> Result<Vec<Line>, TrainError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok())
            .filter(|line| line.step <= kept)
            .collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(TrainError::io(path)(e)),
    }
}

/// Bits per byte over steps, in training and held out, as SVG.
fn plot(lines: &[Line]) -> Result<String, String> {
    let chunk = lines.len().div_ceil(POINTS).max(1);
    let train: Vec<(f64, f64)> = lines
        .chunks(chunk)
        .map(|c| {
            let mean = c.iter().map(|l| l.train_bpb).sum::<f64>() / c.len() as f64;
            (c[c.len() - 1].step as f64, mean)
        })
        .collect();
    let mut held_out: Vec<(f64, f64)> = lines
        .iter()
        .filter_map(|l| Some((l.step as f64, l.held_out_bpb?)))
        .collect();
    held_out.dedup_by(|later, earlier| later.1 == earlier.1);
    let all = train.iter().chain(&held_out);
    let top = all.fold(1.0f64, |m, p| m.max(p.1)) * 1.05;
    let right = train.last().map_or(1.0, |p| p.0.max(1.0));
    let mut svg = String::new();
    draw(&mut svg, (right, top), train, held_out).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    (right, top): (f64, f64),
    train: Vec<(f64, f64)>,
    held_out: Vec<(f64, f64)>,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (900, 500)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(15)
        .caption("bits per byte", ("sans-serif", 18))
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("step")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for (name, colour, points) in [("training", BLUE, train), ("held out", RED, held_out)] {
        chart
            .draw_series(LineSeries::new(points, &colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Line {
        let progress = Progress {
            step,
            done: 0.5,
            train: 8.0 / step as f64,
            held_out: (step > 40).then_some(3.0),
            speed: 1000.0,
            workers: 0,
        };
        Line::new(&progress, 1.5, 0.01, 2.0)
    }

    #[test]
    fn record_is_lines_of_json_and_csv_and_a_plot_and_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let read = |name: &str| std::fs::read_to_string(log.join(name)).unwrap();
        let mut metrics = Metrics::open(Some(&log), 0).unwrap();
        for step in [20, 40, 60, 80] {
            metrics.write(line(step)).unwrap();
        }
        metrics.plot().unwrap();
        let whole = (read("metrics.jsonl"), read("metrics.csv"));
        let svg = read("metrics.svg");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for part in ["polyline", "training", "held out", "bits per byte", "step"] {
            assert!(svg.contains(part), "{part}");
        }
        let rows: Vec<&str> = whole.1.lines().collect();
        assert_eq!(rows.len(), 5);
        assert!(rows[0].starts_with("step,seconds,done,train_bpb,"));
        assert_eq!(rows[1], "20,1.5,0.5,0.4,,,,1000,0.01,2");
        assert!(
            rows[3].starts_with("60,") && rows[3].contains(",3,2.66") && rows[3].contains(",8,")
        );

        // The run stopped after step 60, and its checkpoint is from before step 60.
        let mut metrics = Metrics::open(Some(&log), 55).unwrap();
        assert_eq!(read("metrics.csv").lines().count(), 3);
        metrics.write(line(60)).unwrap();
        metrics.write(line(80)).unwrap();
        assert_eq!((read("metrics.jsonl"), read("metrics.csv")), whole);

        Metrics::open(Some(&log), 0).unwrap();
        assert_eq!(read("metrics.jsonl"), "", "a new run begins a new record");
    }
}
