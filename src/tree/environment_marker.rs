//! The environment variable that every member of a tree inherits from the leader.
//!
//! A scan uses this variable to recognize a member that has left the process group and whose parent has ended. The
//! variable holds a list of markers, that of the outermost tree first, so a member of a tree within a tree carries
//! both. One variable serves all trees, because std cannot remove a variable from a command that has mentioned it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{self, Command};

const VARIABLE: &str = "SHARED_CHILD_TREE";
const SEPARATOR: u8 = b',';

/// A value that no other tree of any process has, before or after a reboot.
#[derive(Debug, Clone)]
pub(crate) struct EnvironmentMarker(String);

impl EnvironmentMarker {
    pub(super) fn new() -> Self {
        // `RandomState` has random keys from the operating system, which differ each time.
        let random = RandomState::new().hash_one(());
        Self(format!("{:x}-{random:016x}", process::id()))
    }

    /// Adds the marker to the environment of the next child of this command, after the markers of this process and of the
    /// command.
    pub(super) fn mark(&self, command: &mut Command) -> Before {
        let before = Before(explicit(command));
        let mut list = inherited().unwrap_or_default().into_vec();
        for marker in before.0.iter().flatten().flat_map(|value| markers(value.as_bytes())) {
            if !markers(&list).any(|known| known == marker) {
                push(&mut list, marker);
            }
        }
        push(&mut list, self.0.as_bytes());
        command.env(VARIABLE, OsString::from_vec(list));
        before
    }

    /// Returns whether this variable of an environment carries the marker.
    pub(super) fn is_in(&self, variable: &[u8]) -> bool {
        carried_by(variable).any(|marker| marker == self.as_bytes())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Returns the markers in a variable of an environment: none, unless it is the variable of the markers. The guardian
/// calls this in the child of a fork.
pub(super) fn carried_by(variable: &[u8]) -> impl Iterator<Item = &[u8]> {
    let list = variable.strip_prefix(VARIABLE.as_bytes());
    markers(list.and_then(|list| list.strip_prefix(b"=")).unwrap_or(&[]))
}

impl fmt::Display for EnvironmentMarker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The previous setting of the variable in the command: none, a value, or a removal.
#[must_use]
pub(super) struct Before(Option<Option<OsString>>);

impl Before {
    /// Restores the value that later children of the command would have had without the marker. (The command mentions
    /// the variable from now on: std cannot undo that.)
    pub(super) fn restore(self, command: &mut Command) {
        match self.0.unwrap_or_else(inherited) {
            Some(value) => command.env(VARIABLE, value),
            None => command.env_remove(VARIABLE),
        };
    }
}

fn explicit(command: &Command) -> Option<Option<OsString>> {
    let mut all = command.get_envs();
    let (_, value) = all.find(|(name, _)| *name == OsStr::new(VARIABLE))?;
    Some(value.map(OsStr::to_owned))
}

/// Returns the markers of this process, which may be a member of a tree itself.
fn inherited() -> Option<OsString> {
    std::env::var_os(VARIABLE)
}

fn markers(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == SEPARATOR).filter(|marker| !marker.is_empty())
}

fn push(list: &mut Vec<u8>, marker: &[u8]) {
    if !list.is_empty() {
        list.push(SEPARATOR);
    }
    list.extend_from_slice(marker);
}

#[cfg(test)]
mod tests {
    use super::{EnvironmentMarker, VARIABLE, explicit};
    use std::process::Command;

    fn variable(command: &Command) -> Vec<u8> {
        let value = explicit(command).flatten().expect("it is set");
        let value = value.to_str().expect("nothing odd");
        format!("{VARIABLE}={value}").into_bytes()
    }

    #[test]
    fn marker_is_carried_by_one_child_only() {
        let (one, two) = (EnvironmentMarker::new(), EnvironmentMarker::new());
        let mut command = Command::new("program");
        let before = one.mark(&mut command);
        assert!(one.is_in(&variable(&command)));
        before.restore(&mut command);
        assert_eq!(explicit(&command), Some(std::env::var_os(VARIABLE)));
        let before = two.mark(&mut command);
        assert!(two.is_in(&variable(&command)));
        assert!(!one.is_in(&variable(&command)));
        before.restore(&mut command);
    }

    #[test]
    fn variable_of_the_command_is_kept_and_restored() {
        let (theirs, ours) = (EnvironmentMarker::new(), EnvironmentMarker::new());
        let mut command = Command::new("program");
        command.env(VARIABLE, theirs.to_string());
        let before = ours.mark(&mut command);
        assert!(theirs.is_in(&variable(&command)));
        assert!(ours.is_in(&variable(&command)));
        before.restore(&mut command);
        assert_eq!(explicit(&command), Some(Some(theirs.to_string().into())));
    }

    #[test]
    fn marker_is_found_only_as_an_element_of_the_variables_list() {
        let marker = EnvironmentMarker::new();
        for other in [
            format!("OTHER={marker}"),
            format!("X{VARIABLE}={marker}"),
            format!("A={VARIABLE}={marker}"),
            format!("{VARIABLE}={marker}1"),
            format!("{VARIABLE}=1{marker}"),
            format!("{VARIABLE}=1{marker},{marker}2"),
            format!("{VARIABLE}={marker}="),
            VARIABLE.to_owned(),
            format!("={marker}"),
            String::new(),
        ] {
            assert!(!marker.is_in(other.as_bytes()), "{other:?}");
        }
        for list in [format!("{marker}"), format!("1,{marker},2"), format!("1,2,{marker}")] {
            assert!(marker.is_in(format!("{VARIABLE}={list}").as_bytes()), "{list}");
        }
    }
}
