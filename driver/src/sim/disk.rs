//! The disk of a simulated network: names, and bytes behind them.

use std::{
    collections::BTreeMap,
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

    /// The content of a name, made if it is missing. `None` if the path is a folder, or a part of it is a file.
    pub(super) fn open(&mut self, path: &Path) -> Option<ContentId> {
        let mut above = path.ancestors().skip(1);
        if path.as_os_str().is_empty()
            || self.is_folder(path)
            || above.any(|folder| self.names.contains_key(folder))
        {
            return None;
        }
        if let Some(content) = self.names.get(path) {
            return Some(*content);
        }
        let content = ContentId(self.contents.len());
        self.contents.push(Content::default());
        self.names.insert(path.to_owned(), content);
        Some(content)
    }

    /// Moves a name; whatever had the new one has none any more. False if a folder is in the way.
    pub(super) fn rename(&mut self, from: &Path, to: PathBuf) -> bool {
        let is_free = !self.is_folder(&to);
        if is_free && let Some(content) = self.names.remove(from) {
            self.names.insert(to, content);
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
