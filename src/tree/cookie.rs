//! The mark that all members of a tree carry in their environment, from the leader down.
//!
//! A process that has left the process group, and whose parents are gone, can still be told by it. It is a
//! variable with a list of cookies, the outermost tree's first, so that a tree within a tree has both. Not a variable
//! each: std cannot forget that a command once mentioned one, and a command may be spawned a million times.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{self, Command};

const VARIABLE: &str = "SHARED_CHILD_TREE";
const SEPARATOR: u8 = b',';

/// Which no other tree has: not one of another process, nor one of before the last boot.
#[derive(Debug, Clone)]
pub(super) struct Cookie(String);

impl Cookie {
    pub(super) fn new() -> Self {
        // Keyed at random, from the operating system, and anew each time.
        let random = RandomState::new().hash_one(());
        Self(format!("{:x}-{random:016x}", process::id()))
    }

    /// Has the next child of this command carry the cookie, beside those that this process has itself.
    pub(super) fn mark(&self, command: &mut Command) -> Before {
        let before = Before(explicit(command));
        let mut list = inherited().unwrap_or_default().into_vec();
        for cookie in before.0.iter().flatten().flat_map(|value| cookies(value.as_bytes())) {
            if !cookies(&list).any(|known| known == cookie) {
                push(&mut list, cookie);
            }
        }
        push(&mut list, self.0.as_bytes());
        command.env(VARIABLE, OsString::from_vec(list));
        before
    }

    /// Whether it is in an environment, as `/proc` shows it.
    pub(super) fn is_in(&self, environment: &[u8]) -> bool {
        carried(environment).any(|cookie| cookie == self.as_bytes())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The markers in an environment, as `/proc` shows it.
pub(super) fn carried(environment: &[u8]) -> impl Iterator<Item = &[u8]> {
    environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))
        .flat_map(cookies)
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the command said of the variable, if anything: a value, or that the child is to have none.
#[must_use]
pub(super) struct Before(Option<Option<OsString>>);

impl Before {
    /// So that a later child of the same command does not carry a cookie that is not its own. std cannot
    /// forget that a variable was mentioned; this comes to the same for the child.
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

/// This process may be in a tree itself.
fn inherited() -> Option<OsString> {
    std::env::var_os(VARIABLE)
}

fn cookies(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == SEPARATOR).filter(|cookie| !cookie.is_empty())
}

fn push(list: &mut Vec<u8>, cookie: &[u8]) {
    if !list.is_empty() {
        list.push(SEPARATOR);
    }
    list.extend_from_slice(cookie);
}

#[cfg(test)]
mod tests {
    use super::{Cookie, VARIABLE, explicit};
    use std::process::Command;

    fn environment(command: &Command) -> Vec<u8> {
        let value = explicit(command).flatten().expect("it is set");
        let value = value.to_str().expect("nothing odd");
        format!("A=1\0{VARIABLE}={value}\0Z=\0").into_bytes()
    }

    #[test]
    fn each_child_carries_its_own() {
        let (one, two) = (Cookie::new(), Cookie::new());
        let mut command = Command::new("program");
        let before = one.mark(&mut command);
        assert!(one.is_in(&environment(&command)));
        before.restore(&mut command);
        assert_eq!(explicit(&command), Some(std::env::var_os(VARIABLE)));
        let before = two.mark(&mut command);
        assert!(two.is_in(&environment(&command)));
        assert!(!one.is_in(&environment(&command)));
        before.restore(&mut command);
    }

    #[test]
    fn what_the_command_says_is_kept_and_restored() {
        let (theirs, ours) = (Cookie::new(), Cookie::new());
        let mut command = Command::new("program");
        command.env(VARIABLE, theirs.to_string());
        let before = ours.mark(&mut command);
        assert!(theirs.is_in(&environment(&command)));
        assert!(ours.is_in(&environment(&command)));
        before.restore(&mut command);
        assert_eq!(explicit(&command), Some(Some(theirs.to_string().into())));
    }

    #[test]
    fn only_the_whole_cookie_in_the_right_variable_counts() {
        let cookie = Cookie::new();
        for other in [
            format!("OTHER={cookie}\0"),
            format!("X{VARIABLE}={cookie}\0"),
            format!("{VARIABLE}={cookie}1\0"),
            format!("{VARIABLE}=1{cookie}\0"),
            format!("{VARIABLE}\0={cookie}\0"),
        ] {
            assert!(!cookie.is_in(other.as_bytes()), "{other:?}");
        }
        assert!(cookie.is_in(format!("{VARIABLE}=1,{cookie},2").as_bytes()));
    }
}
