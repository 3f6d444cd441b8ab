//! Linux: decides by its credentials whether a child can leave its cgroup.
//!
//! A process can leave a cgroup if it can write the `cgroup.procs` of the destination, and that of the common ancestor
//! of both. So a child with the credentials that made the cgroup can leave, and only a child without them is contained
//! completely.
//!
//! Sources: cgroups(7), credentials(7), proc_pid_status(5).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process;

/// Returns whether a child can leave this cgroup with its present credentials, or whether that is unknown.
///
/// The common ancestor is one of the directories above. So the child is held if it lacks capabilities that override
/// permissions, and write permission by the owner and mode of `cgroup.procs` in each of these directories. If the child
/// executes a program with set-user-ID, that program may still leave.
pub(super) fn can_leave(child: u32, cgroup: &Path) -> bool {
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
    let Some(credentials) = Credentials::parse(&status) else { return true };
    // If another part of the program has reaped the child, its ID may have a new owner.
    if credentials.parent != process::id() {
        return true;
    }
    // The root of the cgroup file system has such a file. The directories above it have none.
    let mut any = false;
    for directory in cgroup.ancestors().skip(1) {
        match fs::metadata(directory.join("cgroup.procs")) {
            Ok(file) if credentials.can_write(file.uid(), file.gid(), file.mode()) => return true,
            Ok(_) => any = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return true,
        }
    }
    !any
}

/// The credentials that decide whether a process can write a file.
#[derive(Debug, PartialEq, Eq)]
struct Credentials {
    parent: u32,
    /// Real, effective, saved and file system IDs, between which a process may switch.
    users: Vec<u32>,
    /// Includes the supplementary groups.
    groups: Vec<u32>,
    has_capabilities: bool,
}

impl Credentials {
    /// Parses proc_pid_status(5).
    fn parse(status: &str) -> Option<Self> {
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let ids = |name, all: &mut Vec<u32>| -> Option<()> {
            for id in field(name)?.split_ascii_whitespace() {
                all.push(id.parse().ok()?);
            }
            Some(())
        };
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        ids("Uid:", &mut users)?;
        ids("Gid:", &mut groups)?;
        ids("Groups:", &mut groups)?;
        let mut has_capabilities = false;
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            has_capabilities |= field(set)?.trim().bytes().any(|digit| digit != b'0');
        }
        let parent = field("PPid:")?.trim().parse().ok()?;
        Some(Self { parent, users, groups, has_capabilities })
    }

    fn can_write(&self, owner: u32, group: u32, mode: u32) -> bool {
        // A process may switch between its IDs, and an owner may change the mode.
        self.has_capabilities
            || self.users.contains(&0)
            || self.users.contains(&owner)
            || (self.groups.contains(&group) && mode & 0o020 != 0)
            || mode & 0o002 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::Credentials;

    #[test]
    fn child_can_leave_only_with_write_permission() {
        let status = |uid: &str, gid: &str, groups: &str, effective: &str| {
            format!(
                "Name:\tx\nPPid:\t5\nUid:\t{uid}\nGid:\t{gid}\nGroups:\t{groups}\nCapInh:\t0000000000000000\n\
                 CapPrm:\t{effective}\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n"
            )
        };
        let parse = |text: String| Credentials::parse(&text).expect("all fields are there");
        let none = "0000000000000000";
        let plain = parse(status("7 7 7 7", "8 8 8 8", "9 10", none));
        assert!(!plain.can_write(0, 0, 0o644));
        assert!(plain.can_write(7, 0, 0o400), "the owner may change the mode");
        assert!(plain.can_write(0, 10, 0o664));
        assert!(!plain.can_write(0, 10, 0o644));
        assert!(plain.can_write(0, 0, 0o646));
        let saved = parse(status("7 7 0 7", "8 8 8 8", "", none));
        assert!(saved.can_write(1, 1, 0o600), "a process may switch to its saved user ID");
        let capable = parse(status("7 7 7 7", "8 8 8 8", "", "0000000000000002"));
        assert!(capable.can_write(1, 1, 0o600));
        assert_eq!(Credentials::parse("Name:\tx\n"), None);
    }
}
