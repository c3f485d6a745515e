//! The page of benchmarks: pictures, tables, and how far to trust them. Written whole from a record.

mod sections;
mod table;

use std::{fs, path::Path};

use super::{json, picture, record::Record, spec::is_between};
use crate::error::{Context, Error, Result};

/// The page beside the folder of its pictures.
pub const PAGE: &str = "benchmarks.md";
const FOLDER: &str = "benchmarks";
const RECORD: &str = "result.json";

/// Writes page, pictures and record into a folder, and leaves nothing of an older run beside them.
pub fn write(record: &Record, folder: &Path) -> Result<()> {
    let pictures = folder.join(FOLDER);
    fs::create_dir_all(&pictures).context("making the folder of the page")?;
    let drawn = Pictures::draw(record);
    for (name, picture) in drawn.named() {
        let file = pictures.join(name);
        match picture {
            Some(picture) => fs::write(file, picture).context("writing a picture")?,
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::System { what: "removing a picture of an older run", source: error });
                }
                Ok(()) | Err(_) => {}
            },
        }
    }
    let text = json::write(record).map_err(|error| Error::Usage(format!("writing the record: {error}")))?;
    fs::write(pictures.join(RECORD), text).context("writing the record")?;
    fs::write(folder.join(PAGE), text_of(record, &drawn)).context("writing the page")
}

/// What there is to be seen.
struct Pictures {
    headline: String,
    all: String,
    latency: Option<String>,
    memory: Option<String>,
    scale: Option<String>,
}

impl Pictures {
    fn draw(record: &Record) -> Self {
        Self {
            headline: picture::headline(record),
            all: picture::all(record, |line| !is_between(line)),
            latency: picture::latency(record),
            memory: picture::memory(record),
            scale: picture::scale(record),
        }
    }

    fn named(&self) -> [(&'static str, Option<&String>); 5] {
        [
            ("headline.svg", Some(&self.headline)),
            ("cpu.svg", Some(&self.all)),
            ("latency.svg", self.latency.as_ref()),
            ("memory.svg", self.memory.as_ref()),
            ("scale.svg", self.scale.as_ref()),
        ]
    }
}

/// The page as Markdown.
fn text_of(record: &Record, pictures: &Pictures) -> String {
    let mut page = format!("{}\n", sections::head(record));
    let sections = [
        sections::machine(record),
        sections::cost(record),
        sections::throughput(record),
        sections::latency(record, pictures.latency.is_some()),
        sections::rest(record, pictures.memory.is_some()),
        sections::scale(record, pictures.scale.is_some()),
        sections::placement(record),
        sections::instructions(record),
        sections::targets(record),
        sections::missing(record),
    ];
    for section in sections.into_iter().flatten() {
        page.push_str(&section);
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn page(record: &Record) -> String {
        text_of(record, &Pictures::draw(record))
    }

    #[test]
    fn a_page_has_every_section_and_no_empty_table() {
        let page = page(&sample::record());
        for heading in [
            "# Benchmarks",
            "## What it was measured on",
            "## Processor time for a message",
            "## A busy server",
            "## Latency",
            "## At rest",
            "## More connections",
            "## Handlers on another thread",
            "## Instructions",
            "## Our bounds",
            "## Left out, or failed",
        ] {
            assert!(page.lines().any(|line| line == heading), "`{heading}` is missing:\n{page}");
        }
        let lines: Vec<&str> = page.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if line.starts_with("|---") {
                assert!(
                    lines.get(index + 1).is_some_and(|next| next.starts_with("| ")),
                    "an empty table: {line}"
                );
                assert_eq!(
                    line.matches('|').count(),
                    lines[index - 1].matches('|').count(),
                    "heading and rule differ: {}",
                    lines[index - 1]
                );
            }
        }
        for wrong in ["NaN", "inf", "Some(", "None"] {
            assert!(!page.contains(wrong), "`{wrong}` in:\n{page}");
        }
        assert!(
            !page.contains("Disturbed") && !page.contains("do not trust"),
            "the sample is of a quiet machine"
        );
        assert!(page.contains("it died of threads"), "a failure is told on one line");
    }

    #[test]
    fn a_page_says_first_that_others_cut_in() {
        let mut record = sample::record();
        for cell in &mut record.workloads[1].servers {
            cell.server_waited_ns.iter_mut().for_each(|ns| *ns = 30_000_000);
        }
        let page = page(&record);
        let warning = page.find("Other processes ran during 1 of the 19 workloads").expect("it is said");
        assert!(page.find("## ").is_some_and(|heading| warning < heading), "it is said first");
        assert!(page.contains("Disturbed by other processes: echo:64:1:64 in words"), "{page}");
    }

    #[test]
    fn a_page_of_little_says_only_what_it_knows() {
        let mut record = sample::record();
        record.workloads.retain(|line| line.workload == "echo:64:1:64");
        record.servers.retain(|server| server.name != "anyport logic");
        record.instructions = None;
        let page = page(&record);
        assert!(page.contains("## Processor time for a message"));
        for heading in [
            "## Latency",
            "## At rest",
            "## More connections",
            "## Handlers on",
            "## Instructions",
            "## Left out",
        ] {
            assert!(!page.contains(heading), "`{heading}` has nothing to tell:\n{page}");
        }
    }

    #[test]
    fn every_picture_is_well_formed() {
        let drawn = Pictures::draw(&sample::record());
        for (name, picture) in drawn.named() {
            let picture = picture.unwrap_or_else(|| panic!("{name} was not drawn"));
            let mut open = Vec::new();
            for tag in picture.split('<').skip(1) {
                let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("{name}: `{tag}` does not end"));
                assert_eq!(tag.matches('"').count() % 2, 0, "{name}: {tag}");
                match tag.strip_prefix('/') {
                    Some(closed) => assert_eq!(open.pop(), Some(closed), "{name}"),
                    None if tag.ends_with('/') => {}
                    None => open.push(tag.split(' ').next().unwrap_or_default()),
                }
            }
            assert!(open.is_empty(), "{name}: {open:?} is not closed");
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{name} has a figure that is none");
            assert!(
                !picture.replace("&amp;", "").replace("&lt;", "").replace("&quot;", "").contains('&'),
                "{name}"
            );
        }
    }

    #[test]
    fn a_page_is_written_whole() {
        let folder = std::env::temp_dir().join(format!("compare-page-{}", std::process::id()));
        write(&sample::record(), &folder).expect("it is written");
        let page = fs::read_to_string(folder.join(PAGE)).expect("there is a page");
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            // Other links lead into the project, where the page is meant to lie.
            if link.starts_with(FOLDER) {
                assert!(folder.join(link).exists(), "{link} is not there");
            }
        }
        let text = fs::read_to_string(folder.join(FOLDER).join(RECORD)).expect("there is a record");
        assert!(json::read(&text).is_ok_and(|record| record.commit == "0123456789"));
        fs::remove_dir_all(folder).expect("the folder was ours");
    }
}
