//! The disk of a simulated network: names, and bytes behind them.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::chance::{Chance, Dice};

/// Labels of opened files.
const FILES_FIRST: u64 = 1 << 63;

/// What is behind a name; it lives on under another name, or under none.
#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
    /// Files of drivers that are open on it.
    opens: usize,
    has_name: bool,
}

/// Names a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ContentId(usize);

#[derive(Debug, Default)]
pub(super) struct Disk {
    names: BTreeMap<PathBuf, ContentId>,
    contents: Vec<Content>,
    opened: u64,
    /// Bytes that fit still.
    pub(super) room: Option<u64>,
}

impl Disk {
    /// What is drawn for the next file that is opened.
    pub(super) fn dice(&mut self, chance: &Chance) -> Dice {
        self.opened += 1;
        chance.dice(FILES_FIRST + self.opened - 1)
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.names.keys().any(|name| name.starts_with(path) && name != path)
    }

    /// The content of a name, made if it is missing; it is open until [`close`](Self::close). The kind of error as of a
    /// system, if there can be no such file.
    pub(super) fn open(&mut self, path: &Path) -> Result<ContentId, io::ErrorKind> {
        let mut above = path.ancestors().skip(1);
        if path.as_os_str().is_empty() {
            return Err(io::ErrorKind::NotFound);
        }
        if self.is_folder(path) {
            return Err(io::ErrorKind::InvalidInput);
        }
        if above.any(|folder| self.names.contains_key(folder)) {
            return Err(io::ErrorKind::NotADirectory);
        }
        let content = self.names.get(path).copied().unwrap_or_else(|| {
            let content = ContentId(self.contents.len());
            self.contents.push(Content { has_name: true, ..Content::default() });
            self.names.insert(path.to_owned(), content);
            content
        });
        self.contents[content.0].opens += 1;
        Ok(content)
    }

    pub(super) fn close(&mut self, content: ContentId) {
        self.contents[content.0].opens -= 1;
        self.free_if_gone(content);
    }

    /// Nobody can see again what has no name and is not open.
    fn free_if_gone(&mut self, content: ContentId) {
        let content = &mut self.contents[content.0];
        if !content.has_name && content.opens == 0 {
            *content = Content::default();
        }
    }

    /// Moves a name; whatever had the new one has none any more. False if a folder is in the way.
    pub(super) fn rename(&mut self, from: &Path, to: PathBuf) -> bool {
        let is_free = !self.is_folder(&to);
        if is_free
            && let Some(content) = self.names.remove(from)
            && let Some(replaced) = self.names.insert(to, content)
        {
            self.contents[replaced.0].has_name = false;
            self.free_if_gone(replaced);
        }
        is_free
    }

    pub(super) fn length(&self, content: ContentId) -> u64 {
        self.contents[content.0].bytes.len() as u64
    }

    /// Appends as much as there is room for; gives how much that was.
    pub(super) fn append(&mut self, content: ContentId, bytes: &[u8]) -> usize {
        let room = self.room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
        let fitting = bytes.len().min(room);
        self.contents[content.0].bytes.extend_from_slice(&bytes[..fitting]);
        if let Some(room) = &mut self.room {
            *room -= fitting as u64;
        }
        fitting
    }

    pub(super) fn sync(&mut self, content: ContentId) {
        let content = &mut self.contents[content.0];
        content.synced = content.bytes.len();
    }

    pub(super) fn read(&self, path: &Path) -> Option<&[u8]> {
        self.names.get(path).map(|content| &*self.contents[content.0].bytes)
    }

    pub(super) fn synced(&self, path: &Path) -> Option<&[u8]> {
        let content = &self.contents[self.names.get(path)?.0];
        Some(&content.bytes[..content.synced])
    }

    pub(super) fn names(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rotation_pushes_out_is_freed_once_nobody_has_it_open() {
        let mut disk = Disk::default();
        let name = |place: usize| PathBuf::from(["a.log", "a.log.1"][place]);
        let mut contents = Vec::new();
        for _ in 0..3 {
            disk.rename(&name(0), name(1));
            contents.push(disk.open(&name(0)).unwrap());
            disk.append(*contents.last().unwrap(), b"bytes");
        }
        // The first has no name any more, and is open still.
        let lengths = |disk: &Disk| contents.iter().map(|content| disk.length(*content)).collect::<Vec<_>>();
        assert_eq!(lengths(&disk), [5, 5, 5]);
        for content in &contents {
            disk.close(*content);
        }
        assert_eq!(lengths(&disk), [0, 5, 5]);
        disk.rename(&name(0), name(1));
        assert_eq!(lengths(&disk), [0, 0, 5]);
        assert_eq!(disk.read(&name(1)), Some(&b"bytes"[..]));
    }
}
