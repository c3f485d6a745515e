//! What callgrind writes, as far as it is needed here: who executed how many instructions itself.

use std::collections::BTreeMap;

/// Instructions by function and by file.
#[derive(Debug, Default, PartialEq)]
pub struct Profile {
    pub functions: BTreeMap<String, u64>,
    pub files: BTreeMap<String, u64>,
}

impl Profile {
    /// Reads the format of callgrind, without its compression. A line of costs is `LINE COUNT`; the one behind `calls=`
    /// is of the function that was called, which has lines of its own.
    pub fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        let (mut function, mut file) = ("", "");
        let mut of_callee = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = name;
            } else if let Some(name) = ["fl=", "fi=", "fe="].iter().find_map(|key| line.strip_prefix(key)) {
                file = name;
            } else if line.starts_with("calls=") {
                of_callee = true;
            } else if line.starts_with(|first: char| first.is_ascii_digit()) {
                let count = line.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok());
                if let (Some(count), false) = (count, std::mem::take(&mut of_callee)) {
                    *profile.functions.entry(function.to_owned()).or_default() += count;
                    *profile.files.entry(short(file).to_owned()).or_default() += count;
                }
            }
        }
        profile
    }

    /// All instructions.
    pub fn total(&self) -> u64 {
        self.functions.values().sum()
    }
}

/// A file without what only says where this machine keeps it.
fn short(file: &str) -> &str {
    // A package's own folder comes behind that of its registry, whose name is a host and a number.
    if let Some((_, behind)) = file.split_once("/registry/src/") {
        return behind.split_once('/').map_or(behind, |(_, package)| package);
    }
    if let Some((_, behind)) = file.split_once("/rustc/") {
        return behind.split_once('/').map_or(behind, |(_, library)| library);
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let own = root.trim_end_matches("/bench/../");
    file.strip_prefix(own).map_or(file, |inside| inside.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As valgrind 3.19 writes it.
    const DUMP: &str = "\
# callgrind format
version: 1
positions: line
events: Ir
summary: 1162

fl=/rustc/0123abcd/library/core/src/option.rs
fn=alloc::vec::Vec<T,A>::push
12 5
fi=/home/someone/.cargo/registry/src/a-host-0123/rustix-1.1.6/src/net.rs
40 7
fe=/rustc/0123abcd/library/core/src/option.rs
13 1
cfi=./string/memmove.S
cfn=memcpy
calls=3 0
14 1000

fl=./string/memmove.S
fn=memcpy
99 50
100 100
";

    #[test]
    fn costs_belong_to_who_executed_them_and_not_to_who_called() {
        let profile = Profile::parse(DUMP);
        let functions = [("alloc::vec::Vec<T,A>::push", 13), ("memcpy", 150)];
        assert_eq!(profile.functions, functions.map(|(name, count)| (name.to_owned(), count)).into());
        assert_eq!(profile.total(), 163);
        let files =
            [("./string/memmove.S", 150), ("library/core/src/option.rs", 6), ("rustix-1.1.6/src/net.rs", 7)];
        assert_eq!(profile.files, files.map(|(name, count)| (name.to_owned(), count)).into());
    }

    #[test]
    fn own_files_are_named_from_the_root_of_the_tree() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/main.rs");
        assert_eq!(short(own), "bench/src/main.rs");
    }
}
