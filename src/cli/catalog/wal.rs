//! `pbkfs wal list`: lists the contents of a catalog's WAL archives.

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::catalog::wal::{Timeline, WalArchive};
use crate::cli::common::{human_bytes, value};
use crate::cli::exit::Code;
use crate::cli::source::CatalogArgs;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::figures::counted;
use crate::pg::Lsn;
use crate::session::SessionError;

/// Inspect the catalog's WAL archive
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "WHAT",
    after_help = "Example:\n  pbkfs wal list -B /srv/backup --instance main"
)]
pub struct WalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    List(ListArgs),
}

/// List timelines, their segments, and the gaps between them
///
/// With --json, names and values are those of pg_probackup's show --archive: a
/// segment stored both plain and compressed counts twice, and a timeline of which
/// only the history exists is omitted. In addition, partial segments are listed, and
/// timelines that have no others.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs wal list -B /srv/backup
  pbkfs wal list -B /srv/backup --instance main --json | jq '.instances[].timelines[].\"lost-segments\"'")]
pub struct ListArgs {
    #[command(flatten)]
    source: CatalogArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The format version of the output of `--json`.
const VERSION: u32 = 1;

/// Output of `--json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    version: u32,
    /// The catalog's instances, or only the requested one.
    instances: Vec<InstanceReport>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct InstanceReport {
    /// The instance's name.
    instance: String,
    /// Timelines that have WAL, newest first.
    timelines: Vec<TimelineReport>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct TimelineReport {
    /// The timeline's number.
    tli: u32,
    /// The timeline that it branched from; 0 if none is known.
    parent_tli: u32,
    /// LSN at which it branched from that timeline.
    switchpoint: String,
    /// Its first segment; empty if it has none.
    min_segno: String,
    /// Its last segment; empty if it has none.
    max_segno: String,
    /// Number of files of its segments.
    n_segments: usize,
    /// Stored size in bytes.
    size: u64,
    /// OK, or DEGRADED if segments are lost or broken.
    status: &'static str,
    /// Gaps in its segments.
    lost_segments: Vec<LostReport>,
    /// Segments whose file is empty or has the wrong size.
    broken_segments: Vec<String>,
    /// Segments of which only the beginning is archived.
    partial_segments: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct LostReport {
    /// First missing segment.
    begin_segno: String,
    /// Last missing segment.
    end_segno: String,
}

impl TimelineReport {
    fn new(archive: &WalArchive, timeline: &Timeline) -> Self {
        let parent = timeline.history.parent();
        let range = timeline.range();
        let lost_segments: Vec<LostReport> = timeline
            .gaps()
            .iter()
            .map(|gap| LostReport {
                begin_segno: archive.name(gap.first),
                end_segno: archive.name(gap.last),
            })
            .collect();
        let broken_segments: Vec<String> =
            timeline.broken_ids().map(|id| archive.name(id)).collect();
        Self {
            tli: timeline.number,
            parent_tli: parent.map_or(0, |parent| parent.timeline),
            switchpoint: parent.map_or(Lsn(0), |parent| parent.end).to_string(),
            min_segno: range.map_or(String::new(), |(first, _)| archive.name(first)),
            max_segno: range.map_or(String::new(), |(_, last)| archive.name(last)),
            n_segments: timeline.files(),
            size: timeline.stored(),
            status: match lost_segments.is_empty() && broken_segments.is_empty() {
                true => "OK",
                false => "DEGRADED",
            },
            lost_segments,
            broken_segments,
            partial_segments: timeline.partial_ids().map(|id| archive.name(id)).collect(),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &WalArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let What::List(args) = &args.what;
    log::init(verbosity, None);
    let (catalog, names) = args.source.open()?;
    let mut reports = Vec::new();
    for name in names {
        let archive = WalArchive::open(&catalog.instance(&name)?)?;
        // pg_probackup lists the newest first.
        let timelines = archive.list()?.timelines;
        reports.push(InstanceReport {
            instance: name,
            timelines: timelines
                .iter()
                .rev()
                .filter(|timeline| timeline.has_wal())
                .map(|timeline| TimelineReport::new(&archive, timeline))
                .collect(),
        });
    }
    let report = Report {
        version: VERSION,
        instances: reports,
    };
    output::document(args.json, &report, |report| {
        report.instances.iter().for_each(print);
    });
    Ok(Code::Done)
}

fn print(report: &InstanceReport) {
    say!("instance {}", value(&report.instance));
    if report.timelines.is_empty() {
        say!("    its WAL archive is empty");
    }
    for timeline in &report.timelines {
        let parent = match timeline.parent_tli {
            0 => String::new(),
            parent => format!(", from {parent} at {}", timeline.switchpoint),
        };
        let range = match timeline.n_segments {
            0 => "no complete segment".to_owned(),
            _ => format!("{} to {}", timeline.min_segno, timeline.max_segno),
        };
        say!(
            "    timeline {}{parent}: {range}, {}, {}, {}",
            timeline.tli,
            counted(timeline.n_segments, "segment"),
            human_bytes(timeline.size),
            timeline.status,
        );
        for gap in &timeline.lost_segments {
            match gap.begin_segno == gap.end_segno {
                true => say!("        missing {}", gap.begin_segno),
                false => say!("        missing {} to {}", gap.begin_segno, gap.end_segno),
            }
        }
        for name in &timeline.broken_segments {
            say!("        {name} has the wrong size");
        }
        for name in &timeline.partial_segments {
            say!("        only the beginning of {name} is archived");
        }
    }
}
