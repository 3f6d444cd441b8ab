//! Unix: which mechanism keeps a tree together, and how it is spawned.

use super::cgroup::{Cgroup, Place};
use super::cookie::Cookie;
use super::group::Group;
use super::guardian::{self, Bond};
use super::processes::{self, Since};
use super::{Contain, Containment, Leader, Mechanism, Spawned, Wanted, nursery};
use crate::exit::Ask;
use crate::sync::Mutex;
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

/// What only some systems offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct System {
    pub(crate) cgroup: Place,
    /// For the tests: as if the system sent no signal at the death of a parent.
    pub(crate) no_nursery: bool,
}

pub(crate) struct Members {
    by: By,
    /// What ties it to the life of this process.
    bond: Mutex<Option<Bond>>,
}

enum By {
    Group(Group),
    Cgroup(Cgroup),
}

pub(crate) fn spawn(wanted: &Wanted, command: &mut Command) -> io::Result<Spawned> {
    let can_be_asked = true;
    let is_tree = wanted.tree || wanted.system.cgroup != Place::Nowhere;
    if !is_tree && !wanted.kill_with_parent {
        return Ok(Spawned { child: command.spawn()?, members: None, is_tree, can_be_asked });
    }
    if !is_tree && nursery::AVAILABLE && !wanted.system.no_nursery {
        return Ok(Spawned {
            child: nursery::spawn(command)?,
            members: None,
            is_tree,
            can_be_asked,
        });
    }
    let since = Since::now();
    let cookie = Cookie::new();
    let cgroup = Cgroup::create(&wanted.system.cgroup, &cookie)?;
    // What a single child starts is its own business.
    let is_marked = is_tree && cgroup.is_none() && processes::READS_ENVIRONMENTS;
    let cookie = Some(cookie).filter(|_| is_marked);
    let mut bond = if wanted.kill_with_parent {
        Some(guardian::watch(cookie.as_ref(), cgroup.as_ref().map(Cgroup::directory))?)
    } else {
        None
    };
    command.process_group(0);
    let before = cookie.as_ref().map(|cookie| cookie.mark(command));
    let spawned = match &cgroup {
        Some(cgroup) => cgroup.spawn(command),
        None => command.spawn(),
    };
    if let Some(before) = before {
        before.restore(command);
    }
    let child = spawned?;
    let by = match cgroup {
        Some(cgroup) => By::Cgroup(cgroup),
        None => By::Group(Group::new(child.id(), cookie, since)),
    };
    if let (By::Group(_), Some(bond)) = (&by, &mut bond) {
        bond.set_group(Some(child.id()));
    }
    Ok(Spawned {
        child,
        members: Some(Members { by, bond: Mutex::new(bond) }),
        is_tree,
        can_be_asked,
    })
}

impl Members {
    pub(crate) fn signal(&self, leader: &Leader, signal: c_int) -> io::Result<()> {
        match &self.by {
            By::Group(group) => group.signal(leader, signal),
            By::Cgroup(cgroup) => match cgroup.ids() {
                Ok(ids) => cgroup.signal_those(&ids, signal),
                // The leader at least, which takes no descriptor.
                Err(error) => leader.signal(|notice| notice.signal(signal)).and(Err(error)),
            },
        }
    }
}

impl Contain for Members {
    fn pins_the_leader(&self) -> bool {
        matches!(self.by, By::Group(_))
    }

    fn kill(&self, leader: &Leader) -> io::Result<()> {
        match &self.by {
            By::Group(group) => group.kill(leader),
            By::Cgroup(cgroup) => cgroup.kill(),
        }
    }

    fn kill_at_once(&self, leader: &Leader) -> bool {
        match &self.by {
            By::Group(group) => {
                // What goes wrong goes wrong again in the rest.
                let _ = group.signal_group(leader, libc::SIGKILL);
                processes::usable()
            }
            By::Cgroup(cgroup) => cgroup.kill().is_err(),
        }
    }

    fn ask(&self, leader: &Leader, ask: Ask) -> io::Result<bool> {
        // Both in any case: whoever may not be sent the one does not keep the other from the rest.
        let sent = ask.signals().map(|signal| self.signal(leader, signal));
        sent.into_iter().collect::<io::Result<()>>().map(|()| true)
    }

    fn wait_empty(&self, leader: &Leader, deadline: Option<Instant>) -> io::Result<bool> {
        match &self.by {
            By::Group(group) => group.wait_empty(leader, deadline),
            By::Cgroup(cgroup) => cgroup.wait_empty(deadline),
        }
    }

    fn processes(&self, leader: &Leader) -> io::Result<Vec<u32>> {
        match &self.by {
            By::Group(group) => group.processes(leader),
            By::Cgroup(cgroup) => Ok(cgroup.ids()?.into_iter().map(i32::unsigned_abs).collect()),
        }
    }

    fn containment(&self) -> Containment {
        match &self.by {
            By::Group(group) => group.containment(),
            By::Cgroup(_) => Containment::Complete { by: Mechanism::Cgroup },
        }
    }

    fn usage(&self) -> Option<Usage> {
        match &self.by {
            By::Group(_) => None,
            By::Cgroup(cgroup) => cgroup.usage(),
        }
    }

    fn outlives_the_handle(&self) -> bool {
        self.bond.lock().is_some()
    }

    fn leader_is_gone(&self) {
        if let Some(bond) = &mut *self.bond.lock() {
            bond.set_group(None);
        }
    }

    fn done(&self) {
        drop(self.bond.lock().take());
        if let By::Cgroup(cgroup) = &self.by {
            cgroup.done();
        }
    }
}
