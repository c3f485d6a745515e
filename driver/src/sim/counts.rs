//! How often each fault fired, and where.

use std::{fmt, ops::AddAssign};

use super::faults::{CLASS_COUNT, FaultClass};
use crate::types::OpKind;

/// Where a fault fired.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultSite {
    /// In the network, between two sockets.
    Network,
    /// In an operation.
    Op(OpKind),
    /// In [`Driver::open`](crate::Driver::open).
    Open,
    /// In [`Driver::listen`](crate::Driver::listen).
    Listen,
    /// In [`Driver::wait`](crate::Driver::wait).
    Wait,
    /// In [`Driver::open_file`](crate::Driver::open_file).
    OpenFile,
}

const SITES: [(FaultSite, &str); 14] = [
    (FaultSite::Network, "network"),
    (FaultSite::Op(OpKind::Accept), "accept"),
    (FaultSite::Op(OpKind::Connect), "connect"),
    (FaultSite::Op(OpKind::Receive), "receive"),
    (FaultSite::Op(OpKind::Send), "send"),
    (FaultSite::Op(OpKind::Shutdown), "shutdown"),
    (FaultSite::Op(OpKind::Close), "close"),
    (FaultSite::Open, "open"),
    (FaultSite::Listen, "listen"),
    (FaultSite::Wait, "wait"),
    (FaultSite::OpenFile, "open-file"),
    (FaultSite::Op(OpKind::Append), "append"),
    (FaultSite::Op(OpKind::Sync), "sync"),
    (FaultSite::Op(OpKind::Rotate), "rotate"),
];

impl FaultSite {
    fn column(self) -> usize {
        match self {
            Self::Network => 0,
            Self::Op(OpKind::Accept) => 1,
            Self::Op(OpKind::Connect) => 2,
            Self::Op(OpKind::Receive) => 3,
            Self::Op(OpKind::Send) => 4,
            Self::Op(OpKind::Shutdown) => 5,
            Self::Op(OpKind::Close) => 6,
            Self::Open => 7,
            Self::Listen => 8,
            Self::Wait => 9,
            Self::OpenFile => 10,
            Self::Op(OpKind::Append) => 11,
            Self::Op(OpKind::Sync) => 12,
            Self::Op(OpKind::Rotate) => 13,
            // No fault fires there: a file closes.
            Self::Op(OpKind::CloseFile) => unreachable!("no fault has this site"),
        }
    }
}

/// How often each class of fault fired at each site. Add several up to see a whole swarm.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FaultCounts {
    hits: [[u64; SITES.len()]; CLASS_COUNT],
}

impl FaultCounts {
    pub(super) fn hit(&mut self, class: FaultClass, site: FaultSite) {
        self.hits[class as usize][site.column()] += 1;
    }

    /// How often `class` fired at `site`.
    pub fn of(&self, class: FaultClass, site: FaultSite) -> u64 {
        self.hits[class as usize][site.column()]
    }

    /// How often `class` fired.
    pub fn total(&self, class: FaultClass) -> u64 {
        self.hits[class as usize].iter().sum()
    }

    /// The sites where `class` can fire at all: what a matrix without a gap has hits in.
    pub fn sites(class: FaultClass) -> &'static [FaultSite] {
        use FaultSite::{Listen, Network, Op, Open, OpenFile, Wait};
        match class {
            FaultClass::Instant
            | FaultClass::Late
            | FaultClass::Reset
            | FaultClass::Clog
            | FaultClass::Silence
            | FaultClass::TinyBuffer
            | FaultClass::SpuriousTurn => &[Network],
            FaultClass::Accept => &[Op(OpKind::Accept)],
            FaultClass::Connect => &[Op(OpKind::Connect)],
            FaultClass::Open => &[Open],
            FaultClass::Listen => &[Listen],
            FaultClass::Receive | FaultClass::Drought => &[Op(OpKind::Receive)],
            FaultClass::Send => &[Op(OpKind::Send)],
            FaultClass::Shutdown => &[Op(OpKind::Shutdown)],
            FaultClass::CancelLate => &[Op(OpKind::Receive), Op(OpKind::Send), Op(OpKind::Close)],
            FaultClass::SlowClose => &[Op(OpKind::Close)],
            FaultClass::SpuriousWake | FaultClass::SmallBatch => &[Wait],
            FaultClass::FileOpen => &[OpenFile],
            FaultClass::FileFull => &[Op(OpKind::Append)],
            FaultClass::FileSync => &[Op(OpKind::Sync)],
            FaultClass::FileRotate => &[Op(OpKind::Rotate)],
            FaultClass::FileSlow => &[Op(OpKind::Append), Op(OpKind::Sync), Op(OpKind::Rotate)],
        }
    }
}

impl AddAssign<&Self> for FaultCounts {
    fn add_assign(&mut self, other: &Self) {
        for (row, others) in self.hits.iter_mut().zip(&other.hits) {
            for (hits, more) in row.iter_mut().zip(others) {
                *hits += more;
            }
        }
    }
}

/// A table: a line for each class, a column for each site.
impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14}", "fault")?;
        for (_, name) in SITES {
            write!(f, " {name:>9}")?;
        }
        for class in FaultClass::ALL {
            write!(f, "\n{class:<14}")?;
            for (site, _) in SITES {
                let hits = self.of(class, site);
                if hits > 0 || Self::sites(class).contains(&site) {
                    write!(f, " {hits:>9}")?;
                } else {
                    write!(f, " {:>9}", "")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_where_they_were_and_add_up() {
        let mut counts = FaultCounts::default();
        counts.hit(FaultClass::Receive, FaultSite::Op(OpKind::Receive));
        counts.hit(FaultClass::Reset, FaultSite::Network);
        let once = counts.clone();
        counts += &once;
        assert_eq!(counts.of(FaultClass::Reset, FaultSite::Network), 2);
        assert_eq!(counts.of(FaultClass::Reset, FaultSite::Wait), 0);
        assert_eq!(counts.total(FaultClass::Receive), 2);
        let table = counts.to_string();
        assert_eq!(table.lines().count(), 1 + FaultClass::ALL.len());
        assert!(table.lines().any(|line| line.starts_with("reset") && line.contains(" 2")), "{table}");
    }

    #[test]
    fn every_site_has_its_own_column() {
        for (column, (site, name)) in SITES.into_iter().enumerate() {
            assert_eq!(site.column(), column, "{name}");
        }
        assert!(FaultClass::ALL.iter().all(|class| !FaultCounts::sites(*class).is_empty()));
    }
}
